"""What other processes do to a store: run as ``python store_children.py DEED ARGUMENTS``; says ``ok`` at the end.

The processes are forked from this small one, so that tests may kill many of them in little time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hubpub.errors import StoreError
from hubpub.store import FileDigest, Result, Store, exchange, write_atomic
from hubpub.store import files as store_files


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def fork(deed: Callable[[], None]) -> int:
    """Run ``deed`` in a process of its own; its exit code is 1 when it raised."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        deed()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def join(*pids: int) -> None:
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert not any(codes), codes


def put_bytes(store: Store, data: bytes) -> FileDigest:
    with store.scratch("put") as folder:
        (folder / "file").write_bytes(data)
        return store.put(folder / "file")


# -- deeds


def hold_scratch(root: str) -> None:
    """Say where a scratch folder is, and keep it until killed."""
    with Store(Path(root)) as store, store.scratch("held") as folder:
        (folder / "work").write_text("half done")
        print(folder, flush=True)
        time.sleep(60)


def hold_store(root: str) -> None:
    with Store(Path(root)):
        print("open", flush=True)
        time.sleep(60)


def count(root: str) -> None:
    """Three processes count in one file, a lock around each step."""
    counter = Path(root) / "counter"
    Store(Path(root)).close()
    counter.write_text("0")

    def add() -> None:
        with Store(Path(root)) as store:
            for _ in range(40):
                with store.lock("counter"):
                    before = int(counter.read_text())
                    time.sleep(0.0005)
                    counter.write_text(str(before + 1))

    join(*[fork(add) for _ in range(3)])
    assert counter.read_text() == "120", counter.read_text()


def same_blob(root: str) -> None:
    """Three processes put the same blobs at once, and each reads what it put."""

    def put_all() -> None:
        with Store(Path(root)) as store:
            for number in range(25):
                data = b"%d" % number * 20_000
                assert store.path(put_bytes(store, data).sha256).read_bytes() == data

    join(*[fork(put_all) for _ in range(3)])
    with Store(Path(root)) as store:
        assert len(list(store.blobs())) == 25
        assert not list(store.verify())


def first_opening(root: str) -> None:
    """Many processes open a store that is not there yet."""

    def use(folder: Path) -> None:
        with Store(folder) as store:
            assert store.has(put_bytes(store, b"x").sha256)

    for attempt in range(8):
        folder = Path(root) / str(attempt)
        join(*[fork(lambda folder=folder: use(folder)) for _ in range(4)])  # type: ignore[misc]


def sweep_race(root: str) -> None:
    """Scratch folders are made while other processes open the store, and sweep."""
    end = time.monotonic() + 0.5

    def work() -> None:
        with Store(Path(root)) as store:
            while time.monotonic() < end:
                with store.scratch("busy") as folder:
                    (folder / "a").write_text("a")
                    assert (folder / "a").read_text() == "a"
                    assert folder.with_name(f"{folder.name}.lock").exists()

    def open_and_close() -> None:
        while time.monotonic() < end:
            Store(Path(root)).close()

    join(fork(work), fork(work), fork(open_and_close))
    Store(Path(root)).close()
    assert not list((Path(root) / "scratch").iterdir())


def collect_race(root: str) -> None:
    """Builds come and go while everything old is being removed, which to the collector is everything."""
    end = time.monotonic() + 0.7

    def build(name: str) -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            time.sleep(0.01)  # between builds the collector gets its turn
            with Store(Path(root)) as store:
                digest = put_bytes(store, f"{name} {number % 3}".encode())
                store.save(key_of(name), Result({"out": digest}, {}, {}))
                found = store.result(key_of(name))
                assert found is not None
                assert store.path(found.outputs["out"].sha256).read_bytes() == f"{name} {number % 3}".encode()

    def collect() -> None:
        done = 0
        while time.monotonic() < end:
            with Store(Path(root)) as store:
                try:
                    store.collect(unused_for=0)
                    done += 1
                except StoreError as error:
                    _check("another build" in str(error), error)
        assert done, "never got its turn"

    join(fork(lambda: build("a")), fork(lambda: build("b")), fork(collect))
    with Store(Path(root)) as store:
        assert not list(store.verify())


def kills(root: str, rounds: str) -> None:
    """Kill a busy builder at random moments; whatever it said was saved must be there, and nothing half done."""
    chance = random.Random(20260101)
    store_at = Path(root)
    saved: dict[str, bytes] = {}
    for number in range(int(rounds)):
        reader, writer = os.pipe()
        pid = fork(lambda number=number, writer=writer: _build_without_end(store_at, number, writer))  # type: ignore[misc]
        os.close(writer)
        with os.fdopen(reader, "rb") as said:
            lines = [said.readline() for _ in range(chance.randrange(6))]
            time.sleep(chance.uniform(0, 0.01))  # not even open yet, or in the middle of the next
            os.kill(pid, signal.SIGKILL)
            lines += said.readlines()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        for line in lines:
            key, _, data = line.decode().partition(" ")
            saved[key] = bytes.fromhex(data)
        with Store(store_at) as store:
            assert not list((store_at / "scratch").iterdir()), "scratch was not swept"
            if number % 10 == 9:
                _check_saved(store, saved)
        note = store_at / "note"
        assert not note.exists() or (note.stat().st_size, len(set(note.read_text()))) == (50_000, 1), "half a note"
    with Store(store_at) as store:
        store.collect(unused_for=3600)
        assert not list(store_at.glob("results/*/.*")), "what killed writers left was not removed"
        _check_saved(store, saved)
    assert len(saved) > int(rounds)
    print(f"{rounds} kills, {len(saved)} results")


def _check_saved(store: Store, saved: dict[str, bytes]) -> None:
    assert not list(store.verify())
    for key, data in saved.items():
        found = store.result(key)
        assert found is not None, key
        assert store.path(found.outputs["out"].sha256).read_bytes() == data


def _build_without_end(root: Path, seed: int, writer: int) -> None:
    chance = random.Random(seed)
    with Store(root) as store:
        for number in range(10_000):
            data = chance.choice([b"", b"shared by all", chance.randbytes(chance.choice([1, 400, 60_000]))])
            digest = put_bytes(store, data)
            key = key_of(f"{seed} {number}")
            store.save(key, Result({"out": digest}, {"seed": seed}, {"seconds": 0.1}))
            if len(data) < 1000:  # a line in one write is not torn
                os.write(writer, f"{key} {data.hex()}\n".encode())
            write_atomic(root / "note", str(number % 10).encode() * 50_000)


def exchange_killed(folder: str, renames: str) -> None:
    """Exchange ``new`` and ``live`` where the kernel cannot, and die before the rename of this number."""
    left = int(renames)
    rename = Path.rename

    def rename_or_die(self: Path, target: Path) -> Path:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return rename(self, target)

    store_files.swap_names = lambda one, other: False
    Path.rename = rename_or_die  # type: ignore[assignment,method-assign]
    exchange(Path(folder) / "new", Path(folder) / "live")


def full_disk(root: str) -> None:
    """Fill a small file system; each refusal is one clear line, and nothing of what failed is visible."""
    reserve = Path(root) / "reserve"
    reserve.write_bytes(bytes(64 << 10))  # what is given back in the end is enough to go on with
    store = Store(Path(root) / "store")
    kept: list[FileDigest] = []
    error: StoreError | None = None
    for number in range(1000):
        try:
            with store.scratch("fill") as folder:
                part = folder / "part"
                with store_files.storage_errors("write a file"):
                    part.write_bytes(b"%d" % number * 10_000)
                kept.append(store.put(part))
                store.save(key_of(str(number)), Result({"out": kept[-1]}, {}, {}))
        except StoreError as refused:
            error = refused
            break
    _check_refusal(error)
    ballast = Path(root) / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"b" * size)
    for deed in (
        lambda: write_atomic(Path(root) / "note", b"n" * 100_000),
        lambda: store.save(key_of("another"), Result({}, {"text": "x" * 100_000}, {})),
        lambda: put_bytes(store, b"small"),
    ):
        error = None
        try:
            deed()
        except StoreError as refused:
            error = refused
        except OSError:
            continue  # the file that is to be put could not even be written
        _check_refusal(error)
    assert not (Path(root) / "note").exists()
    assert not list((Path(root) / "store/scratch").iterdir())
    assert store.result(key_of("another")) is None
    assert not list(store.verify())
    assert all(store.path(digest.sha256).stat().st_size == digest.size for digest in kept[:-1])
    store.close()
    with contextlib.suppress(StoreError), Store(Path(root) / "store") as again:  # opening needs no space, or says so
        assert again.has(kept[0].sha256)
    with contextlib.suppress(StoreError):
        Store(Path(root) / "second").close()
    ballast.unlink()
    reserve.unlink()
    with Store(Path(root) / "store") as again:
        assert put_bytes(again, b"there is room again").size == 19


def _check(holds: bool, about: object) -> None:
    assert holds, about


def _check_refusal(error: StoreError | None) -> None:
    assert error is not None, "the disk did not fill up"
    assert "No space left on device" in str(error), error
    assert "free some space" in str(error), error
    assert "\n" not in str(error)


def read_only(root: str) -> None:
    try:
        Store(Path(root)).close()
    except StoreError as error:
        _check("Read-only file system" in str(error), error)
        _check("choose a folder that you may write to" in str(error), error)
    else:
        raise AssertionError("opened")


def main() -> None:
    deed: Callable[..., None] = globals()[sys.argv[1]]
    deed(*sys.argv[2:])
    print("ok")


if __name__ == "__main__":
    main()

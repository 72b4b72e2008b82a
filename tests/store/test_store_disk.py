"""Full disks, limits, read-only folders, and a memory of digests that is damaged or cannot be kept."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_tools import age, child, digest_of, key_of, put_bytes, refuse

from hubpub.errors import StoreError
from hubpub.store import Result, Store, write_atomic
from hubpub.store import files as store_files
from hubpub.store import memory as store_memory
from hubpub.store.memory import DigestMemory, Stamp


def mounted(script: str) -> tuple[str, ...]:
    """A prefix that runs a command with mounts of its own, or a skip where that is not permitted."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here, so nothing can be mounted")
    for options in ("-rm", "-m"):
        command = ("unshare", options, "sh", "-c", f'{script} && exec "$@"', "sh")
        if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    pytest.skip("this machine lets nobody mount a file system")


@pytest.mark.parametrize("kilobytes", [400, 1500])
def test_a_full_disk_is_one_clear_line_and_nothing_half_done_is_visible(tmp_path: Path, kilobytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    child("full_disk", disk, prefix=mounted(f"mount -t tmpfs -o size={kilobytes}k tmpfs '{disk}'"))


def test_a_full_disk_has_no_room_for_a_store_and_says_so(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    prefix = mounted(f"mount -t tmpfs -o size=4k,nr_inodes=4 tmpfs '{disk}'")
    with pytest.raises(AssertionError, match=r"StoreError: .*cannot open the cache: No space left on device"):
        child("hold_store", disk / "store", prefix=prefix)


def test_a_read_only_cache_is_one_clear_line(tmp_path: Path) -> None:
    root = tmp_path / "store"
    Store(root).close()
    child("read_only", root, prefix=mounted(f"mount --bind '{root}' '{root}' && mount -o remount,ro,bind '{root}'"))


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 64 kB, which works everywhere (and on a full disk looks much the same)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_beyond_the_limit_is_one_clear_line_and_keeps_the_old_bytes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    big = put_bytes(store, b"b" * 100_000)
    write_atomic(tmp_path / "note", b"old")
    store.save(key_of("step"), Result({}, {"old": True}, {}))
    monkeypatch.setattr(store_files, "clone_file", lambda source, target: False)
    monkeypatch.setattr(os, "link", refuse)
    request.getfixturevalue("small_files")
    with pytest.raises(StoreError, match="cannot write note: File too large"):
        write_atomic(tmp_path / "note", b"n" * 100_000)
    with pytest.raises(StoreError, match="File too large"):
        store.save(key_of("step"), Result({}, {"text": "x" * 100_000}, {}))
    with pytest.raises(StoreError, match="cannot write file: File too large"):
        store.place(big, tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note", "store"]
    assert (tmp_path / "note").read_bytes() == b"old"
    found = store.result(key_of("step"))
    assert found is not None
    assert found.facts == {"old": True}
    assert list(store.root.glob("results/*/.*")) == []


@pytest.mark.usefixtures("small_files")
def test_a_memory_that_cannot_grow_costs_nothing_but_time(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        files = []
        for number in range(400):  # long names fill the database and its log
            files.append(tmp_path / f"{'long' * 50}{number}")
            files[-1].write_bytes(b"%d" % number)
            age(files[-1], 100)
            assert store.digest(files[-1]) == digest_of(b"%d" % number)
        assert [store.digest(file) for file in files] == [digest_of(b"%d" % number) for number in range(400)]


# -- the memory


def damage(database: Path, way: str) -> None:
    if way == "garbage":
        database.write_bytes(random.Random(1).randbytes(20_000))
    elif way == "text":
        database.write_text("this is not a database, but long enough to look like something to somebody" * 3)
    elif way == "truncated":
        os.truncate(database, database.stat().st_size // 2)
    elif way == "empty":
        database.write_bytes(b"")
    elif way == "scrambled":
        data = bytearray(database.read_bytes())
        data[200:] = random.Random(2).randbytes(len(data) - 200)
        database.write_bytes(data)
    elif way == "folder":
        database.unlink()
        database.mkdir()
    elif way == "another schema":
        database.unlink()
        with sqlite3.connect(database) as db:
            db.execute("CREATE TABLE seen (something TEXT)")
        db.close()


@pytest.mark.parametrize("way", ["garbage", "text", "truncated", "empty", "scrambled", "folder", "another schema"])
def test_a_damaged_memory_costs_time_and_never_truth(tmp_path: Path, way: str) -> None:
    root = tmp_path / "store"
    digests = []
    with Store(root) as store:
        digests = [put_bytes(store, b"%d" % number * 100) for number in range(100)]
        store.save(key_of("step"), Result({str(each): digest for each, digest in enumerate(digests)}, {}, {}))
    for left in root.glob("digests.sqlite-*"):
        left.unlink()
    damage(root / "digests.sqlite", way)
    for _ in range(2):
        with Store(root) as store:
            assert all(store.has(digest.sha256) for digest in digests)
            assert store.result(key_of("step")) is not None
            assert put_bytes(store, b"more").size == 4
            assert store.collect(unused_for=1000) == (0, 0)
            assert list(store.verify()) == []


@pytest.mark.parametrize("way", ["garbage", "text", "truncated", "scrambled"])
def test_a_damaged_memory_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    root = tmp_path / "store"
    with Store(root) as store:
        digests = [put_bytes(store, b"%d" % number * 100) for number in range(100)]
    for left in root.glob("digests.sqlite-*"):
        left.unlink()
    damage(root / "digests.sqlite", way)
    with Store(root) as store:
        assert all(store.has(digest.sha256) for digest in digests)
        assert all(store.has(digest.sha256) for digest in digests)
    monkeypatch.setattr(store_memory, "sha256_of", None)  # reading would fail
    with Store(root) as store:
        assert all(store.has(digest.sha256) for digest in digests)


def test_a_memory_damaged_while_it_is_open_never_drops_a_good_blob(store: Store) -> None:
    digest = put_bytes(store, b"good")
    with sqlite3.connect(store.root / "digests.sqlite") as db:
        db.execute("UPDATE seen SET sha256 = ?", ("0" * 64,))
    db.close()
    assert store.has(digest.sha256)
    assert store.path(digest.sha256).read_bytes() == b"good"
    with sqlite3.connect(store.root / "digests.sqlite") as db:
        db.execute("DROP TABLE seen")
    db.close()
    assert store.has(digest.sha256)


def test_inode_numbers_may_need_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    memory = DigestMemory(tmp_path / "digests.sqlite")
    for inode in (2**63 - 1, 2**63, 2**64 - 1):  # overlayfs makes such numbers
        monkeypatch.setattr(Stamp, "of", lambda path, inode=inode: Stamp(1, 5, inode))
        memory.remember(file, digest_of(b"x"), Stamp(1, 5, inode))
        assert memory.recall(file) == digest_of(b"x")
        monkeypatch.setattr(Stamp, "of", lambda path, inode=inode: Stamp(1, 5, inode - 1))
        assert memory.recall(file) is None
    memory.close()


def test_files_that_are_gone_are_forgotten(store: Store, tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    for file in (kept, gone):
        file.write_bytes(b"x")
        age(file, 100)
        store.digest(file)
    gone.unlink()
    store.collect(unused_for=1000)
    with sqlite3.connect(store.root / "digests.sqlite") as db:
        paths = {os.fsdecode(path) for (path,) in db.execute("SELECT path FROM seen")}
    db.close()
    assert str(kept) in paths
    assert str(gone) not in paths

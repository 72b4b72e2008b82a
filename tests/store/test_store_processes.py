"""Several processes at one store, and processes that die in the middle of their work."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_tools import age, child, digest_of, key_of, kill, put_bytes, start

from hubpub.errors import StoreError
from hubpub.store import FileDigest, Result, Store
from hubpub.store import memory as store_memory
from hubpub.store import sha256_of as sha256_of_file


@pytest.mark.slow
def test_sixty_kills_at_random_moments_lose_nothing_that_was_saved(fast_path: Path) -> None:
    assert "60 kills" in child("kills", fast_path / "store", 60)


def test_three_processes_count_under_one_lock(fast_path: Path) -> None:
    child("count", fast_path / "store")


def test_threads_count_under_one_lock(store: Store) -> None:
    total = 0

    def add() -> None:
        nonlocal total
        for _ in range(50):
            with store.lock("counter"):
                before = total
                os.sched_yield()
                total = before + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == 200


def test_locks_of_different_names_do_not_wait_for_each_other(store: Store) -> None:
    names = ["a", "A_", "a/b", "a_b", "in-use", "..", "", "é", "x" * 200, "x" * 201]
    held = [store.lock(name) for name in names]
    for lock in held:
        lock.__enter__()
    for lock in held:
        lock.__exit__(None, None, None)


def test_three_processes_put_the_same_blobs_at_once(fast_path: Path) -> None:
    child("same_blob", fast_path / "store")


def test_many_processes_open_a_store_that_is_not_there_yet(fast_path: Path) -> None:
    child("first_opening", fast_path)


def test_scratch_of_a_living_owner_stays_and_that_of_a_dead_one_goes(tmp_path: Path) -> None:
    root = tmp_path / "store"
    owner, folder = start("hold_scratch", root)
    try:
        for _ in range(3):
            Store(root).close()
        assert (Path(folder) / "work").read_text() == "half done"
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        Store(root).close()
        assert list((root / "scratch").iterdir()) == []
    finally:
        kill(owner)


def test_scratch_is_made_while_others_sweep(fast_path: Path) -> None:
    child("sweep_race", fast_path / "store")


def test_a_scratch_folder_swept_before_it_was_held_is_made_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock
    swept: list[bool] = []

    def sweep_first(handle: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.append(True)
            Store(store.root).close()  # another build starts just now
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with store.scratch("x") as folder:
        assert swept
        Store(store.root).close()
        assert folder.is_dir()
        assert folder.with_name(f"{folder.name}.lock").exists()
    assert list((store.root / "scratch").iterdir()) == []


def test_what_an_owner_could_not_remove_is_swept(store: Store) -> None:
    (store.root / "scratch" / "left-abc" / "deep").mkdir(parents=True)
    Store(store.root).close()
    assert list((store.root / "scratch").iterdir()) == []


def test_collect_waits_for_no_one_and_removes_nothing_while_another_process_is_in(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store(root) as store:
        digest = put_bytes(store, b"old")
        other, said = start("hold_store", root)
        try:
            assert said == "open"
            with pytest.raises(StoreError, match="another build is using the cache"):
                store.collect(unused_for=0)
            assert store.has(digest.sha256)
        finally:
            kill(other)
        assert store.collect(unused_for=0)[0] == 1
        assert not store.has(digest.sha256)


def test_a_refused_collector_still_counts_as_a_user(tmp_path: Path) -> None:
    # flock lets go of the shared lock when it refuses the exclusive one.
    with Store(tmp_path) as first, Store(tmp_path) as second:
        for store in (first, second, first):
            with pytest.raises(StoreError, match="another build"):
                store.collect(unused_for=0)


def test_a_failed_collect_lets_others_in_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail)
        age(store.path(put_bytes_without_unlink(store, b"x").sha256), 100)
        with pytest.raises(StoreError, match="Input/output error"):
            store.collect(unused_for=1)
    with (store.root / "locks" / "in-use").open() as another_build:
        fcntl.flock(another_build, fcntl.LOCK_SH | fcntl.LOCK_NB)


def put_bytes_without_unlink(store: Store, data: bytes) -> FileDigest:
    path = store.root / "downloads" / "part"
    path.write_bytes(data)
    return store.put(path)


def test_builds_and_collectors_at_once(fast_path: Path) -> None:
    child("collect_race", fast_path / "store")


def swap_after_reading(blob: Path, good: bytes) -> Callable[[Path], FileDigest]:
    """Reads a file; meanwhile another build puts the good bytes in its place."""
    read = sha256_of_file

    def sha256_of(path: Path) -> FileDigest:
        found = read(path)
        if path == blob and found != digest_of(good):
            fresh = blob.with_name("fresh")
            fresh.write_bytes(good)
            age(fresh, 10)
            fresh.replace(blob)
        return found

    return sha256_of


@pytest.mark.parametrize("look", [lambda store, sha: store.has(sha), lambda store, sha: list(store.verify())])
def test_a_good_blob_is_not_dropped_for_the_damaged_one_that_it_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch, look: Callable[[Store, str], Any]
) -> None:
    digest = put_bytes(store, b"good bytes")
    blob = store.path(digest.sha256)
    blob.write_bytes(b"bad bytes")
    monkeypatch.setattr(store_memory, "sha256_of", swap_after_reading(blob, b"good bytes"))
    look(store, digest.sha256)
    assert blob.read_bytes() == b"good bytes"
    assert store.has(digest.sha256)


def test_results_and_blobs_may_go_while_they_are_listed(store: Store) -> None:
    keys = [key_of(str(number)) for number in range(3)]
    for key in keys:
        store.save(key, Result({"out": put_bytes(store, key.encode())}, {}, {}))
    listing, blobs, damage = store.results(), store.blobs(), store.verify()
    assert next(listing)
    assert next(blobs)
    for path in (*store.root.glob("blobs/*/*"), *store.root.glob("results/*/*")):
        path.unlink()
    assert [*listing, *blobs, *damage] == []

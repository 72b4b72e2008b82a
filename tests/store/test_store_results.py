"""Results by key, and the store's housekeeping: list, verify, collect."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_tools import age, digest_of, key_of, put_bytes

from hubpub.errors import StoreError
from hubpub.store import FileDigest, Result, Store

KEY = key_of("step")


def record(store: Store, key: str = KEY) -> Path:
    return store.root / "results" / key[:2] / f"{key}.json"


def saved(store: Store, data: bytes = b"bytes", key: str = KEY) -> FileDigest:
    digest = put_bytes(store, data)
    store.save(key, Result({"out/model.onnx": digest}, {"layers": 4}, {"seconds": 1.5}))
    return digest


def test_what_was_saved_comes_back(store: Store) -> None:
    digest = saved(store)
    assert store.result(KEY) == Result({"out/model.onnx": digest}, {"layers": 4}, {"seconds": 1.5})
    assert store.result(key_of("another")) is None
    with Store(store.root) as again:
        assert again.result(KEY) is not None


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    facts=st.dictionaries(
        st.text(),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists),
    ),
    names=st.lists(st.text(st.characters(codec=None), min_size=1), unique=True, max_size=4),
)
def test_any_facts_and_names_come_back(store: Store, facts: dict[str, object], names: list[str]) -> None:
    digest = put_bytes(store, b"bytes")
    result = Result(dict.fromkeys(names, digest), facts, {})
    store.save(KEY, result)
    assert store.result(KEY) == result


def test_the_same_result_is_the_same_record(store: Store) -> None:
    digest = put_bytes(store, b"x")
    store.save(KEY, Result({"a": digest, "b": digest}, {"x": 1, "y": 2}, {}))
    before = record(store).read_bytes()
    store.save(KEY, Result({"b": digest, "a": digest}, {"y": 2, "x": 1}, {}))
    assert record(store).read_bytes() == before


def test_a_result_needs_all_its_blobs(store: Store) -> None:
    one, two = put_bytes(store, b"one"), put_bytes(store, b"two")
    store.save(KEY, Result({"one": one, "two": two}, {}, {}))
    assert store.result(KEY) is not None
    store.path(two.sha256).unlink()
    assert store.result(KEY) is None
    put_bytes(store, b"two")
    assert store.result(KEY) is not None
    store.path(one.sha256).write_bytes(b"oops")
    assert store.result(KEY) is None


GOOD = {"sha256": digest_of(b"bytes").sha256, "size": 5}


OUTPUTS: list[Any] = [
    None, [], "x", {}, {"sha256": GOOD["sha256"]}, {**GOOD, "sha256": 7}, {**GOOD, "sha256": "../../../x"},
    {**GOOD, "sha256": "x" * 64}, {**GOOD, "size": "5"}, {**GOOD, "size": 6}, {**GOOD, "sha256": "0" * 64},
]  # fmt: skip


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\0" * 100,
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"3",
        b"[" * 100_000,
        b'{"outputs": {}, "facts": {}}',
        b'{"outputs": [], "facts": {}, "observed": {}}',
        b'{"outputs": {}, "facts": 3, "observed": {}}',
        *(json.dumps({"outputs": {"a": output}, "facts": {}, "observed": {}}).encode() for output in OUTPUTS),
    ],
)
def test_a_damaged_record_is_no_result_and_can_be_made_anew(store: Store, damaged: bytes) -> None:
    saved(store)
    record(store).write_bytes(damaged)
    assert store.result(KEY) is None
    assert list(store.results()) == []
    assert [damage.what for damage in store.verify()] == [f"result {KEY}"]
    assert not record(store).exists()
    assert list(store.verify()) == []
    saved(store)
    assert store.result(KEY) is not None


def test_a_record_that_cannot_be_read_is_one_clear_line(store: Store) -> None:
    saved(store)
    record(store).unlink()
    record(store).mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        store.result(KEY)


# -- verify


def test_verify_finds_truncated_flipped_and_grown_blobs_and_keeps_the_others(store: Store) -> None:
    digests = [put_bytes(store, b"%d" % number * 1000) for number in range(5)]
    whole, truncated, flipped, grown, emptied = (store.path(digest.sha256) for digest in digests)
    store.save(key_of("whole"), Result({"a": digests[0]}, {}, {}))
    store.save(key_of("torn"), Result({"a": digests[0], "b": digests[1]}, {}, {}))
    stat = flipped.stat()
    os.truncate(truncated, 10)
    flipped.write_bytes(b"x" + flipped.read_bytes()[1:])
    os.utime(flipped, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # verify trusts no time
    with grown.open("ab") as file:
        file.write(b"x")
    emptied.write_bytes(b"")
    found = {damage.what for damage in store.verify()}
    assert found == {f"blob {digest.sha256}" for digest in digests[1:]} | {f"result {key_of('torn')}"}
    assert list(store.verify()) == []
    assert whole.exists()
    assert not any(path.exists() for path in (truncated, flipped, grown, emptied))
    assert store.result(key_of("whole")) is not None


def test_verify_removes_what_is_no_blob_and_survives_strange_records(store: Store) -> None:
    saved(store)
    (store.root / "blobs" / "ab").mkdir(exist_ok=True)
    (store.root / "blobs" / "ab" / ".DS_Store").write_bytes(b"mac")
    (record(store).parent / "strange.json").write_text("{}")
    assert [damage.what for damage in store.verify()] == ["blob .DS_Store"]
    assert len(list(store.results())) == 1


def test_looking_is_not_using(store: Store) -> None:
    saved(store)
    age(record(store), 1000)
    used = record(store).stat().st_mtime
    assert [then for _, _, then in store.results()] == [used]
    assert list(store.verify()) == []
    assert record(store).stat().st_mtime == used
    store.result(KEY)
    assert record(store).stat().st_mtime > used + 900


# -- collect


def test_collect_removes_what_is_old_and_keeps_what_is_recent(store: Store) -> None:
    old, recent, shared = put_bytes(store, b"old"), put_bytes(store, b"recent"), put_bytes(store, b"shared")
    store.save(key_of("old"), Result({"a": old, "b": shared}, {}, {}))
    store.save(key_of("recent"), Result({"a": recent, "b": shared}, {}, {}))
    age(record(store, key_of("old")), 1000)
    for digest in (old, recent, shared):
        age(store.path(digest.sha256), 1000)
    size = record(store, key_of("old")).stat().st_size
    assert store.collect(unused_for=500) == (2, size + 3)
    assert store.result(key_of("old")) is None
    assert store.result(key_of("recent")) is not None
    assert {blob.sha256 for blob in store.blobs()} == {recent.sha256, shared.sha256}
    assert list(store.verify()) == []


def test_collect_keeps_blobs_that_no_result_names_for_as_long_as_they_are_read(store: Store) -> None:
    source = put_bytes(store, b"a file of a source")
    path = store.path(source.sha256)
    age(path, 1000)
    path.read_bytes()
    if time.time() - path.stat().st_atime > 500:
        pytest.skip("this file system keeps no access times")
    age(path, 1000)
    store.place(source, store.root.parent / "release" / "file")  # a link: the bytes need not be read
    assert store.collect(unused_for=500) == (0, 0)
    age(path, 1000)
    assert store.collect(unused_for=500) == (1, source.size)


def test_collect_removes_old_downloads_environments_locks_and_what_killed_writers_left(store: Store) -> None:
    saved(store)
    for folder in (store.downloads, store.environments):
        (folder / "old").mkdir()
        (folder / "old" / "file").write_bytes(b"12345")
        age(folder / "old", 1000)
        (folder / "new").write_bytes(b"12345")
    with store.lock("some step"):
        pass
    (record(store).parent / f".{KEY}.json.abc.tmp").write_bytes(b"1234567")
    (store.root / "scratch" / "left").mkdir()
    assert store.collect(unused_for=500) == (3, 17)
    assert [path.name for path in store.downloads.iterdir()] == ["new"]
    assert [path.name for path in store.environments.iterdir()] == ["new"]
    assert [path.name for path in (store.root / "locks").iterdir()] == ["in-use"]
    assert list((store.root / "scratch").iterdir()) == []
    assert store.result(KEY) is not None
    with store.lock("some step"):
        saved(store, b"goes on")


def test_collecting_everything_leaves_an_empty_store_that_works(store: Store) -> None:
    digest = saved(store)
    assert store.collect(unused_for=0)[0] == 2
    assert store.collect(unused_for=0) == (0, 0)
    assert not store.has(digest.sha256)
    assert saved(store) == digest
    assert store.result(KEY) is not None

"""Blobs: put, has, path, place, and what the store remembers of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_tools import age, digest_of, put_bytes, refuse

from hubpub.errors import DigestMismatch, StoreError
from hubpub.store import FileDigest, Result, Store, default_root, sha256_of
from hubpub.store import files as store_files
from hubpub.store import store as store_module

Way = Callable[[pytest.MonkeyPatch], None]


def reflink(monkeypatch: pytest.MonkeyPatch) -> None:
    def clone(source: Path, target: Path) -> bool:
        with target.open("xb") as file:
            file.write(source.read_bytes())
        target.chmod(0o600)
        return True

    monkeypatch.setattr(store_files, "clone_file", clone)


def hard_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_files, "clone_file", lambda source, target: False)


def copy(monkeypatch: pytest.MonkeyPatch) -> None:
    hard_link(monkeypatch)
    monkeypatch.setattr(os, "link", refuse)


WAYS = [pytest.param(way, id=way.__name__) for way in (reflink, hard_link, copy)]


@pytest.mark.parametrize("data", [b"", b"x", b"z" * 3_000_000], ids=["empty", "one byte", "several chunks"])
def test_put_moves_and_path_gives_back(store: Store, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    digest = store.put(file, expected=digest_of(data))
    assert digest == digest_of(data)
    assert not file.exists()
    assert store.has(digest.sha256)
    blob = store.path(digest.sha256)
    assert blob.read_bytes() == data
    assert blob.stat().st_mode & 0o777 == 0o644
    assert list(store.blobs()) == [digest]


def test_a_name_appears_when_all_bytes_are_durable_behind_it(synced: list[str], tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        synced.clear()
        digest = put_bytes(store, b"x")
        assert synced == ["sync file", "rename", "sync folder"]
        store.save("0" * 64, Result({"x": digest}, {}, {}))
        assert synced == ["sync file", "rename", "sync folder"] * 2


def test_putting_the_same_bytes_twice_keeps_one_blob(store: Store) -> None:
    first = put_bytes(store, b"same")
    inode = store.path(first.sha256).stat().st_ino
    assert put_bytes(store, b"same") == first
    assert store.path(first.sha256).stat().st_ino == inode
    assert list(store.blobs()) == [first]
    assert list((store.root / "scratch").iterdir()) == []


def test_put_of_other_bytes_than_expected_leaves_the_file_and_stores_nothing(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"other")
    with pytest.raises(DigestMismatch) as caught:
        store.put(file, expected=digest_of(b"wanted"))
    assert caught.value.expected == digest_of(b"wanted").sha256
    assert caught.value.got == digest_of(b"other").sha256
    assert file.read_bytes() == b"other"
    assert list(store.blobs()) == []


def test_put_does_not_believe_a_size_that_differs(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    with pytest.raises(DigestMismatch):
        store.put(tmp_path / "file", expected=FileDigest(digest_of(b"bytes").sha256, 4))


def test_put_makes_a_read_only_file_readable_to_all(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").chmod(0o400)
    assert store.path(store.put(tmp_path / "file").sha256).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["symlink", "folder", "pipe", "nothing"])
def test_put_of_what_is_no_regular_file_is_refused(store: Store, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "thing"
    (tmp_path / "secret").write_bytes(b"secret")
    if kind == "symlink":
        target.symlink_to(tmp_path / "secret")
    elif kind == "folder":
        target.mkdir()
    elif kind == "pipe":
        os.mkfifo(target)
    with pytest.raises(StoreError):
        store.put(target)
    assert list(store.blobs()) == []
    assert (tmp_path / "secret").exists()


def test_a_file_that_is_written_to_while_it_is_stored_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"first")

    def written_meanwhile(path: Path) -> FileDigest:
        digest = sha256_of(path)
        path.write_bytes(b"later")
        return digest

    monkeypatch.setattr(store_module, "sha256_of", written_meanwhile)
    with pytest.raises(StoreError, match="was written to while it was stored"):
        store.put(file)
    assert list(store.blobs()) == []
    assert file.read_bytes() == b"later"


@pytest.mark.parametrize(
    "name",
    ["", "..", "../../etc/passwd", "A" * 64, "g" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "\u0660" * 64, "a/" * 32],
)
def test_what_is_no_sha256_is_refused(store: Store, name: str) -> None:
    for deed in (store.has, store.path, store.result):
        with pytest.raises(StoreError) as caught:
            deed(name)
        assert "\n" not in str(caught.value)


def test_a_missing_blob_says_what_to_do(store: Store) -> None:
    assert not store.has("0" * 64)
    with pytest.raises(StoreError, match="is not in the cache; run the build again"):
        store.path("0" * 64)
    with pytest.raises(StoreError):
        store.place(FileDigest("0" * 64, 1), store.root / "x")


@pytest.mark.parametrize("way", WAYS)
def test_place_gives_the_bytes_whatever_the_file_system_can(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    digest = put_bytes(store, b"bytes" * 1000)
    way(monkeypatch)
    target = tmp_path / "new" / "folder" / "file"
    store.place(digest, target)
    assert target.read_bytes() == b"bytes" * 1000
    assert target.stat().st_mode & 0o777 == 0o644
    shared = target.stat().st_ino == store.path(digest.sha256).stat().st_ino
    assert shared == (way is hard_link)


@pytest.mark.parametrize("way", WAYS)
def test_place_never_writes_over_a_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    one, other = put_bytes(store, b"one"), put_bytes(store, b"other")
    way(monkeypatch)
    target = tmp_path / "file"
    store.place(one, target)
    with pytest.raises(StoreError, match="cannot write file: File exists"):
        store.place(other, target)
    assert target.read_bytes() == b"one"
    assert store.path(one.sha256).read_bytes() == b"one"  # it may be the same file


@pytest.mark.parametrize("way", WAYS)
def test_what_was_placed_is_not_read_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    digest = put_bytes(store, b"big")
    way(monkeypatch)
    store.place(digest, tmp_path / "file")
    monkeypatch.setattr("hubpub.store.memory.sha256_of", None)  # reading would fail
    assert store.digest(tmp_path / "file") == digest
    assert store.has(digest.sha256)


def test_a_copy_that_fails_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = put_bytes(store, b"bytes")
    copy(monkeypatch)

    def fail(reader: object, writer: object, length: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("shutil.copyfileobj", fail)
    with pytest.raises(StoreError, match="No space left on device; free some space"):
        store.place(digest, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert store.has(digest.sha256)


# -- what is remembered


def test_an_edit_through_the_hard_link_in_the_same_second_is_noticed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard_link(monkeypatch)
    for _ in range(5):
        digest = put_bytes(store, b"good bytes")
        target = tmp_path / "file"
        store.place(digest, target)
        with target.open("r+b") as file:
            file.write(b"evil")  # the same size, at once
        assert not store.has(digest.sha256)
        with pytest.raises(StoreError):
            store.path(digest.sha256)
        assert target.read_bytes() == b"evil bytes"  # theirs stays theirs
        assert put_bytes(store, b"good bytes") == digest
        assert store.path(digest.sha256).read_bytes() == b"good bytes"
        target.unlink()


def test_a_known_limit_an_edit_with_size_and_time_restored_is_seen_by_verify_only(store: Store) -> None:
    digest = put_bytes(store, b"good bytes")
    blob = store.path(digest.sha256)
    stat = blob.stat()
    blob.write_bytes(b"evil bytes")
    os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.has(digest.sha256)
    assert [damage.what for damage in store.verify()] == [f"blob {digest.sha256}"]
    assert not store.has(digest.sha256)


def test_a_file_that_was_just_written_is_not_remembered(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for _ in range(20):
        file.write_bytes(b"one")
        stat = file.stat()
        assert store.digest(file) == digest_of(b"one")
        file.write_bytes(b"two")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if within one tick of the clock
        assert store.digest(file) == digest_of(b"two")


def test_times_in_whole_seconds_are_trusted_later(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    second = int(time.time()) - 1
    os.utime(file, (second, second))
    store.digest(file)
    file.write_bytes(b"two")
    os.utime(file, (second, second))  # the file system's clock ticks once in a second or two
    assert store.digest(file) == digest_of(b"two")


def test_a_change_while_it_is_read_is_not_remembered_as_what_was_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    age(file, 100)

    def changed_at_once(path: Path) -> FileDigest:
        path.write_bytes(b"after!")
        age(path, 50)
        return digest_of(b"before")

    with monkeypatch.context() as patched:
        patched.setattr("hubpub.store.memory.sha256_of", changed_at_once)
        store.digest(file)
    assert store.digest(file) == digest_of(b"after!")


def test_an_old_file_is_read_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    age(file, 100)
    assert store.digest(file) == digest_of(b"old")
    monkeypatch.setattr("hubpub.store.memory.sha256_of", None)
    assert store.digest(file) == digest_of(b"old")
    with Store(store.root) as again:
        assert again.digest(file) == digest_of(b"old")


def test_another_file_under_the_same_name_is_read(store: Store, tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"one")
    other.write_bytes(b"two")
    os.utime(file, (1e9, 1e9))
    os.utime(other, (1e9, 1e9))
    assert store.digest(file) == digest_of(b"one")
    other.replace(file)
    assert store.digest(file) == digest_of(b"two")


def test_digest_of_a_missing_file_is_one_clear_line(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read gone: No such file"):
        store.digest(tmp_path / "gone")


@pytest.mark.skipif(sys.platform == "darwin", reason="names are Unicode on macOS")
def test_names_need_not_be_unicode(store: Store, tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    file.write_bytes(b"x")
    age(file, 100)
    assert store.digest(file) == store.digest(file) == digest_of(b"x")


# -- where it is


@pytest.mark.parametrize(
    ("named", "root"),
    [("/somewhere/else", "/somewhere/else"), ("~/cache", "{home}/cache"), ("~no-such-user-/x", "~no-such-user-/x")],
)
def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str, root: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HUBPUB_CACHE", named)
    assert default_root() == Path(root.format(home=tmp_path))


def test_the_platform_says_where_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HUBPUB_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_root().name == "hubpub"
    assert default_root().is_relative_to(tmp_path)


def test_a_relative_root_stays_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(Path("cache")) as store:
        digest = put_bytes(store, b"x")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert store.path(digest.sha256) == tmp_path / "cache" / "blobs" / digest.sha256[:2] / digest.sha256


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_file_in_the_place_of_the_cache_is_one_clear_line(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot open the cache"):
        Store(tmp_path / root)
    assert (tmp_path / "file").read_text() == "mine"


# -- scratch


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    label=st.text(st.characters(codec=None), max_size=300)
    | st.sampled_from(["", ".", "..", "\udd00", "../../x", "a/b", "日" * 90])
)
def test_any_label_makes_a_scratch_folder_in_its_place(store: Store, label: str) -> None:
    with store.scratch(label) as folder, store.scratch(label) as other, store.lock(label):
        assert folder.parent == other.parent == store.root / "scratch"
        assert folder != other
        assert folder.is_dir()
    assert list((store.root / "scratch").iterdir()) == []


def test_scratch_goes_when_the_work_fails(store: Store) -> None:
    def fail() -> None:
        with store.scratch("x") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((store.root / "scratch").iterdir()) == []


def test_a_scratch_folder_that_cannot_be_made_leaves_no_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", fail)
        with pytest.raises(StoreError, match="cannot make a scratch folder: No space left"), store.scratch("x"):
            pass
    assert list((store.root / "scratch").iterdir()) == []

"""Atomic writes, copies, and exchanging two folders."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from store_tools import CHILDREN, digest_of, refuse

from hubpub.errors import StoreError
from hubpub.store import copy_file, exchange, sha256_of, write_atomic
from hubpub.store import files as store_files
from hubpub.store.files import clone_file, recover, storage_errors, swap_names


@pytest.mark.parametrize("size", [0, 1, store_files.CHUNK - 1, store_files.CHUNK, store_files.CHUNK + 1])
def test_sha256_of(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    assert sha256_of(tmp_path / "file") == digest_of(b"x" * size)


# -- write_atomic


def test_write_atomic_replaces_and_has_the_same_mode_under_any_umask(tmp_path: Path) -> None:
    file = tmp_path / "file"
    before = os.umask(0o077)
    try:
        for data in (b"first", b"", b"last" * 100_000):
            write_atomic(file, data)
            assert file.read_bytes() == data
            assert file.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == [file]


def test_write_atomic_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "file").symlink_to(tmp_path / "theirs")
    write_atomic(tmp_path / "file", b"ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "file").is_symlink()


def test_write_atomic_by_threads_at_once_leaves_one_of_them_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    failures: list[BaseException] = []

    def write(letter: bytes) -> None:
        try:
            for _ in range(20):
                write_atomic(file, letter * 50_000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if file.exists():
            data = file.read_bytes()
            assert len(data) == 50_000
            assert len(set(data)) == 1
    assert failures == []
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("blocked", ["no parent", "folder", "file as parent"])
def test_write_atomic_that_cannot_is_one_clear_line_and_leaves_nothing(tmp_path: Path, blocked: str) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    target = {"no parent": "none/x", "folder": "folder", "file as parent": "file/x"}[blocked]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError) as caught:
        write_atomic(tmp_path / target, b"data")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("number", "hint"),
    [(28, "free some space"), (122, "free some space"), (13, "may write to"), (30, "may write to"), (5, "run again")],
)
def test_refusals_of_the_system_say_what_to_do(number: int, hint: str) -> None:
    with pytest.raises(StoreError, match=hint) as caught, storage_errors("write x"):
        raise OSError(number, "it says", "/some/file")
    assert str(caught.value).startswith("/some/file: cannot write x: it says; ")


# -- copies


def test_a_clone_has_the_bytes_or_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"bytes" * 10_000)
    cloned = clone_file(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").exists() == cloned
    assert not cloned or (tmp_path / "target").read_bytes() == b"bytes" * 10_000


@pytest.mark.parametrize("link", [False, True])
def test_a_copy_has_mode_0644_and_the_time_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x")
    source.chmod(0o400)
    os.utime(source, ns=(1_000_000_000_000_000_123, 1_000_000_000_000_000_456))
    copy_file(source, target, link=link)
    assert target.read_bytes() == b"x"
    assert target.stat().st_mode & 0o777 == 0o644
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns


def test_without_leave_to_link_no_link_is_made(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    copy_file(tmp_path / "source", tmp_path / "target")
    (tmp_path / "target").write_bytes(b"changed")
    assert (tmp_path / "source").read_bytes() == b"x"


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("clones", [False, None])
def test_a_copy_never_writes_over_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clones: bool | None, link: bool
) -> None:
    if clones is False:  # as macOS says it, also when the target exists
        monkeypatch.setattr(store_files, "clone_file", lambda source, target: False)
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "blob").write_bytes(b"blob")
    os.link(tmp_path / "blob", tmp_path / "target")
    with pytest.raises(FileExistsError):
        copy_file(tmp_path / "source", tmp_path / "target", link=link)
    assert (tmp_path / "blob").read_bytes() == b"blob"


# -- exchange


def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("new", "live"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(name)
    return tmp_path / "new", tmp_path / "live"


def text(folder: Path) -> str:
    return (folder / "deep" / "file").read_text()


@pytest.mark.parametrize("atomic", [True, False])
def test_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    new, live = folders(tmp_path)
    if not atomic:
        monkeypatch.setattr(store_files, "swap_names", lambda one, other: False)
    elif not swap_names(new, live):
        pytest.skip("this file system cannot exchange two names")
    else:
        swap_names(new, live)
    exchange(new, live)
    assert (text(live), text(new)) == ("new", "live")
    exchange(new, live)
    assert (text(live), text(new)) == ("live", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "new"]


def test_exchange_with_nothing_there_is_a_rename(tmp_path: Path) -> None:
    new, _ = folders(tmp_path)
    exchange(new, tmp_path / "fresh")
    assert text(tmp_path / "fresh") == "new"
    assert not new.exists()


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_an_exchange_killed_between_its_renames_is_recovered(tmp_path: Path, renames: int) -> None:
    new, live = folders(tmp_path)
    command = [sys.executable, str(CHILDREN), "exchange_killed", str(tmp_path), str(renames)]
    assert subprocess.run(command, timeout=60).returncode == -9
    recover(live)
    assert text(live) == ("new" if renames == 2 else "live")
    assert not list(tmp_path.glob(".*"))
    if not new.exists():
        (new / "deep").mkdir(parents=True)
    (new / "deep" / "file").write_text("newer")
    exchange(new, live)
    assert text(live) == "newer"
    recover(live)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "new"]


def test_an_exchange_goes_on_where_a_killed_one_left_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, live = folders(tmp_path)
    monkeypatch.setattr(store_files, "swap_names", lambda one, other: False)
    (tmp_path / ".live.previous" / "old").mkdir(parents=True)
    exchange(new, live)
    assert (text(live), text(new)) == ("new", "live")


def test_an_exchange_that_fails_puts_back_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, live = folders(tmp_path)
    monkeypatch.setattr(store_files, "swap_names", lambda one, other: False)
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "missing", live)
    assert text(live) == "live"


def test_recover_leaves_folders_of_other_names_alone(tmp_path: Path) -> None:
    _, live = folders(tmp_path)
    (tmp_path / "live.previous").mkdir()
    recover(live)
    recover(tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "live.previous", "new"]

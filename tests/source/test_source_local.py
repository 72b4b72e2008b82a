"""A folder beside the recipe: read, never moved, and never left through a link."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from pydantic import ValidationError

from hubpub.errors import DigestMismatch, SourceError, UnsafeArchive
from hubpub.source import LocalSource, LockedSource, SourceContext


@pytest.fixture
def folder(context: SourceContext) -> Path:
    folder = context.folder.parent / "audio"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"RIFF" * 1000)
    (folder / "sub" / unicodedata.normalize("NFC", "ñ.wav")).write_bytes(b"")
    (folder / "notes.txt").write_text("notes")
    (folder / "again.wav").symlink_to("a.wav")
    return folder


def test_files_are_pinned_and_copied(context: SourceContext, folder: Path) -> None:
    spec = LocalSource(path="../audio", include=("**/*.wav",))
    locked = spec.resolve(context)
    assert list(locked.files) == ["a.wav", "again.wav", "sub/ñ.wav"]
    assert LockedSource.model_validate_json(locked.to_json()) == locked
    assert str(folder.parent) not in locked.to_json()
    assert spec.bytes_to_fetch(locked, locked.files, context) == 0
    spec.fetch(locked, locked.files, context, lambda _: None)
    for name, pin in locked.files.items():
        blob = context.store.path(pin.sha256)
        assert blob.read_bytes() == (folder / name).read_bytes()
        assert blob.stat().st_ino != (folder / name).stat().st_ino, (
            "an edit of the user's file must not reach the store"
        )
    assert spec.resolve(context) == locked
    (folder / "a.wav").write_bytes(b"other")
    assert spec.resolve(context).revision != locked.revision


def test_a_changed_or_vanished_file_is_named(context: SourceContext, folder: Path) -> None:
    spec = LocalSource(path="../audio", include=("*.wav",))
    locked = spec.resolve(context)
    (folder / "a.wav").write_bytes(b"changed")
    with pytest.raises(DigestMismatch, match=r"\.\./audio/a\.wav"):
        spec.fetch(locked, ["a.wav"], context, lambda _: None)
    (folder / "a.wav").unlink()
    with pytest.raises(SourceError, match=r"\.\./audio/a\.wav: is locked but not there"):
        spec.fetch(locked, ["a.wav"], context, lambda _: None)
    (context.folder / "secret").write_bytes(b"RIFF" * 1000)
    (folder / "a.wav").symlink_to(context.folder / "secret")
    with pytest.raises(SourceError, match="is locked but not there"):
        spec.fetch(locked, ["a.wav"], context, lambda _: None)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), "leaves the folder"),
        (lambda path: path.symlink_to("../recipes"), "leaves the folder"),
        (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
        (lambda path: path.symlink_to("sub"), "a link to a folder"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.with_name("back\\slash").touch(), "backslash"),
    ],
)
def test_links_and_special_files_are_refused_where_they_count(
    context: SourceContext, folder: Path, make: object, line: str
) -> None:
    assert callable(make)
    make(folder / "x")
    with pytest.raises(UnsafeArchive, match=line) as caught:
        LocalSource(path="../audio").resolve(context)
    assert "\n" not in str(caught.value)
    assert LocalSource(path="../audio", include=("a.wav", "sub/*.wav")).resolve(context).files


def test_a_missing_folder_and_a_missing_file(context: SourceContext, folder: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        LocalSource(path="../nothing").resolve(context)
    with pytest.raises(SourceError, match=r"'\*\.flac' matches nothing; the nearest names are"):
        LocalSource(path="../audio", include=("*.flac",)).resolve(context)


@pytest.mark.parametrize("path", ["", "/etc", "~/audio", "a\0b"])
def test_paths_of_this_machine_are_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="relative"):
        LocalSource(path=path)

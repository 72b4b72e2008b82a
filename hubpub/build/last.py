"""Which release was finished last: a small file ``.last`` beside the release folders names it.

A file, because the age of a folder does not tell: a build that finds its release in place finishes it without
touching it.
"""

from __future__ import annotations

from pathlib import Path

from hubpub.errors import ReleaseError
from hubpub.manifest import MANIFEST
from hubpub.store.files import storage_errors

LAST = ".last"


def note_last(folder: Path, *, partial: bool) -> None:
    """Remember that the release in ``folder`` was finished; a part of one is not published, so it does not count."""
    if partial:
        return
    # A temporary name that is always the same: what a killed build leaves, the next one writes over.
    new = folder.parent / f"{LAST}.{folder.name}"
    with storage_errors("note the last release"):
        new.write_bytes(f"{folder.name}\n".encode())
        new.replace(folder.parent / LAST)


def last_release(dist: Path) -> Path:
    """The release in ``dist`` that was finished last; the only one where none was noted.

    Raises:
        ReleaseError: there is none, or which one it was cannot be told.
    """
    try:
        name = (dist / LAST).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    if name and "/" not in name and (dist / name / MANIFEST).is_file():
        return dist / name
    unfinished = (".rejected", ".partial")
    found = sorted(path.parent for path in dist.glob(f"*/{MANIFEST}") if path.parent.suffix not in unfinished)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ReleaseError(
            "no release was finished here", where=str(dist), fix="run `hubpub build`, or name its folder"
        )
    names = ", ".join(path.name for path in found)
    raise ReleaseError(f"which release is meant cannot be told: {names}", where=str(dist), fix="name its folder")

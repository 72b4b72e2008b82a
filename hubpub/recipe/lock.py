"""The lock file beside a recipe: what every source was resolved to, and the size and sha256 of each of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hubpub.errors import LockError, nearest
from hubpub.recipe.check import unsafe_path
from hubpub.recipe.document import one_line
from hubpub.recipe.folders import members
from hubpub.source import LockedSource
from hubpub.store import write_atomic


class Lock(BaseModel):
    """All sources of one recipe. Holds no address: where bytes come from is the user's configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    sources: dict[str, LockedSource]

    def text(self) -> str:
        """The file's content; the same lock gives the same text."""
        data = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def lock_path(recipe: Path) -> Path:
    """Where the lock of ``recipe`` lies."""
    return recipe.with_suffix(".lock")


def read_lock(recipe: Path) -> Lock | None:
    """The lock beside ``recipe``; None if there is none.

    Raises:
        LockError: it is damaged.
    """
    path = lock_path(recipe)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LockError(f"cannot be read: {error.strerror}", where=str(path)) from error
    again = "run `hubpub lock` to write it anew"
    try:
        lock = Lock.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in first["loc"])
        what = one_line(f"is not a lock file: {place}{first['msg']}")
        if first["loc"] == ("version",) and first["type"] == "literal_error":
            what = one_line(f"is of version {first['input']!r}, and this hubpub knows 1")
        raise LockError(what, where=str(path), fix=again) from error
    for name, source in lock.sources.items():
        for file in source.files:
            if why := unsafe_path(file):
                what = one_line(f"is damaged: source {name}: {file!r} {why}")
                raise LockError(what, where=str(path), fix=again)
    return lock


def write_lock(recipe: Path, lock: Lock) -> Path:
    """Write the lock beside ``recipe``."""
    path = lock_path(recipe)
    write_atomic(path, lock.text().encode())
    return path


def locked_file(name: str, locked: LockedSource, path: str, *, where: str) -> None:
    """Check that the locked source holds ``path``, a file or a folder that is an artifact.

    Raises:
        LockError: it does not; the nearest name is suggested.
    """
    if not locked.files.keys() >= set(members(path, locked.files)):
        suggestion = nearest(path, locked.files)
        raise LockError(
            f"source {name!r} has no file {path!r}{suggestion}",
            where=where,
            fix="mend the path, or the source's `include`, and run `hubpub lock`",
        )

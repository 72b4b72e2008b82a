"""A folder beside the recipe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, StringConstraints

from hubpub.errors import DigestMismatch, SourceError, UnsafeArchive
from hubpub.source.base import LockedSource, Pinned, Progress, Sighting, SourceContext, SourceSpec
from hubpub.source.names import check_distinct, check_name, matches, may_lie_below, select, shown
from hubpub.store import copy_file
from hubpub.store.files import storage_errors


def _check_path(path: str) -> str:
    if not path or "\0" in path or path.startswith(("/", "~")):
        raise ValueError(f"{path!r} is not relative to the recipe's folder, so it means nothing on another machine")
    return path


class LocalSource(SourceSpec):
    """``{path: ../folder, include: [*.wav]}``; the path starts from the recipe's folder."""

    path: Annotated[str, AfterValidator(_check_path)] = Field(description="folder, relative to the recipe's")
    supply: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)] | None = Field(
        default=None,
        description="how a person gets these files, where nobody may pass them on: then any of them may be missing; a "
        "corpus that names a missing one gives way to its stand_in, or stops the build with this",
    )

    @property
    def label(self) -> str:
        """The path as the recipe writes it."""
        return self.path

    def asked(self) -> dict[str, JsonValue]:
        """As of any source; how the files are got decides no byte of them."""
        return {key: value for key, value in super().asked().items() if key != "supply"}

    def present(self, context: SourceContext) -> list[str]:
        """Names of the included files that are there now, sorted.

        Raises:
            SourceError: there is no such folder or a pattern matches nothing, and it is not for a person to supply.
            UnsafeArchive: a name or an entry that is not accepted.
        """
        if self.supply is not None and not (context.folder / self.path).is_dir():
            return []
        root = self._root(context)
        with storage_errors(f"read {self.path}"):
            found = list(self._files(root))
        if self.supply is None:
            return select(found, self.include, self.label)
        return sorted(name for name in found if any(matches(pattern, name) for pattern in self.include))

    def resolve(self, context: SourceContext) -> LockedSource:
        """Digest every included file. See `SourceSpec.resolve`."""
        root, chosen = (context.folder / self.path).resolve(), self.present(context)
        check_distinct(chosen, self.label)
        digests = {name: context.store.digest(root / name) for name in chosen}
        listing = "".join(f"{digest.sha256}  {name}\n" for name, digest in digests.items())
        return LockedSource(
            kind="path",
            name=self.path,
            revision=f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}",
            files={name: Pinned(sha256=digest.sha256, size=digest.size) for name, digest in digests.items()},
            asked=self.asked(),
        )

    def fetch(self, locked: LockedSource, wanted: Collection[str], context: SourceContext, progress: Progress) -> None:
        """Copy (or reflink) the wanted files; nothing is reported to ``progress``. See `SourceSpec.fetch`."""
        missing = self.missing(locked, wanted, context.store)
        if not missing:
            return
        root = self._root(context)
        with context.store.scratch("local") as folder:
            for index, (name, pin) in enumerate(missing.items()):
                where = f"{self.path}/{name}"
                source = root / check_name(name, self.label)
                if not source.is_file() or not source.resolve().is_relative_to(root):
                    raise SourceError("is locked but not there", where=where, fix="restore it or run `hubpub lock`")
                copy = folder / f"{index:06d}"
                with storage_errors(f"copy {name}"):
                    copy_file(source, copy)
                try:
                    context.store.put(copy, expected=pin.digest)
                except DigestMismatch as error:
                    raise DigestMismatch(where, expected=error.expected, got=error.got) from error

    def watch(self, locked: LockedSource, context: SourceContext) -> Sighting:
        """Digest the folder. See `SourceSpec.watch`."""
        try:
            now = self.resolve(context)
        except SourceError as error:
            return Sighting(locked.revision, gone=error.what)
        return Sighting(now.revision, tuple(name for name, pin in locked.files.items() if now.files.get(name) != pin))

    def bytes_to_fetch(self, locked: LockedSource, wanted: Collection[str], context: SourceContext) -> int:
        """Nothing comes over the network; still refuses a stale lock."""
        self.missing(locked, wanted, context.store)
        return 0

    def _root(self, context: SourceContext) -> Path:
        root = (context.folder / self.path).resolve()
        if not root.is_dir():
            raise SourceError("no such folder", where=self.label, fix=f"it is looked for from {context.folder}")
        return root

    def _files(self, root: Path) -> Iterator[str]:
        """Paths of regular files; folders that ``include`` cannot reach are not entered.

        Raises:
            UnsafeArchive: a covered name is a special file, a link to a folder, or a link that leaves ``root``.
        """
        pending = [""]
        while pending:
            folder = pending.pop()
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}".lstrip("/")
                    covered = any(matches(pattern, name) for pattern in self.include)
                    inside = any(may_lie_below(pattern, name) for pattern in self.include)
                    if entry.is_dir(follow_symlinks=False):
                        if inside:
                            pending.append(name)
                    elif covered or (inside and entry.is_dir()):
                        self._check_entry(entry, name, root)
                        yield name
                    elif entry.is_file(follow_symlinks=False):
                        yield name  # not wanted, but perhaps what a misspelt pattern meant

    def _check_entry(self, entry: os.DirEntry[str], name: str, root: Path) -> None:
        problem = None
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            problem = "is a link that leaves the folder"
        elif entry.is_symlink() and not Path(entry.path).exists():
            problem = "is a link to nothing"
        elif entry.is_dir():
            problem = "is a link to a folder"
        elif not entry.is_file():
            problem = "is not a regular file"
        if problem:
            raise UnsafeArchive(f"{shown(name)} {problem}", where=self.label, fix="leave it out with `include`")
        check_name(name, self.label)

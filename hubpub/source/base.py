"""What every source is: a spec in the recipe, pinned to a `LockedSource`, fetched as blobs into the store."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from hubpub.errors import LockError
from hubpub.source.names import check_pattern
from hubpub.store import FileDigest, Store

Progress = Callable[[int], None]
"""Called with the number of bytes that have just arrived; over a whole fetch they add up to `bytes_to_fetch`."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="sha256, 64 lower-case hex digits")]


@dataclass(frozen=True)
class SourceContext:
    """Where sources put bytes, and the folder (the recipe's) that relative paths start from."""

    store: Store
    folder: Path


class Pinned(BaseModel):
    """Digest of a file's bytes and its size in bytes, as a lock file holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    size: int = Field(ge=0, description="bytes")

    @property
    def digest(self) -> FileDigest:
        """The same as the store knows it."""
        return FileDigest(self.sha256, self.size)


class LockedSource(BaseModel):
    """What a source was pinned to. No URL and no host: the same lock serves a mirror and an air-gapped copy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pypi", "hub", "path"]
    name: str
    revision: str = Field(description="exact version, commit, or digest of the file list")
    filename: str | None = Field(default=None, description="the wheel or sdist")
    archive: Pinned | None = Field(default=None, description="the wheel or sdist as a whole")
    files: dict[str, Pinned] = Field(description="POSIX path within the source -> its bytes")
    asked: dict[str, JsonValue] = Field(description="the spec this answers; another spec makes the lock stale")

    def to_json(self) -> str:
        """Sorted, indented, without what is not set: two locks of the same bytes are the same text."""
        import json

        return json.dumps(self.model_dump(exclude_none=True), sort_keys=True, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Sighting:
    """What upstream holds now, beside what was locked."""

    revision: str
    """What a lock made now would be pinned to."""
    changed: tuple[str, ...] = ()
    """Locked files that have other bytes now, or are gone."""
    newer: str | None = None
    """A later version than the one that the recipe names."""
    yanked: str | None = None
    """Why upstream advises against it."""
    gone: str | None = None
    """Why it cannot be had any more."""


class SourceSpec(BaseModel):
    """Base of the kinds of source in a recipe; a subclass is one file and one line of the union in ``hubpub.recipe``.

    Which key is present (``pypi``, ``hub``, ``path``) tells the kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    include: tuple[Annotated[str, AfterValidator(check_pattern)], ...] = Field(
        default=("**",), min_length=1, description="files wanted: `*` within a path segment, `**` any depth"
    )
    license: str | None = Field(default=None, description="SPDX expression, when the source does not say it itself")

    @property
    def label(self) -> str:
        """How messages name this source."""
        raise NotImplementedError

    def resolve(self, context: SourceContext) -> LockedSource:
        """Pin the source and list every included file with size and sha256; may download.

        Raises:
            SourceError: not found, refused, unreachable, damaged, or a pattern matches nothing.
        """
        raise NotImplementedError

    def fetch(self, locked: LockedSource, wanted: Collection[str], context: SourceContext, progress: Progress) -> None:
        """Put the ``wanted`` files into the store as blobs, verified against ``locked``; get only what is missing.

        Raises:
            LockError: the lock answers another spec, or lacks a wanted file.
            SourceError: as `resolve`; `DigestMismatch` when the bytes are not the locked ones.
        """
        raise NotImplementedError

    def watch(self, locked: LockedSource, context: SourceContext) -> Sighting:
        """Compare upstream with the lock, downloading no file and changing nothing.

        Raises:
            SourceError: upstream cannot be asked.
        """
        raise NotImplementedError

    def bytes_to_fetch(self, locked: LockedSource, wanted: Collection[str], context: SourceContext) -> int:
        """Bytes that `fetch` would bring over the network; asks nobody."""
        raise NotImplementedError

    def asked(self) -> dict[str, JsonValue]:
        """What was asked for, as far as it decides the bytes."""
        dumped: dict[str, JsonValue] = self.model_dump(mode="json", exclude_defaults=True, exclude={"license"})
        return dumped

    def missing(self, locked: LockedSource, wanted: Collection[str], store: Store) -> dict[str, Pinned]:
        """The wanted files whose bytes are not in the store; the first of several names with the same bytes.

        Raises:
            LockError: the lock answers another spec, or lacks a wanted file.
        """
        if locked.asked != self.asked():
            raise LockError("the lock was made for another version of this source", where=self.label, fix=_RELOCK)
        found: dict[str, tuple[str, Pinned]] = {}
        for name in sorted(wanted):
            if name not in locked.files:
                raise LockError(f"the lock lists no file {name!r}", where=self.label, fix=f"include it and {_RELOCK}")
            pin = locked.files[name]
            if pin.sha256 not in found and not store.has(pin.sha256):
                found[pin.sha256] = (name, pin)
        return dict(found.values())


_RELOCK = "run `hubpub lock`"

"""Every error that a user may see, in one tree.

    HubpubError
    ├── RecipeError          the recipe says something that cannot be (all problems at once, file:line:column)
    ├── LockError            the lock file is missing, stale, or disagrees with what was asked
    ├── SourceError          bytes could not be had from where the recipe says
    │   ├── DigestMismatch   bytes came, but not the pinned ones
    │   └── UnsafeArchive    an archive or folder holds names, links or sizes that we refuse
    ├── StoreError           the cache cannot be read or written (disk full, permissions)
    ├── OnnxFileError        an ONNX file is damaged, refers outside its folder, or holds what we cannot carry
    ├── CoremlFileError      a Core ML package is damaged, leaves its folder, or is of a kind that cannot be carried
    ├── StepError            a step failed, or did not do what it declared
    ├── AudioError           an audio file cannot be decoded or has the wrong shape
    ├── OverlapError         calibration and evaluation audio are not disjoint
    ├── MeasureError         a client or a metric failed
    │   └── KilledError      a client was killed from outside, which says nothing of what it measured
    ├── GateError            a budget was missed
    ├── ReleaseError         a release folder is incomplete or does not match its manifest
    ├── PublishError         the remote repo cannot be made equal to the release; it is as it was
    │   ├── RefusedError     the release must not be published
    │   └── MovedError       the remote head is not the one that was compared
    └── LocalHubError        the Hub on loopback cannot start, or cannot be seeded

The command line prints ``str(error)`` and exits with ``error.exit_code``; a traceback is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` where one of ``known`` is like ``word``, else nothing."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


class HubpubError(Exception):
    """One clear line: where it is, what is wrong, and what to do.

    Args:
        what: what is wrong, a clause without a full stop.
        where: the recipe line, file, step or tensor concerned.
        fix: what the reader can do about it, a clause in the imperative.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        """The line that the user reads."""
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}; {self.fix}" if self.fix else line


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe; ``line`` and ``column`` count from 1, 0 when unknown."""

    file: str
    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        """``file:line:column: field: message``, the form that editors make clickable."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class RecipeError(HubpubError):
    """A recipe that cannot be accepted; ``problems`` holds all that was found, not the first only."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class LockError(HubpubError):
    """The lock file is missing, stale, or disagrees with what was asked."""

    exit_code = 2


class SourceError(HubpubError):
    """Bytes could not be had from where the recipe says."""


class DigestMismatch(SourceError):
    """Bytes came, but not the pinned ones."""

    def __init__(self, where: str, *, expected: str, got: str, fix: str | None = None) -> None:
        self.expected = expected
        self.got = got
        super().__init__(
            f"sha256 is {got}, but {expected} is pinned",
            where=where,
            fix=fix or "if the new bytes are wanted run `hubpub lock`, else find out who changed them",
        )


class UnsafeArchive(SourceError):
    """An archive or folder holds names, links or sizes that we refuse."""


class StoreError(HubpubError):
    """The cache cannot be read or written."""


class OnnxFileError(HubpubError):
    """An ONNX file is damaged, refers outside its folder, or holds what we cannot carry."""


class CoremlFileError(HubpubError):
    """A Core ML package is damaged, refers outside its folder, or is of a kind that cannot be carried."""


class StepError(HubpubError):
    """A step failed, or did not do what it declared."""


class AudioError(HubpubError):
    """An audio file cannot be decoded or has the wrong shape."""


class OverlapError(HubpubError):
    """Calibration and evaluation audio are not disjoint."""


class MeasureError(HubpubError):
    """A client or a metric failed."""


class KilledError(MeasureError):
    """A client was killed from outside, most likely because memory ran out: it says nothing of what it measured."""


class GateError(HubpubError):
    """A budget was missed; the release is not finished."""

    exit_code = 3


class ReleaseError(HubpubError):
    """A release folder is incomplete or does not match its manifest."""


class PublishError(HubpubError):
    """The remote repo cannot be made equal to the release; unless it says otherwise, the remote is as it was."""


class RefusedError(PublishError):
    """The release must not be published; ``what`` holds every reason, a line each."""

    exit_code = 3


class MovedError(PublishError):
    """The remote head is not the one that was compared."""

    exit_code = 4


class LocalHubError(HubpubError):
    """The Hub on loopback cannot start, or cannot be seeded."""

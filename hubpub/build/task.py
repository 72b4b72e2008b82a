"""A task is a pure function from input files to output files; its key says which function, on which bytes."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hubpub.errors import HubpubError
from hubpub.store import FileDigest, Store

_Failure = TypeVar("_Failure", bound=HubpubError)

EVERYTHING = "*"
"""Path of a `Ref` that means all outputs of a task."""


@dataclass(frozen=True)
class Ref:
    """A file of a source or of a task (`origin`), by its path there."""

    origin: str
    path: str

    def __str__(self) -> str:
        """As it is written in a recipe."""
        return f"{self.origin}/{self.path}"


Inputs = tuple[tuple[str, Ref], ...]
"""Where each input appears below ``inputs/``; a `Ref` to `EVERYTHING` fills the folder of that name."""


@dataclass(frozen=True)
class Room:
    """What a running task has: its inputs, an empty folder for outputs, and a folder that survives a crash."""

    inputs: Path
    outputs: Path
    store: Store
    resume: Path
    """Empty on the first try; a task that is interrupted finds here what it left."""
    digests: Mapping[str, FileDigest]
    """Digest of each input, by its name below `inputs`."""
    progress: Callable[[int], None]
    """Called with bytes dealt with since the last call."""
    jobs: int | None = None
    """How many may work at once where nothing is timed; None: the task decides."""


@dataclass(frozen=True)
class Outcome:
    """What a task found out: facts go into the digested manifest, observed figures beside it."""

    facts: dict[str, Any] = field(default_factory=dict)
    observed: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    """What the user should know at once."""


def named_for_the_reader(error: _Failure, where: str, *folders: Path) -> _Failure:
    """``error`` at its place in the recipe, and without the folders that are gone when somebody reads it."""
    text = f"{error.where}: {error.what}" if error.where else error.what
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return type(error)(text, where=where, fix=error.fix)


class Task(ABC):
    """One node of the plan."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    libraries: tuple[str, ...] = ()
    """Distributions whose versions decide the bytes."""
    reads_sealed: bool = False
    """Part of the final evaluation: only such a task is given a sealed corpus."""
    trusted: ClassVar[bool] = True
    """Never writes to its inputs, so that these may be hard links into the store (and so into releases)."""

    def __init__(self, name: str, inputs: Inputs, *, where: str, outputs: tuple[str, ...] | None = None) -> None:
        self.name = name
        self.inputs = inputs
        self.where = where
        """``file:line:column: field`` in the recipe."""
        self.outputs = outputs
        """The files that it must write, no more and no less; None: it decides itself."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What besides the inputs' bytes decides the outputs: parameters, texts of scripts, kernels."""

    @abstractmethod
    def run(self, room: Room) -> Outcome:
        """Read ``room.inputs``, write ``room.outputs``."""

    def key(self, digests: Mapping[str, FileDigest]) -> str:
        """The step's key, given the digest of each input."""
        text = json.dumps(
            {
                "kind": self.kind,
                "version": self.version,
                "identity": self.identity(),
                "libraries": self.tool_versions(),
                "inputs": {name: digest.sha256 for name, digest in sorted(digests.items())},
            },
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def tool_versions(self) -> dict[str, str]:
        """Versions of the libraries that decide the bytes."""
        return {name: distribution_version(name) for name in self.libraries}


@cache
def distribution_version(name: str) -> str:
    """Installed version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"

"""The lines that a run writes as it goes, so that a killed one goes on where it stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from pydantic import BaseModel, ValidationError

from hubpub.measure.result import JOB, OUTPUTS, RUN, TIMINGS, UTTERANCES, Job, Timing, Utterance, canonical_json

_Model = TypeVar("_Model", bound=BaseModel)


def prepare_folder(folder: Path, job: Job) -> None:
    """Make ``folder`` hold ``job``, dropping what another job left there."""
    folder.mkdir(parents=True, exist_ok=True)
    text = canonical_json(job).encode()
    path = folder / JOB
    if path.is_file() and path.read_bytes() == text:
        return
    for name in (RUN, JOB, UTTERANCES, TIMINGS):
        (folder / name).unlink(missing_ok=True)
    if (folder / OUTPUTS).exists():
        shutil.rmtree(folder / OUTPUTS)
    write_atomically(path, text)


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary name, fsync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def recover(folder: Path, clip_ids: Sequence[str]) -> tuple[list[Utterance], list[Timing]]:
    """What is whole and in the corpus' order; the rest, such as a half-written last line, is cut off the files.

    A clip is done when both of its lines are there and its outputs are on disk.
    """
    utterances, timings = _read(folder / UTTERANCES, Utterance), _read(folder / TIMINGS, Timing)
    done = 0
    for clip_id, (utterance, _), (timing, _) in zip(clip_ids, utterances, timings, strict=False):
        on_disk = all((folder / output).is_file() for output in utterance.outputs)
        if not (utterance.id == timing.id == clip_id and on_disk):
            break
        done += 1
    _truncate(folder / UTTERANCES, sum(length for _, length in utterances[:done]))
    _truncate(folder / TIMINGS, sum(length for _, length in timings[:done]))
    return [utterance for utterance, _ in utterances[:done]], [timing for timing, _ in timings[:done]]


class Journal:
    """Appends to the two files; to be used as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        self._utterances = (self._folder / UTTERANCES).open("ab")
        self._timings = (self._folder / TIMINGS).open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        self._utterances.close()
        self._timings.close()

    def append(self, utterance: Utterance, timing: Timing) -> None:
        """The timing goes first: a clip counts as done once its utterance is on disk."""
        _append(self._timings, timing)
        _append(self._utterances, utterance)


def _append(file: BinaryIO, line: BaseModel) -> None:
    file.write(canonical_json(line).encode())
    file.flush()
    os.fsync(file.fileno())


def _read(path: Path, model: type[_Model]) -> list[tuple[_Model, int]]:
    """The leading lines that are whole, each with its length in bytes."""
    lines: list[tuple[_Model, int]] = []
    data = path.read_bytes() if path.is_file() else b""
    for line in data.splitlines(keepends=True):
        try:
            value = model.model_validate_json(line)
        except ValidationError:
            break
        if not line.endswith(b"\n"):
            break
        lines.append((value, len(line)))
    return lines


def _truncate(path: Path, size: int) -> None:
    if path.is_file() and path.stat().st_size != size:
        os.truncate(path, size)

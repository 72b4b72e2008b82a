"""The lines that a run writes as it goes, so that a killed one goes on where it stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from pydantic import BaseModel, ValidationError

from hubpub.measure.result import JOB, OUTPUTS, PARTS, RUN, TIMINGS, UTTERANCES, Job, Timing, Utterance, canonical_json

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
    for name in (OUTPUTS, PARTS):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
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


Done = dict[str, tuple[Utterance, Timing, Path]]
"""By clip what came out, what it took, and the folder where its outputs lie."""


def recover_all(folder: Path, clip_ids: Sequence[str]) -> Done:
    """All clips that are done: in the run itself, and in the parts that several workers wrote."""
    found: Done = {}
    utterances, timings = recover(folder, clip_ids)
    for utterance, timing in zip(utterances, timings, strict=True):
        found[utterance.id] = utterance, timing, folder
    for part in sorted((folder / PARTS).glob("*")):
        order = [utterance.id for utterance, _ in _read(part / UTTERANCES, Utterance)]
        for utterance, timing in zip(*recover(part, order), strict=True):
            found[utterance.id] = utterance, timing, part
    return found


def join_parts(folder: Path, clip_ids: Sequence[str]) -> None:
    """Put what several workers did together, in the order of the corpus, as if one had done it."""
    done = recover_all(folder, clip_ids)
    for utterance, _, part in done.values():
        for name in utterance.outputs if part != folder else ():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).unlink(missing_ok=True)
            os.link(part / name, folder / name)  # the part stays whole until all of it is here
    # The timings go first: a clip counts as done once its utterance is on disk.
    lines = [done[name] for name in clip_ids]
    write_atomically(folder / TIMINGS, "".join(canonical_json(timing) for _, timing, _ in lines).encode())
    write_atomically(folder / UTTERANCES, "".join(canonical_json(utterance) for utterance, _, _ in lines).encode())
    shutil.rmtree(folder / PARTS)


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

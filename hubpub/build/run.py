"""Runs tasks: each once, its result kept by key; what was done is never done again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from hubpub.build.task import EVERYTHING, Room, Task
from hubpub.errors import StepError
from hubpub.report import Reporter, counted
from hubpub.store import FileDigest, Result, Store, copy_file
from hubpub.store.files import storage_errors


@dataclass(frozen=True)
class Done:
    """A task whose result is in the store."""

    task: Task
    key: str
    digests: dict[str, FileDigest]
    result: Result
    cached: bool
    published: bool = False
    """Its result was taken from a published release; it is cached too."""


class Known(Protocol):
    """Results from elsewhere, whose bytes come only where something reads them."""

    def result(self, task: Task, key: str, digests: Mapping[str, FileDigest]) -> Result | None:
        """What ``task`` gave with this key and these inputs, if that is known."""

    def bring(self, step: str, digest: FileDigest) -> None:
        """Put an output of ``step`` into the store, unless it is there."""


Origins = Mapping[str, Mapping[str, FileDigest]]
"""Files by source or task, then by path."""


def input_digests(task: Task, origins: Origins) -> dict[str, FileDigest] | None:
    """Digest of every input file of ``task``; None while a task that it waits for has no result."""
    digests: dict[str, FileDigest] = {}
    for name, ref in task.inputs:
        files = origins.get(ref.origin)
        if files is None:
            return None
        if ref.path == EVERYTHING:
            digests.update({f"{name}/{path}" if name else path: digest for path, digest in files.items()})
        else:
            digests[name] = files[ref.path]
    return digests


def run_tasks(
    tasks: Iterable[Task],
    sources: Origins,
    store: Store,
    reporter: Reporter,
    known: Known | None = None,
    ran: set[str] | None = None,
    jobs: int | None = None,
) -> dict[str, Done]:
    """Run ``tasks`` (in an order in which each comes after those that it needs); source files are in the store.

    Args:
        tasks: what to run.
        sources: files of the sources, and of tasks that are done.
        store: where results are kept.
        reporter: hears of each task that runs.
        known: results that go before those of the store.
        ran: names of tasks that this build ran before, if it had to begin again; those that run now are added.
        jobs: how many may work at once within a task, where nothing is timed; default: the task decides.

    Raises:
        HubpubError: a task failed; what was done before stays done.
    """
    done: dict[str, Done] = {}
    origins: dict[str, Mapping[str, FileDigest]] = dict(sources)
    for task in tasks:
        digests = input_digests(task, origins)
        if digests is None:
            raise AssertionError(f"{task.name} was planned before what it needs")
        key = task.key(digests)
        result = known.result(task, key, digests) if known else None
        if result is not None:
            done[task.name] = Done(task, key, digests, result, cached=True, published=True)
        else:
            if known and store.result(key) is None:
                _bring_inputs(task, origins, known)
            done[task.name] = _run_once(task, key, digests, store, reporter, set() if ran is None else ran, jobs)
        origins[task.name] = done[task.name].result.outputs
    return done


def _bring_inputs(task: Task, origins: Origins, known: Known) -> None:
    for _, ref in task.inputs:
        files = origins[ref.origin]
        for digest in files.values() if ref.path == EVERYTHING else (files[ref.path],):
            known.bring(ref.origin, digest)


def _run_once(
    task: Task,
    key: str,
    digests: dict[str, FileDigest],
    store: Store,
    reporter: Reporter,
    ran: set[str],
    jobs: int | None,
) -> Done:
    result = store.result(key)
    if result is None:
        with store.lock(key):  # another build may be at it: then wait, and take its result
            result = store.result(key)
            if result is None:
                result = _run_task(task, key, digests, store, reporter, jobs)
                ran.add(task.name)
    return Done(task, key, digests, result, cached=task.name not in ran)


def _run_task(
    task: Task, key: str, digests: dict[str, FileDigest], store: Store, reporter: Reporter, jobs: int | None
) -> Result:
    started = time.monotonic()
    reporter.start(task.name, task.kind, sum(digest.size for digest in digests.values()) or None)
    resume = store.downloads / f"step-{key}"
    with store.scratch(task.name) as desk, storage_errors(f"run {task.name}"):
        inputs, outputs = desk / "inputs", desk / "outputs"
        inputs.mkdir()
        outputs.mkdir()
        resume.mkdir(exist_ok=True)
        for name, digest in digests.items():
            _lay_out(digest, inputs / name, task, store)
        room = Room(inputs, outputs, store, resume, digests, reporter.advance, jobs)
        outcome = task.run(room)
        files = collect_outputs(outputs, task)
        stored = {name: store.put(path) for name, path in files.items()}
        seconds = time.monotonic() - started
        result = Result(stored, outcome.facts, {**outcome.observed, "seconds": round(seconds, 3)})
        store.save(key, result)
    shutil.rmtree(resume, ignore_errors=True)
    written = f"{counted(len(stored), 'files')}, {sum(item.size for item in stored.values()):,} bytes"
    reporter.end(task.name, "; ".join(filter(None, (written, outcome.remark))))
    return result


def _lay_out(digest: FileDigest, target: Path, task: Task, store: Store) -> None:
    if task.trusted:
        store.place(digest, target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(store.path(digest.sha256), target)


def collect_outputs(folder: Path, task: Task) -> dict[str, Path]:
    """The files that a task wrote, by POSIX path, checked against what it declared.

    Raises:
        StepError: none, one missing, one too many, or something that is not a regular file.
    """
    if folder.is_symlink() or not folder.is_dir():  # what lies behind a link is not ours to move
        raise StepError("replaced its folder outputs/ by something else", where=task.where)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StepError(f"wrote {name}, which is not a regular file", where=task.where)
        if path.is_file():
            found[name] = path
    declared = set(task.outputs if task.outputs is not None else found)
    if missing := sorted(declared - found.keys()):
        raise StepError(f"did not write {', '.join(missing)}", where=task.where, fix="mend it, or its `outputs`")
    if extra := sorted(found.keys() - declared):
        raise StepError(
            f"wrote more than it declared: {', '.join(extra)}", where=task.where, fix="add them to its `outputs`"
        )
    if not found:
        raise StepError("wrote nothing", where=task.where)
    return found


def source_files(tasks: Iterable[Task], sources: Origins) -> dict[str, set[str]]:
    """The files of each source that ``tasks`` read."""
    wanted: dict[str, set[str]] = {}
    for task in tasks:
        for _, ref in task.inputs:
            if ref.origin in sources:
                wanted.setdefault(ref.origin, set()).add(ref.path)
    return wanted


def sidecars(primary: str, files: Iterable[str]) -> list[str]:
    """External-data files that, by their names, belong to the ONNX model ``primary``.

    The names in use: ``model.onnx.data``, ``model.onnx_data``, ``model.onnx.data.000``, ``model.onnx_data_1``.
    """
    folder, name = PurePosixPath(primary).parent, PurePosixPath(primary).name
    return sorted(
        path
        for path in files
        if PurePosixPath(path).parent == folder
        and PurePosixPath(path).name.startswith((f"{name}.data", f"{name}_data"))
    )

"""kill -9 at random moments, in every phase: nothing half done shows, nothing goes on alone, the next run finishes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from toy import Project, make_project

from hubpub.build import verify_release
from hubpub.errors import HubpubError
from hubpub.manifest import Manifest
from hubpub.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc"),
]

KILLS = 50
CHILD_KILLS = 8
MARK = "HUBPUB_TEST_MARK"
IMPORTED = [
    "toy",
    "hubpub.build",
    "hubpub.transform.shard",
    "hubpub.corpus.audio",
    "soundfile",
    "soxr",
    "onnx",
    "numpy",
]


def _build(folder: Path, store: Path, output: Path, mark: str) -> None:
    """In a process of its own, which `os._exit`s so that no handler of the test process runs."""
    os.environ[MARK] = mark
    try:
        Project(folder, {}).build(store, output)
    except HubpubError as error:
        (output.parent / f"{mark}.error").write_text(str(error))
        os._exit(1)
    os._exit(0)


@dataclass
class Arena:
    """Builds of one project in throw-away stores."""

    project: Project
    folder: Path
    expected: Manifest
    seconds: float = 0.0
    """What an undisturbed build takes."""
    number: int = 0

    def __post_init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(IMPORTED)

    @property
    def case(self) -> Path:
        return self.folder / f"case{self.number}"

    @property
    def output(self) -> Path:
        return self.case / "release"

    def fresh(self) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        self.number += 1
        self.case.mkdir()

    def start(self) -> tuple[BaseProcess, str]:
        mark = f"killed-{os.getpid()}-{self.number}-{time.monotonic_ns()}"
        process = self.context.Process(
            target=_build, args=(self.project.folder, self.case / "store", self.output, mark)
        )
        process.start()
        return process, mark

    def finish(self) -> None:
        process, mark = self.start()
        process.join(60)
        error = self.case / f"{mark}.error"
        assert process.exitcode == 0, error.read_text() if error.exists() else process.exitcode
        manifest = self.check(mark)
        assert manifest is not None
        assert manifest.model_dump(exclude={"observed"}) == self.expected.model_dump(exclude={"observed"})
        beside = {path.name for path in self.case.iterdir() if not path.name.endswith(".error")}
        assert beside == {"store", "release", ".release.lock", ".last"}

    def check(self, mark: str) -> Manifest | None:
        """What must be true after any end of a build; gives the finished release, if there is one."""
        assert _until(lambda: not _orphans(mark, self.case)), _orphans(mark, self.case)
        manifest = verify_release(self.output) if self.output.exists() else None
        if (self.case / "store").exists():
            with Store(self.case / "store") as store:
                assert list(store.verify()) == []
            assert list((self.case / "store" / "scratch").iterdir()) == []
        return manifest


def _until(condition: Callable[[], object], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _orphans(mark: str, folder: Path) -> list[str]:
    """Processes that carry the mark in their environment, or (scripts, which have their own) work below the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark.encode() in (entry / "environ").read_bytes()
            below = str((entry / "cwd").readlink()).startswith(f"{folder}/")
            if marked or below:
                found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()!r}")
        except OSError:
            continue
    return found


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        parents.setdefault(parent, []).append(int(entry.name))
    found, pending = [], [pid]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def _phase(store: Path, finished: bool) -> tuple[int, bool]:
    """How far a build had come."""
    return len(list(store.glob("results/*/*.json"))), finished


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """All kinds of steps, but one run only: a worker takes longer to start than all else together."""
    folder = tmp_path_factory.mktemp("kill")
    project = make_project(folder / "project")
    project.recipe["measure"] = {"sharded": {**project.recipe["measure"]["sharded"], "metrics": ["rtf", "load_time"]}}
    del project.recipe["measure"]["sharded"]["reference"]
    project.recipe["gates"] = [{"measure": "sharded/rtf", "max": 1000}]
    project.recipe["card"]["summary"] = "One run."
    project.save()
    arena = Arena(project, folder, project.build(folder / "undisturbed").manifest)
    arena.fresh()
    arena.finish()  # also starts the server that builds are forked from, and writes the lock
    took = []
    for _ in range(2):
        arena.fresh()
        process, _mark = arena.start()
        began = time.monotonic()
        process.join(60)
        took.append(time.monotonic() - began)
    arena.seconds = min(took)
    yield arena
    shutil.rmtree(folder)


def test_killed_at_random_moments(arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(20_240_607)
    hits = late = 0
    phases: set[tuple[int, bool]] = set()
    finished = None
    while hits < KILLS:
        fresh = finished is not None or hits % 2 == 0
        if fresh:
            arena.fresh()
        # Strata over the whole of a build from nothing; a build that goes on has less left to do.
        moment = (hits + chance.random()) / KILLS if fresh else chance.random() * 0.5
        process, mark = arena.start()
        process.join(moment * arena.seconds)
        alive = process.is_alive()
        process.kill()
        process.join()
        hits += alive
        late += not alive
        assert late < KILLS, "builds end before they can be killed"
        assert alive or process.exitcode == 0
        finished = arena.check(mark)
        phases.add(_phase(arena.case / "store", finished is not None))
        if alive and hits % 10 == 0:
            arena.finish()
    arena.finish()
    with capsys.disabled():
        print(f" [{hits} kills, {late} too late; a build takes {arena.seconds:.1f} s; {len(phases)} phases]", end="")
    assert len(phases) >= 5


def test_killed_workers_and_scripts(arena: Arena) -> None:
    """The build itself lives: it says what happened in one line, and the next one goes on."""
    chance = random.Random(7)
    said: set[str] = set()
    kills = 0
    for attempt in range(4 * CHILD_KILLS):
        if kills == CHILD_KILLS:
            break
        if attempt % 2 == 0:
            arena.fresh()
        process, mark = arena.start()
        process.join(chance.random() * arena.seconds * 0.9)
        assert process.pid is not None
        victims = _descendants(process.pid)
        if victims:
            victim = chance.choice(victims)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            kills += 1
        process.join(60)
        assert process.exitcode in (0, 1)
        if process.exitcode == 1:
            line = (arena.case / f"{mark}.error").read_text()
            assert len(line.splitlines()) == 1, line
            assert "killed" in line or "cannot be made" in line or "pip cannot" in line, line
            said.add(line)
        arena.check(mark)
        if attempt % 2:
            arena.finish()
    assert kills == CHILD_KILLS
    assert said

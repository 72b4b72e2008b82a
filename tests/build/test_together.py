"""Several builds at once: each step runs once, nobody sees anything half done, everybody ends with the same release."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import Finished, Project, Recorder, command, environment, tree

from hubpub.build import Built, verify_release
from hubpub.errors import ReleaseError
from hubpub.store import Store


def _at_once(*builds: Callable[[], Built]) -> list[Built]:
    results: list[Built | BaseException] = []

    def run(build: Callable[[], Built]) -> None:
        try:
            results.append(build())
        except BaseException as error:  # shown by the assertion
            results.append(error)

    threads = [threading.Thread(target=run, args=(build,)) for build in builds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(isinstance(each, Built) for each in results), results
    return [each for each in results if isinstance(each, Built)]


def _ran(builds: list[Built]) -> list[str]:
    return sorted(name for built in builds for name in built.ran)


def test_the_same_output(project: Project, store: Path) -> None:
    project.without_measurements()
    builds = _at_once(*[lambda: project.build(store)] * 3)
    assert _ran(builds) == ["convert", "files/sharded/model.onnx#1"]  # each step once overall
    assert sorted(built.unchanged for built in builds) == [False, True, True]
    assert len({built.manifest.digest for built in builds}) == 1
    assert verify_release(project.folder / "dist" / "toy")
    with Store(store) as opened:
        assert list(opened.verify()) == []


@pytest.mark.slow
def test_different_outputs_of_one_store(project: Project, store: Path, finished: Finished, tmp_path: Path) -> None:
    outputs = [tmp_path / f"out{number}" for number in range(3)]
    builds = _at_once(*[lambda output=output: project.build(store, output) for output in outputs])
    assert _ran(builds) == sorted(finished.built.ran)
    assert {verify_release(output).digest for output in outputs} == {finished.built.manifest.digest}


def test_two_processes_and_no_lock_yet(project: Project, store: Path, tmp_path: Path) -> None:
    project.without_measurements()
    outputs = [tmp_path / "one", tmp_path / "two"]
    processes = [
        subprocess.Popen(
            command("build", project.path, "--cache", store, "-o", output, "--json"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for output in outputs
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    digests = {json.loads(out)["digest"] for out, _ in said}
    assert len(digests) == 1
    assert {verify_release(output).digest for output in outputs} == digests
    assert sorted(name for out, _ in said for name in json.loads(out)["ran"]) == [
        "convert",
        "files/sharded/model.onnx#1",
    ]


def test_a_reader_sees_a_whole_release_at_every_moment(copied: Finished) -> None:
    """While two builds replace it again and again, each with another text."""
    seen: set[str] = set()
    problems: list[str] = []
    stop = threading.Event()

    def look() -> None:
        missed = 0
        while not stop.is_set():
            try:
                text = (copied.release / "README.md").read_text()
            except FileNotFoundError:
                missed += 1  # the folder was exchanged between two steps of the path's look-up; not twice in a row
                if missed > 1 or not copied.release.is_dir():
                    problems.append("no card")
                continue
            missed = 0
            seen.add(text.partition("# Text ")[2][:1])
            if not text.endswith("`.\n"):
                problems.append(text)

    def write(number: int) -> None:
        other = Project(copied.project.folder, {**copied.project.recipe})
        for _ in range(5):
            other.recipe["card"] = {**other.recipe["card"], "title": f"Text {number}"}
            path = copied.project.path.with_name(f"toy{number}.yaml")
            path.write_text(copied.project.path.read_text().replace("Toy of 2 convolutions", f"Text {number}"))
            path.with_suffix(".lock").write_bytes(copied.project.path.with_suffix(".lock").read_bytes())
            _build(path, copied)

    threads = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    reader = threading.Thread(target=look)
    reader.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    reader.join(60)
    assert problems == []
    assert {"1", "2"} <= seen
    assert verify_release(copied.release)


def _build(path: Path, copied: Finished) -> Any:
    from hubpub.build import Silent, build

    with Store(copied.store) as store:
        return build(path, store, Silent(), output=copied.release)


def test_collecting_waits_for_builds(copied: Finished) -> None:
    from hubpub.errors import StoreError

    with Store(copied.store), Store(copied.store) as other, pytest.raises(StoreError, match="another build is using"):
        other.collect(unused_for=0)
    assert copied.project.build(copied.store).ran == ()


def test_a_build_waits_for_who_holds_its_output(copied: Finished) -> None:
    from hubpub.build.release import claim

    done = threading.Event()

    def build() -> None:
        copied.project.build(copied.store, reporter=Recorder())
        done.set()

    with claim(copied.release):
        thread = threading.Thread(target=build)
        thread.start()
        time.sleep(0.3)
        assert not done.is_set()
    thread.join(60)
    assert done.is_set()


def test_a_file_that_appears_while_a_build_waits_is_still_safe(copied: Finished) -> None:
    """The early look is for speed; the one that counts is taken with the output held."""

    class User(Recorder):
        def start(self, name: str, what: str, total: int | None) -> None:
            (copied.release / "mine.txt").write_text("years of work")

    copied.project.recipe["steps"]["convert"]["args"] = ["9"]
    copied.project.save()
    before = tree(copied.release)
    with pytest.raises(ReleaseError, match=r"holds mine\.txt, which no build wrote"):
        copied.project.build(copied.store, reporter=User())
    assert {name: digest for name, digest in tree(copied.release).items() if name != "mine.txt"} == before

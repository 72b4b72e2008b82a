"""Fixtures of the toy project, for the tests of the build and of the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy import CONVERT, HEAD, Finished, Project, make_project, recipe

from hubpub.build import verify_release
from hubpub.errors import StepError
from hubpub.manifest import read_manifest
from hubpub.store import Store


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store will be made."""
    return tmp_path / "store"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    project = make_project(folder / "project")
    return Finished(project, folder / "store", project.build(folder / "store"))


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Finished:
    """A copy of the finished project and its store, to be changed."""
    shutil.copytree(finished.project.folder, tmp_path / "copy", symlinks=True)
    shutil.copytree(finished.store, tmp_path / "copied-store", symlinks=True)
    return Finished(Project(tmp_path / "copy", recipe()), tmp_path / "copied-store", finished.built)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """A project with the script step alone, and a store in which its environment exists."""
    folder = tmp_path_factory.mktemp("scripts")
    project = make_project(folder / "project").without_measurements()
    project.recipe["files"] = {"model.onnx": "convert/model.onnx", "config.json": "convert/config.json"}
    project.save()
    project.build(folder / "store")
    return project, folder / "store"


@pytest.fixture
def step(small: tuple[Project, Path]) -> Iterator[Callable[..., str]]:
    """Build with another script, which must fail; gives the line that the user reads."""
    project, store = small
    before = read_manifest(project.folder / "dist" / "toy")

    def run(body: str | bytes, **options: object) -> str:
        """``body`` as bytes is the whole script, as text what follows a good header."""
        project.recipe["steps"]["convert"].update(options)
        project.save()
        project.script.write_bytes(body if isinstance(body, bytes) else (HEAD + body).encode())
        with pytest.raises(StepError) as caught:
            project.build(store)
        line = str(caught.value)
        assert len(line.splitlines()) == 1
        place = project.line_of("convert:")
        assert line.startswith(f"{project.path}:{place}:3: steps.convert: "), line
        assert caught.value.exit_code == 1
        return line

    yield run
    project.recipe["steps"]["convert"].pop("timeout_minutes", None)
    project.script.write_text(CONVERT)
    project.requirements.write_text("")
    project.save()
    assert verify_release(project.folder / "dist" / "toy") == before
    with Store(store) as opened:
        assert list(opened.verify()) == []
    assert list((store / "scratch").iterdir()) == []

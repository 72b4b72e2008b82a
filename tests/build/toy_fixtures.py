"""Fixtures of the toy project, for the tests of the build and of the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toy import Finished, Project, make_project, recipe


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

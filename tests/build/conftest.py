"""A toy project, built once for all tests that only look, copied for those that change something."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "source"))  # the loopback servers

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


@pytest.fixture
def pip_index(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make one package index the only one that pip is configured for."""

    def use(url: str) -> None:
        import os

        for name in list(os.environ):
            if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", url)

    return use

"""A toy release with a `publish` section, ways to spoil it, and what is said against it then."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "build"))

from toy import Finished, Project, make_project

from hubpub.manifest import MANIFEST, Digest, FileRecord, Manifest, read_manifest
from hubpub.measure.measurement import Measurement
from hubpub.publish.checks import refusals
from hubpub.recipe import load_recipe
from hubpub.report import Silent
from hubpub.store import sha256_of

HUB = "https://huggingface.co"
LOOPBACK = "http://127.0.0.1:8080"
PUBLISH: dict[str, Any] = {"repo": "owner/toy-onnx", "drop_in_for": "data", "load": ["whole", "sharded"]}


_BUILT: list[Finished] = []


@pytest.fixture(scope="session")
def publishable(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Not to be changed; one for all the modules that import this fixture."""
    if not _BUILT:
        folder = tmp_path_factory.mktemp("publishable")
        project = make_project(folder / "project", {"publish": PUBLISH})
        _BUILT.append(Finished(project, folder / "store", project.build(folder / "store")))
    return _BUILT[0]


@pytest.fixture
def release(publishable: Finished, tmp_path: Path) -> Path:
    """A copy of the finished release, to be spoilt."""
    return shutil.copytree(publishable.release, tmp_path / "release")


@pytest.fixture
def replaced(publishable: Finished, tmp_path: Path) -> Project:
    """The project, to be built otherwise (what was done is in the store of `publishable`)."""
    shutil.copytree(publishable.project.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", publishable.project.recipe | {})


def reasons(folder: Path, endpoint: str = HUB, *, provisional: bool = False, **spec: Any) -> list[str]:
    """All that is said against the release in ``folder``; ``spec`` changes the `publish` section."""
    manifest = read_manifest(folder)
    recipe = load_recipe(folder / manifest.recipe).recipe
    assert recipe.publish is not None
    lines = refusals(
        folder,
        manifest,
        recipe,
        recipe.publish.model_copy(update=spec),
        endpoint=endpoint,
        allow_provisional=provisional,
        reporter=Silent(),
    )
    assert all("\n" not in line and "; " in line for line in lines), lines
    assert not any(str(folder) in line for line in lines), "names are those of the release"
    return lines


def rewrite(folder: Path, **changes: Any) -> Manifest:
    """Change fields of the manifest, and seal it again."""
    manifest = read_manifest(folder).model_copy(update=changes).sealed()
    (folder / MANIFEST).write_text(manifest.text())
    return manifest


def put(folder: Path, name: str, content: bytes) -> None:
    """Put a file into the release, and into its manifest."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    adopt(folder, name)


def adopt(folder: Path, name: str) -> None:
    """Let the manifest list the file ``name`` as it is now, and the measurements be of it."""
    manifest = read_manifest(folder)
    digest = sha256_of(folder / name)
    new = Digest(sha256=digest.sha256, size=digest.size)
    if name in manifest.records:
        rewrite(folder, records={**manifest.records, name: new})
        return
    record = FileRecord(sha256=digest.sha256, size=digest.size, made_by="convert")

    def measured(figures: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
        return tuple(
            each.model_copy(update={"artifacts": {**each.artifacts, name: digest.sha256}})
            if name in each.artifacts
            else each
            for each in figures
        )

    observed = manifest.observed.model_copy(update={"measurements": measured(manifest.observed.measurements)})
    rewrite(
        folder,
        files={**manifest.files, name: record},
        measurements=measured(manifest.measurements),
        observed=observed,
    )

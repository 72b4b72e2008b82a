"""The recipes of Core ML embedders, unmodified: one from the package registry, one from a stand-in on a local Hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wespeaker_coreml import write

from hubpub.build import build, verify_release
from hubpub.coremlfile import Package
from hubpub.coremlfile.device import not_here
from hubpub.coremlfile.mil import Model
from hubpub.localhub import LocalHub
from hubpub.manifest import Manifest
from hubpub.recipe import load_recipe
from hubpub.report import Silent
from hubpub.store import Store

RECIPES = Path(__file__).parents[2] / "recipes"
UPSTREAM = "FluidInference/speaker-diarization-coreml"

pytestmark = [pytest.mark.slow, pytest.mark.registry]


def figures(manifest: Manifest) -> dict[str, float]:
    return {f"{each.run}/{each.metric}": each.value for each in manifest.measurements if each.against is None}


def check_devices(manifest: Manifest, card: str, runs: set[str]) -> None:
    """On a Mac the packages ran on all units, near to reference execution; elsewhere it is said that they did not."""
    if reason := not_here():
        assert manifest.not_run == dict.fromkeys(runs, reason)
        assert f"{reason}, so where this was built these were not run: " in card
        return
    assert not manifest.not_run
    found = {f"{each.run}/{each.metric}": each.value for each in manifest.all_measurements() if each.against is None}
    for run in runs:
        assert found[f"{run}/cosine"] >= 0.99
        assert 0 < found[f"{run}/latency_median"] <= found[f"{run}/latency_p95"]
        assert found[f"{run}/load_time"] > 0


UNITS = ("cpu", "gpu", "ne", "all")


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_campplus(shared_store: Store, tmp_path: Path) -> None:
    recipe = RECIPES / "campplus-coreml.yaml"
    built = build(recipe, shared_store, Silent(), output=tmp_path / "release", locked=True)
    manifest = verify_release(built.folder)
    assert not manifest.synthetic
    assert len(manifest.all_verdicts()) == len(load_recipe(recipe).recipe.gates)
    assert all(verdict.passed for verdict in manifest.all_verdicts())
    found = figures(manifest)
    assert 0 < found["fp16/eer"] < 0.03
    assert found["8bit/trial_shift"] < found["6bit/trial_shift"] <= 0.02
    fp16, eight, six = (built.folder / f"camplusplus_batch16{name}.mlpackage" for name in ("", "_8bit", "_6bit"))
    assert size(six) < 0.44 * size(fp16)
    assert size(eight) < 0.55 * size(fp16)
    for path in (fp16, eight, six):
        (part,) = Package.open(path).parts
        assert part.interface() == Package.open(fp16).parts[0].interface()
    card = (built.folder / "README.md").read_text("utf-8")
    assert "(no Core ML) of camplusplus_batch16_6bit.mlpackage, rounded to fp16" in card
    check_devices(manifest, card, {f"{bits}-{units}" for bits in ("8bit", "6bit") for units in UNITS})


def test_wespeaker(shared_store: Store, tmp_path: Path) -> None:
    """Random weights: the numbers of the tables are real, those of the voices say nothing, and the card says so."""
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    write(upstream / "wespeaker.mlpackage")
    recipe = Path(shutil.copy(RECIPES / "wespeaker-coreml.yaml", tmp_path / "wespeaker-coreml.yaml"))
    shutil.copytree(RECIPES.parent / "templates", tmp_path / "templates")
    release = tmp_path / "release"
    with LocalHub(tmp_path / "hub") as hub:
        hub.seed(UPSTREAM, upstream)
        env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token(), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HOME": str(tmp_path / "home"), "HUBPUB_CACHE": str(shared_store.root)}
        command = [sys.executable, "-c", "from hubpub.cli import main; main()", "build", recipe, "--output", release]
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = verify_release(release)
    assert manifest.synthetic
    assert all(verdict.passed for verdict in manifest.all_verdicts())
    found = figures(manifest)
    assert 0.998 <= found["8bit/cosine"] < 1
    assert found["8bit/download_size"] < 0.6 * found["fp16/download_size"]
    card = (release / "README.md").read_text("utf-8")
    assert "**Synthetic.**" in card
    check_devices(manifest, card, {f"8bit-{units}" for units in UNITS})
    model = Model(Package.open(release / "wespeaker_8bit.mlpackage"))
    assert {name: kind.shape for name, kind in model.inputs.items()} == {"waveform": (3, 160_000), "mask": (3, 589)}

"""The diarization recipe, unmodified: real weights and speech, and a loopback Hub with a stand-in of ResNet34."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubpub.build import verify_release
from hubpub.localhub import LocalHub
from hubpub.manifest import Manifest
from hubpub.recipe import load_recipe, lock_path
from hubpub.store import Store

RECIPES = Path(__file__).parents[1] / "recipes"
STAND_IN = Path(__file__).parent / "standins" / "wespeaker_resnet34.py"
REPO = "Wespeaker/wespeaker-voxceleb-resnet34"
BUNDLE = 10_000_000  # bytes

pytestmark = [pytest.mark.slow, pytest.mark.registry]


@dataclass
class Stage:
    """The recipe as it stands in the repo, and a Hub."""

    folder: Path
    endpoint: str
    token: str
    cache: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipes" / "polyvoice.yaml"

    def run(self, *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from hubpub.cli import main; main()", *map(str, arguments)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUBPUB_"))}
        hub = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_HOME": str(self.folder / "home")}
        env = {**kept, **hub, "HUBPUB_CACHE": str(self.cache), **settings}
        return subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stage(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("polyvoice")
    (folder / "recipes").mkdir()
    for name in ("polyvoice.yaml", "polyvoice.lock"):
        shutil.copy(RECIPES / name, folder / "recipes" / name)
    shutil.copytree(RECIPES / "scripts", folder / "recipes" / "scripts")
    shutil.copytree(RECIPES.parent / "templates", folder / "templates")
    subprocess.run([sys.executable, STAND_IN, "--out", folder / "upstream", "--channels", "4"], check=True)
    with LocalHub(folder / "hub") as hub:
        hub.seed(REPO, folder / "upstream")
        yield Stage(folder, hub.endpoint, hub.token(), shared_store.root)


@pytest.fixture(scope="module")
def built(stage: Stage) -> Manifest:
    done = stage.run("build", stage.recipe, "-o", stage.folder / "dist", "--quiet")
    assert done.returncode == 0, done.stderr
    return verify_release(stage.folder / "dist")


def test_every_gate_is_met(built: Manifest) -> None:
    recipe = load_recipe(RECIPES / "polyvoice.yaml").recipe
    assert set(recipe.files) <= set(built.files)
    verdicts = built.all_verdicts()
    assert len(verdicts) == len(recipe.gates)
    assert all(verdict.passed for verdict in verdicts)
    figures = {each.key: each.value for each in built.all_measurements() if each.subset is None and not each.against}
    assert figures["powerset/der"] <= 0.095
    assert figures["cam_pp/eer"] <= 0.015
    assert figures["bundle/download_size"] == sum(
        built.files[name].size for name in ("powerset_int8.onnx", "cam_pp_int8.onnx")
    )
    assert figures["bundle/download_size"] <= BUNDLE


def test_every_layer_says_what_was_done(built: Manifest, stage: Stage) -> None:
    card = (stage.folder / "dist" / "README.md").read_text("utf-8")
    steps = {name: step.facts for name, step in built.steps.items() if step.kind == "transform"}
    for name, facts in steps.items():
        assert facts["layers"], name
        reasons = Counter(each["reason"] for each in facts["skipped"])
        for reason, count in reasons.items():
            assert reason
            assert f"| {reason} | {count} |" in card
        if facts["skipped"]:
            largest = max(facts["skipped"], key=lambda each: each["bytes"])
            assert f"`{largest['weight']}` ({'×'.join(map(str, largest['shape']))})" in card
    assert "`sincnet.filters`" in card
    assert "stored int8" in card


def test_it_is_provisional_and_is_not_published_without_the_flag(built: Manifest, stage: Stage) -> None:
    assert built.provisional == ("calibration stands in for VoxConverse-dev (500 samples, seed 42)",)
    assert built.synthetic  # ResNet34 is a stand-in here
    assert "**Provisional.**" in (stage.folder / "dist" / "README.md").read_text("utf-8")
    done = stage.run("publish", stage.folder / "dist")
    assert done.returncode == 3
    assert "provisional: calibration stands in for VoxConverse-dev" in done.stderr


def test_without_the_hub_it_says_what_cannot_be_reached(stage: Stage, tmp_path: Path) -> None:
    """The lock pins what the registry holds; what it does not pin yet is resolved at the first build."""
    lock = lock_path(RECIPES / "polyvoice.yaml")
    assert "resnet34" not in json.loads(lock.read_text("utf-8"))["sources"]
    for name in ("recipes", "templates"):
        shutil.copytree(stage.folder / name, tmp_path / name)
    shutil.copy(lock, tmp_path / "recipes")
    recipe = tmp_path / "recipes" / "polyvoice.yaml"
    done = stage.run("build", recipe, "-o", tmp_path / "dist", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"hubpub: {REPO}@main: the Hub cannot be reached")
    assert "Traceback" not in done.stderr
    done = stage.run("build", recipe, "-o", tmp_path / "dist", "--locked")
    assert done.returncode == 2
    assert "does not answer the recipe for: resnet34" in done.stderr

"""The recipe of the seven Sortformer packages, unmodified, against a Hub on loopback that holds a stand-in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from hubpub.coremlfile import Package, find_aliases
from hubpub.coremlfile.device import not_here
from hubpub.localhub import LocalHub
from hubpub.manifest import read_manifest

ROOT = Path(__file__).parents[2]
REPO = "FluidInference/diar-streaming-sortformer-coreml"
VARIANTS = (
    "Sortformer_v2.1",
    "Sortformer_v2",
    "SortformerNvidiaLow_v2.1",
    "SortformerNvidiaLow_v2",
    "SortformerNvidiaHigh_v2.1",
    "SortformerNvidiaHigh_v2",
    "SortformerEfficient_v2.1",
)
ALIASED = "Sortformer_v2"
pytestmark = [pytest.mark.slow, pytest.mark.registry]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sortformer")
    script = ROOT / "tests" / "standins" / "sortformer.py"
    subprocess.run([sys.executable, script, "--out", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def release(upstream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release folder: the recipe built by the command line, its Hub a process away."""
    folder = tmp_path_factory.mktemp("sortformer-build")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(ROOT / "templates", folder / "templates")
    with LocalHub(folder / "hub") as hub:
        hub.seed(REPO, upstream)
        done = subprocess.run(
            [sys.executable, "-c", "from hubpub.cli import main; main()", "build", "recipes/sortformer.yaml"],
            cwd=folder,
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist" / "sortformer"


def figures(release: Path) -> dict[str, dict[str, Any]]:
    manifest = json.loads((release / "hubpub.json").read_text())
    found: dict[str, dict[str, Any]] = {}
    for each in manifest["measurements"]:
        if each.get("subset") is None and each.get("against") is None:
            found.setdefault(each["run"], {})[each["metric"]] = each["value"]
    return found


def test_all_variants_are_there_smaller_and_without_an_alias(release: Path) -> None:
    for variant in VARIANTS:
        packages = {
            kind: Package.open(release / "v3" / kind / f"{variant}.mlpackage") for kind in ("fp16", "palettized")
        }
        sizes = {}
        for kind, package in packages.items():
            assert not find_aliases(package)
            sizes[kind] = sum(path.stat().st_size for path in package.path.rglob("weights/*"))
        assert packages["fp16"].interface() == packages["palettized"].interface()
        assert sizes["palettized"] < 0.5 * sizes["fp16"]


def test_only_what_had_the_fault_is_changed(release: Path, upstream: Path) -> None:
    for variant in VARIANTS:
        model = Path("v3", "fp16", f"{variant}.mlpackage", "Data", "com.apple.CoreML", "model.mlmodel")
        same = (release / model).read_bytes() == (upstream / model).read_bytes()
        assert same == (variant != ALIASED)


def test_what_is_said_is_measured_and_stays(release: Path) -> None:
    found = figures(release)
    for variant in VARIANTS:
        assert found[f"{variant}-6bit"]["argmax_agreement"] >= 0.98
        assert found[f"{variant}-fp16"]["der"] > 0
        assert found[f"{variant}-6bit"]["download_size"] < found[f"{variant}-fp16"]["download_size"]


def test_the_card_says_that_it_is_synthetic_and_how_it_was_run(release: Path) -> None:
    card = (release / "README.md").read_text()
    assert "**Synthetic.**" in card
    assert re.search(r"reference execution on \w+ \(no Core ML\) of v3/palettized/", card)


def test_packages_run_on_every_unit_of_a_mac_and_elsewhere_it_is_said_that_they_did_not(release: Path) -> None:
    runs = {f"{variant}-6bit-{units}" for variant in VARIANTS for units in ("cpu", "gpu", "ne", "all")}
    manifest = read_manifest(release)
    if reason := not_here():
        assert manifest.not_run == dict.fromkeys(runs, reason)
        assert f"{reason}, so where this was built these were not run: " in (release / "README.md").read_text()
    else:
        found = figures(release)
        assert all(found[run]["argmax_agreement"] >= 0.98 for run in runs)


def test_at_least_two_speakers_cross_the_threshold(release: Path, source_files: Path) -> None:
    """Agreement of two models that say nothing would mean nothing."""
    import soundfile

    from hubpub.measure.clients.sortformer import Sortformer

    samples = soundfile.read(source_files / "pyannote/src/pyannote/audio/sample/sample.wav", dtype="float32")[0]
    for variant in VARIANTS[:2]:
        client = Sortformer(client="sortformer", model=f"v3/palettized/{variant}.mlpackage")
        (said,) = client.load(release, {}).run(samples).arrays
        share = (np.asarray(said) > 0.5).mean(axis=0)
        assert ((share > 0.02) & (share < 0.98)).sum() >= 2

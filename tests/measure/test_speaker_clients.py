"""Clients that say who speaks: small graphs that compute what can be foretold, the real Silero VAD, real outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from measure_fakes import digests
from onnx import TensorProto, helper, numpy_helper

from hubpub.corpus.corpus import Corpus, Turn
from hubpub.errors import MeasureError
from hubpub.measure.clients.onnx_asr_embeddings import OnnxAsrEmbeddings
from hubpub.measure.clients.onnx_asr_vad import OnnxAsrVad
from hubpub.measure.clients.powerset import Powerset, frame_turns
from hubpub.measure.diarization import compare_turns
from hubpub.measure.metrics.der import Der
from hubpub.measure.metrics.eer import Eer
from hubpub.measure.run import run_client

DATA = Path(__file__).parents[1] / "data"
Speech = tuple[Path, Corpus]


def spec(**fields: Any) -> Powerset:
    return Powerset.model_validate({"client": "powerset", "model": "model.onnx"} | fields)


def save(folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    return folder


def test_classes_are_those_of_pyannote() -> None:
    assert spec().classes() == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    assert len(spec(speakers=4, at_once=3).classes()) == 1 + 4 + 6 + 4


def test_frames_become_turns() -> None:
    scores = np.full((589, 7), -5.0)
    scores[:, 0] = 0
    scores[100:200, 1] = scores[150:250, 4] = scores[500:, 3] = 1
    scores[150:200, 4] = 2
    found = frame_turns(scores, spec(), 20.0, 27.0)
    step, first = 270 / 16_000, 991 / 32_000
    at = [round(20 + first + (frame - 0.5) * step, 6) for frame in (100, 150, 250)]
    assert found == [
        Turn(start=at[0], end=at[2], speaker="0"),
        Turn(start=at[1], end=at[2], speaker="1"),
    ]  # what begins after the end of the clip is left out
    whole = frame_turns(scores, spec(), 20.0, 30.0)
    assert (whole[-1].speaker, whole[-1].end) == ("2", 30.0)
    with pytest.raises(MeasureError, match="gives 589x7 scores, and 2 speakers make 4 classes"):
        frame_turns(scores, spec(speakers=2), 0, 10)


def test_real_scores_of_the_powerset_model() -> None:
    """What pyannote's weights say of the first 10 s of its sample.wav: all of the speech, and one voice."""
    scores = np.load(DATA / "reference_outputs.npz")["segmentation_log_probs"]
    found = frame_turns(scores, spec(), 0.0, 10.0)
    assert {turn.speaker for turn in found} == {"1"}
    # debug.rttm of the sample, its first 10 s
    said = [(6.690, 7.120, "a"), (7.550, 8.350, "b"), (8.320, 10.0, "a"), (9.920, 10.0, "b")]
    reference = tuple(Turn(start=start, end=end, speaker=name) for start, end, name in said)
    parts = compare_turns(reference, found, [(0, 10)])
    assert parts.missed < 0.15
    assert parts.false_alarm < 0.5


def test_a_run_over_real_audio_keeps_windows_turns_and_scores(speech: Speech, tmp_path: Path) -> None:
    """The graph calls a frame speech of the first speaker where its mean power is above a threshold."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["power"]),
        helper.make_node("AveragePool", ["power"], ["mean"], kernel_shape=[991], strides=[270]),
        helper.make_node("Transpose", ["mean"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "weight"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["scores"]),
    ]
    folder = save(
        tmp_path / "m",
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "n"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "f", 7])],
        {
            "weight": np.array([[0, 1e4, 0, 0, 0, 0, 0]], dtype=np.float32),
            "bias": np.array([0, -1, -9, -9, -9, -9, -9], dtype=np.float32),
        },
    )
    result = run_client(
        spec(window_s=1.0), folder, speech[0], tmp_path / "o", lambda _: None, run="r", artifacts=digests(folder)
    )
    heard = 0
    for clip, utterance in zip(speech[1].clips, result.utterances, strict=True):
        assert utterance.windows is not None
        assert utterance.windows[0][0] == 0
        assert utterance.windows[-1][1] == pytest.approx(clip.seconds, abs=1e-3)
        assert len(utterance.outputs) == len(utterance.windows) == utterance.segments
        assert utterance.turns is not None
        heard += len(utterance.turns)
        samples = np.load(speech[0] / clip.samples)
        if not utterance.turns:
            continue
        active = np.zeros(len(samples), dtype=bool)
        for turn in utterance.turns:
            assert turn.speaker == "0"
            active[round(turn.start * 16_000) : round(turn.end * 16_000)] = True
        loud = np.square(samples[active]).mean() / max(np.square(samples[~active]).mean(), 1e-12)
        assert loud > 2
    assert heard > 6
    assert json.loads((tmp_path / "o" / "utterances.jsonl").read_text().splitlines()[0])["windows"]


@pytest.mark.parametrize("name", ["silero_vad"])
def test_the_real_silero_finds_speech_and_silence(
    silero_onnx_dir: Path, two_cities_wav: Path, tmp_path: Path, name: str
) -> None:
    import soundfile

    from hubpub.corpus.prepare import prepare
    from hubpub.corpus.spec import CorpusSpec

    data, rate = soundfile.read(two_cities_wav, dtype="float32")
    silence = np.zeros(2 * rate, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", np.concatenate([silence, data[2 * rate : 10 * rate], silence]), rate)
    defaults = {"source": "LibriVox", "license": "CC0-1.0"}
    recipe = CorpusSpec.model_validate({"role": "evaluation", "defaults": defaults, "clips": [{"audio": "a.wav"}]})
    prepared = prepare(recipe, {"a.wav": tmp_path / "a.wav"}, tmp_path / "c")
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copy(silero_onnx_dir / f"{name}.onnx", folder / "silero_vad.onnx")
    vad = OnnxAsrVad.model_validate({"client": "onnx-asr-vad", "model": "silero", "min_silence_ms": 1000})
    result = run_client(vad, folder, tmp_path / "c", tmp_path / "o", lambda _: None, run="vad", artifacts={})
    (found,) = result.utterances
    assert found.turns
    assert 1.9 < found.turns[0].start < 2.6
    assert 9.0 < found.turns[-1].end < 10.3
    # turns are no part of what was prepared here; the metric is given a corpus that has them
    spoken = prepared.clips[0].model_copy(update={"turns": (Turn(start=2.1, end=10.0, speaker="reader"),)})
    corpus = prepared.model_copy(update={"clips": (spoken,)})
    moved = result.model_copy(update={"job": result.job.model_copy(update={"corpus": corpus.digest})})
    (der, *_) = Der(metric="der", speech_only=True).measure(moved, corpus)
    assert der.value < 0.1


def test_embeddings_through_the_real_loader(speech: Speech, tmp_path: Path) -> None:
    folder = save(
        tmp_path / "m",
        [
            helper.make_node("Abs", ["feats"], ["size"]),
            helper.make_node("ReduceMean", ["size"], ["embs"], axes=[1], keepdims=0),
        ],
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["b", "t", 80])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["b", 80])],
        {},
    )
    client = OnnxAsrEmbeddings.model_validate({"client": "onnx-asr-embeddings"})
    result = run_client(client, folder, speech[0], tmp_path / "o", lambda _: None, run="r", artifacts=digests(folder))
    from onnx_asr.preprocessors.numpy_preprocessor import KaldiPreprocessorNumpy

    for clip, utterance in zip(speech[1].clips, result.utterances, strict=True):
        samples = np.load(speech[0] / clip.samples)
        features, _ = KaldiPreprocessorNumpy("wespeaker")(samples[None], np.array([len(samples)]))
        expected = np.abs(features - features.mean(axis=1, keepdims=True)).mean(axis=1)
        (name,) = utterance.outputs
        np.testing.assert_allclose(np.load(tmp_path / "o" / name).ravel(), expected.ravel(), rtol=1e-4)
    spoken = tuple(
        clip.model_copy(update={"provenance": clip.provenance.model_copy(update={"speaker": f"s{i % 2}"})})
        for i, clip in enumerate(speech[1].clips)
    )
    corpus = speech[1].model_copy(update={"clips": spoken})
    assert corpus.digest == speech[1].digest
    (eer,) = Eer(metric="eer").measure(result, corpus)
    assert eer.n == 15

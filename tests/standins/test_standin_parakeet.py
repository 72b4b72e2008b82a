"""The stand-in has upstream's shape, and what comes out of it hangs on what goes in and on every kind of weight."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastconformer
import numpy as np
import numpy.typing as npt
import onnx
import onnx_asr
import onnxruntime as ort
import pytest
import soundfile as sf
import soxr
from onnx_asr.preprocessors.numpy_preprocessor import NemoPreprocessorNumpy
from parakeet import write_repo
from parakeet_decoder import decoder_joint
from parakeet_encoder import encoder
from parakeet_scale import SCALES, TOKENS
from standin_weights import InMemory, Quantized, RelativePositions, Stream, Weights

from hubpub.onnxfile import OnnxFile, pack, write
from hubpub.onnxfile.marks import is_synthetic
from hubpub.transform.shard import Shard

Array = npt.NDArray[Any]
SCRIPT = Path(__file__).with_name("parakeet.py")
WINDOW = 30 * 16_000
# sha256
DATA = "0d1617cb20a69cbf0f98b72a60f3963a723a444c108f338b6b2089547c8c23db"
POSITIONS = "26319c59bd3fde428f8a9979325b051d4e6857fe1f19c3b423a59233717ce2c3"
QUANTIZED = "6b7eb576a86d653dca8dbfa98cf959b04520d00b5b6aa8784e21a9407b5b8ba1"
BLOCKS = [
    "pre_encode.conv.0.weight",
    "pre_encode.conv.3.weight",
    "layers.1.feed_forward1.linear1.weight",
    "layers.1.feed_forward2.linear2.weight",
    "layers.1.self_attn.linear_q.weight",
    "layers.1.self_attn.linear_k.weight",
    "layers.1.self_attn.linear_v.weight",
    "layers.1.self_attn.linear_pos.weight",
    "layers.1.self_attn.pos_bias_u",
    "layers.1.conv.pointwise_conv1.weight",
    "layers.1.conv.depthwise_conv.weight",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_repo(folder, SCALES["tiny"])
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_repo(folder, SCALES["small"])
    return folder


@pytest.fixture(scope="module")
def clips(source_files: Path, two_cities_wav: Path) -> dict[str, Array]:
    """30 s each of two speakers, 16 kHz."""
    aepyx = source_files / "silero/examples/c++/aepyx.wav"
    windows = {}
    for name, path, start in (("two cities", two_cities_wav, 0), ("aepyx", aepyx, 60), ("aepyx later", aepyx, 120)):
        rate = sf.info(path).samplerate
        samples, _ = sf.read(path, frames=30 * rate, start=start * rate, dtype="float32")
        windows[name] = soxr.resample(samples, rate, 16_000)[:WINDOW]
        assert len(windows[name]) == WINDOW
    return windows


@pytest.fixture(scope="module")
def said(small: Path, clips: dict[str, Array]) -> dict[str, list[str]]:
    """What onnx-asr makes of the clips with the small stand-in in float32."""
    return {name: tokens(small, clip) for name, clip in clips.items()}


def tokens(folder: Path, audio: Array, quantization: str | None = None) -> list[str]:
    """What onnx-asr makes of it."""
    model = onnx_asr.load_model("nemo-conformer-tdt", folder, quantization=quantization)
    return model.with_timestamps().recognize(audio).tokens or []


def edits(a: list[str], b: list[str]) -> float:
    """Levenshtein distance over the length of ``a``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1] / len(a)


def without(folder: Path, block: str | None, out: Path) -> Path:
    """The repo with one weight of the encoder zeroed, or written anew with none."""
    out.mkdir()
    for file in folder.iterdir():
        if not file.name.startswith("encoder-model.onnx"):
            (out / file.name).symlink_to(file)
    model = OnnxFile.open(folder / "encoder-model.onnx")
    tensors = {tensor.name: tensor for tensor in model.model.graph.initializer}
    if block:
        payload = model.payload(tensors[block])
        assert payload is not None
        model.attach(tensors[block], InMemory(bytes(payload.nbytes)))
    weights = [(at.steps, p) for at in model.tensors() if (p := model.payload(at.tensor)) and p.nbytes >= 1024]
    write(model, out / "encoder-model.onnx", pack(weights, name=lambda _: "encoder-model.onnx.data", max_bytes=2**40))
    return out


# Shape


def test_full_scale_has_upstreams_structure() -> None:
    file = encoder(SCALES["full"])
    weights = {tensor.name for tensor in file.model.graph.initializer}
    ops: Counter[str] = Counter()
    for node in file.model.graph.node:
        by_weight = len(node.input) > 1 and node.input[1] in weights
        ops[f"{node.op_type} by a weight" if by_weight else node.op_type] += 1
    assert ops["MatMul by a weight"] == 24 * 9 + 1
    assert ops["MatMul"] == 24 * 3
    assert ops["Conv by a weight"] == 24 * 3 + 5
    assert ops["LayerNormalization by a weight"] == 24 * 5
    external = {p for tensor in file.model.graph.initializer if (p := file.payload(tensor))}
    assert sum(payload.nbytes for payload in external) == 2_435_420_160
    decoder = decoder_joint(SCALES["full"])
    parameters = [p.nbytes for tensor in decoder.model.graph.initializer if (p := decoder.payload(tensor))]
    assert sum(parameters) == 72_514_072


def test_files_are_upstreams(tiny: Path) -> None:
    assert {file.name for file in tiny.iterdir()} == {
        "encoder-model.onnx", "encoder-model.onnx.data", "encoder-model.int8.onnx", "decoder_joint-model.onnx",
        "decoder_joint-model.int8.onnx", "nemo128.onnx", "vocab.txt", "config.json",
    }  # fmt: skip
    lines = (tiny / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert [line.split(" ")[1] for line in lines] == [str(n) for n in range(TOKENS + 1)]
    assert len({line.split(" ")[0] for line in lines}) == TOKENS + 1
    assert lines[-1] == "<blk> 8192"
    assert json.loads((tiny / "config.json").read_text())["synthetic"] is True


@pytest.mark.parametrize("suffix", ["", ".int8"])
def test_interfaces_are_upstreams(tiny: Path, suffix: str) -> None:
    def interface(name: str) -> list[tuple[str, str, list[int | str]]]:
        session = ort.InferenceSession(tiny / name)
        values = [*session.get_inputs(), *session.get_outputs()]
        return [(v.name, v.type, ["n" if isinstance(dim, str) else dim for dim in v.shape]) for v in values]

    scale = SCALES["tiny"]
    state = [2, "n", scale.prediction]
    assert interface(f"encoder-model{suffix}.onnx") == [
        ("audio_signal", "tensor(float)", ["n", 128, "n"]),
        ("length", "tensor(int64)", ["n"]),
        ("outputs", "tensor(float)", ["n", scale.width, "n"]),
        ("encoded_lengths", "tensor(int64)", ["n"]),
    ]
    assert interface(f"decoder_joint-model{suffix}.onnx") == [
        ("encoder_outputs", "tensor(float)", ["n", scale.width, "n"]),
        ("targets", "tensor(int32)", ["n", "n"]),
        ("target_length", "tensor(int32)", ["n"]),
        ("input_states_1", "tensor(float)", state),
        ("input_states_2", "tensor(float)", state),
        ("outputs", "tensor(float)", ["n", "n", "n", 8198]),
        ("prednet_lengths", "tensor(int32)", ["n"]),
        ("output_states_1", "tensor(float)", state),
        ("output_states_2", "tensor(float)", state),
    ]


def test_onnx_finds_the_graphs_sound(tiny: Path) -> None:
    for file in tiny.glob("*.onnx"):
        full = ".int8" not in file.name  # there is no shape inference for DynamicQuantizeLSTM
        onnx.checker.check_model(file, full_check=full)


def test_all_say_that_they_are_synthetic_and_go_on_to(tiny: Path, tmp_path: Path) -> None:
    models = list(tiny.glob("*.onnx"))
    assert len(models) == 5
    assert all(is_synthetic(model) for model in models)
    Shard(max_bytes=10**7).apply(tiny / "encoder-model.onnx", tmp_path / "m.onnx", lambda _: None)
    assert is_synthetic(tmp_path / "m.onnx")


# What the graphs compute


def test_encoder_is_a_fastconformer(tiny: Path) -> None:
    file = OnnxFile.open(tiny / "encoder-model.onnx")
    weights = {tensor.name: file.array(tensor).astype(np.float64) for tensor in file.model.graph.initializer}
    features = np.random.default_rng(1).standard_normal((128, 333))
    expected = fastconformer.encode(weights, features, SCALES["tiny"].heads, SCALES["tiny"].layers)
    session = ort.InferenceSession(tiny / "encoder-model.onnx")
    feeds = {"audio_signal": features[None].astype(np.float32), "length": np.array([333])}
    outputs, lengths = session.run(None, feeds)
    assert lengths.tolist() == [42]
    assert outputs.shape == (1, 64, 42)
    assert np.abs(outputs[0].T - expected).max() < 2e-3 * np.abs(expected).max()


def test_what_is_beyond_the_length_changes_nothing(tiny: Path) -> None:
    session = ort.InferenceSession(tiny / "encoder-model.onnx")
    features = np.random.default_rng(2).standard_normal((2, 128, 400)).astype(np.float32)
    batch, lengths = session.run(None, {"audio_signal": features, "length": np.array([400, 237])})
    alone, _ = session.run(None, {"audio_signal": features[1:, :, :237], "length": np.array([237])})
    assert lengths.tolist() == [50, 30]
    np.testing.assert_allclose(batch[1, :, :30], alone[0], atol=1e-3)


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 3000, 16_393, 39_999, 200_001])
def test_lengths_are_counted_exactly(tiny: Path, frames: int) -> None:
    session = ort.InferenceSession(tiny / "encoder-model.onnx")
    signal = np.zeros((1, 128, 64), np.float32)
    (length,) = session.run(["encoded_lengths"], {"audio_signal": signal, "length": np.array([frames])})
    assert length.tolist() == [(frames - 1) // 8 + 1]


def test_features_are_nemos(tiny: Path, clips: dict[str, Array]) -> None:
    waves = np.stack(list(clips.values()))
    lens = np.array([WINDOW, WINDOW - 12_345, 16_001])
    for wave, length in zip(waves, lens, strict=True):
        wave[length:] = 0
    features, feature_lens = ort.InferenceSession(tiny / "nemo128.onnx").run(
        None, {"waveforms": waves, "waveforms_lens": lens}
    )
    expected, expected_lens = NemoPreprocessorNumpy("nemo128")(waves.copy(), lens)
    assert feature_lens.tolist() == expected_lens.tolist()
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() < 1e-3


def test_int8_is_about_the_same_model(small: Path, clips: dict[str, Array]) -> None:
    features, lens = NemoPreprocessorNumpy("nemo128")(clips["aepyx"][None], np.array([WINDOW]))
    feeds = {"audio_signal": features.astype(np.float32), "length": lens}
    exact, coarse = (
        ort.InferenceSession(small / f"encoder-model{suffix}.onnx").run(["outputs"], feeds)[0]
        for suffix in ("", ".int8")
    )
    snr = 10 * np.log10((exact**2).mean() / ((exact - coarse) ** 2).mean())
    assert 9 < snr < 25, "the outliers must cost something, and not everything"


def test_outliers_are_the_same_channels_in_every_layer(small: Path, clips: dict[str, Array]) -> None:
    model = onnx.load(small / "encoder-model.onnx", load_external_data=False)
    norms = [n.output[0] for n in model.graph.node if n.op_type == "LayerNormalization"][:-1]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in norms)
    probe = small / "probe.onnx"
    probe.write_bytes(model.SerializeToString())
    features, lens = NemoPreprocessorNumpy("nemo128")(clips["aepyx"][None], np.array([WINDOW]))
    activations = ort.InferenceSession(probe).run(norms, {"audio_signal": features.astype(np.float32), "length": lens})
    probe.unlink()
    outliers = list(Stream(SCALES["small"].width).outliers)
    assert len(outliers) == 8
    for activation in activations:
        sizes = np.sqrt((activation[0] ** 2).mean(0))
        ratio = sizes[outliers] / np.median(sizes)
        assert sorted(np.argsort(sizes)[-len(outliers) :].tolist()) == sorted(outliers)
        assert ratio.min() > 4
        assert ratio.max() > 20


# Not vacuous


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_speech_gives_tokens(small: Path, clips: dict[str, Array], quantization: str | None) -> None:
    for clip in clips.values():
        spoken = tokens(small, clip, quantization)
        assert 50 <= len(spoken) <= 375
        assert len(set(spoken)) > len(spoken) / 2
        assert "<blk>" not in spoken


def test_tokens_depend_on_the_audio(small: Path, clips: dict[str, Array], said: dict[str, list[str]]) -> None:
    noise = 0.05 * np.random.default_rng(3).standard_normal(WINDOW).astype(np.float32)
    assert tokens(small, clips["aepyx"]) == said["aepyx"]
    assert edits(said["two cities"], said["aepyx"]) > 0.7
    assert edits(said["two cities"], tokens(small, noise)) > 0.7
    assert len(tokens(small, np.zeros(WINDOW, np.float32))) < 10


@pytest.mark.parametrize("block", [None, *BLOCKS])
def test_every_kind_of_weight_matters(
    small: Path, clips: dict[str, Array], said: dict[str, list[str]], block: str | None, tmp_path: Path
) -> None:
    changed = edits(said["aepyx"], tokens(without(small, block, tmp_path / "repo"), clips["aepyx"]))
    assert changed > 0.05 if block else changed == 0


# Bytes and memory


def _digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def test_same_bytes_in_any_process(tiny: Path, tmp_path: Path) -> None:
    for seed in ("0", "4711"):
        command: list[str | Path] = [sys.executable, SCRIPT, "--out", tmp_path / seed, "--scale", "tiny"]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        assert _digests(tmp_path / seed) == _digests(tiny)


def test_same_weights_on_any_machine(tiny: Path) -> None:
    """What neither protobuf nor onnx has a say in; the values must never change, or figures lose their base."""
    positions = hashlib.sha256(RelativePositions(200, 64).read()).hexdigest()
    quantized = hashlib.sha256(Quantized(Weights("q", (1, 64, 48), 0.1), transposed=True).read()).hexdigest()
    assert _digests(tiny)["encoder-model.onnx.data"] == DATA
    assert positions == POSITIONS
    assert quantized == QUANTIZED


def test_weights_are_normal_and_gains_apply() -> None:
    plain = np.frombuffer(Weights("w", (3000, 100), 0.5).read(), np.float32).reshape(3000, 100)
    assert abs(plain.mean()) < 0.003
    assert abs(plain.std() - 0.5) < 0.003
    assert abs((np.abs(plain) < 0.5).mean() - 0.6827) < 0.003
    assert abs(np.corrcoef(plain[:-1].ravel(), plain[1:].ravel())[0, 1]) < 0.01
    gains = ((0, tuple(float(n) for n in range(3000))), (1, tuple(float(n % 7) for n in range(100))))
    scaled = np.frombuffer(Weights("w", (3000, 100), 0.5, gains).read(), np.float32).reshape(3000, 100)
    np.testing.assert_allclose(scaled, plain * np.arange(3000)[:, None] * (np.arange(100) % 7), rtol=1e-6)
    centered = np.frombuffer(Weights("w", (3000, 100), 0.5, centered=0).read(), np.float32).reshape(3000, 100)
    assert np.abs(centered.sum(0)).max() < 5e-3 < np.abs(plain.sum(0)).max()


def _peak_rss(arguments: list[str | Path]) -> int:
    """Bytes at the highest, over those of the interpreter with its imports."""
    script = "import resource, runpy, sys; import numpy, onnx, hubpub.onnxfile\n"
    script += "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    script += "before = peak(); sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
    script += "runpy.run_path(sys.argv[0], run_name='__main__'); print(peak() - before)"
    result = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    return int(result.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    peak = _peak_rss([SCRIPT, "--out", tmp_path, "--scale", "medium"])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) > 400e6
    assert peak < 60e6


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("full")
    yield folder
    for file in folder.iterdir():  # 3.3 GB that pytest would keep
        file.unlink()


@pytest.mark.full
def test_full_scale(full: Path, clips: dict[str, Array], tmp_path: Path) -> None:
    assert _peak_rss([SCRIPT, "--out", full, "--scale", "full"]) < 100e6
    assert (full / "encoder-model.onnx.data").stat().st_size == 2_435_420_160
    said = {name: tokens(full, clip) for name, clip in clips.items()}
    assert all(50 <= len(spoken) <= 375 for spoken in said.values())
    assert edits(said["two cities"], said["aepyx"]) > 0.7
    assert len(tokens(full, clips["aepyx"], "int8")) >= 50
    changed = tokens(without(full, "layers.11.feed_forward1.linear2.weight", tmp_path / "repo"), clips["aepyx"])
    assert edits(said["aepyx"], changed) > 0.05
    for file in (tmp_path / "repo").iterdir():
        file.unlink()


def test_any_scale_works(tmp_path: Path) -> None:
    odd = dataclasses.replace(SCALES["tiny"], layers=3, width=96, heads=3, subsampling=8, prediction=48)
    sizes = write_repo(tmp_path, odd, int8=False)
    assert sizes == {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert not [name for name in sizes if "int8" in name]
    assert tokens(tmp_path, np.random.default_rng(5).standard_normal(16_000).astype(np.float32)) is not None

"""The conversion of CTranslate2 Whisper folders to ONNX: numbers, contracts, files and refusals.

Tolerances are absolute. Logits of tiny.en reach about 33 and float32 differs from PyTorch's float32 by about 1e-4, so
1e-3 leaves room for other CPUs' kernels and none for a wrong weight.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
import onnx
import onnx_asr
import onnxruntime as rt
import pytest
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parent))
from whisper_numpy import SCRIPT, NumpyWhisper, load_script

TOLERANCE = 1e-3
FILES = ["added_tokens.json", "config.json", "decoder_model_merged.onnx", "encoder_model.onnx", "vocab.json"]
PACKED = Path(__file__).parents[1] / "data" / "reference_outputs.npz"
TWO_CITIES = """It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season
of Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing before
us, we were all going direct to Heaven, we were all going direct the other way--in short, the period was so far like the
present period, that some of its noisiest authorities insisted on its being received, for good or for evil, in the
superlative degree of comparison only."""

Tensors = dict[str, npt.NDArray[Any]]
script = load_script()


@dataclass
class Decoder:
    """A merged decoder and the state that a client keeps between calls."""

    session: rt.InferenceSession
    past: Tensors = field(default_factory=dict)
    present: Tensors = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Decoder:
        return cls(session(folder / "decoder_model_merged.onnx"))

    def first_past(self, batch: int, length: int, fill: float = 0.0) -> Tensors:
        wanted = [x for x in self.session.get_inputs() if x.name.startswith("past_key_values.")]
        return {x.name: np.full((batch, x.shape[1], length, x.shape[3]), fill, np.float32) for x in wanted}

    def start(self, tokens: Any, audio: npt.NDArray[Any], past: Tensors | None = None) -> npt.NDArray[np.float32]:
        self.past = self.first_past(0, 0) if past is None else past
        return self._run(tokens, audio, cached=False)

    def go_on(self, tokens: Any, audio: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return self._run(tokens, audio, cached=True)

    def _run(self, tokens: Any, audio: npt.NDArray[Any], *, cached: bool) -> npt.NDArray[np.float32]:
        feeds = {"input_ids": np.asarray(tokens, np.int64), "encoder_hidden_states": audio.astype(np.float32)}
        logits, *present = self.session.run(None, {**feeds, **self.past, "use_cache_branch": np.array([cached])})
        names = [x.name for x in self.session.get_outputs()][1:]
        self.present = dict(zip(names, present, strict=True))
        for name, value in self.present.items():  # as onnx-asr does it: an output with batch 0 keeps the past
            if value.shape[0]:
                self.past[name.replace("present.", "past_key_values.")] = value
        result: npt.NDArray[np.float32] = logits
        return result


def session(path: Path) -> rt.InferenceSession:
    options = rt.SessionOptions()
    options.intra_op_num_threads = 2
    return rt.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def encode(folder: Path, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    feeds = {"input_features": features.astype(np.float32)}
    (hidden,) = session(folder / "encoder_model.onnx").run(["last_hidden_state"], feeds)
    result: npt.NDArray[np.float32] = hidden
    return result


@pytest.fixture(scope="module")
def reference() -> Tensors:
    with np.load(PACKED) as packed:
        return {name.removeprefix("whisper_"): packed[name] for name in packed.files if name.startswith("whisper_")}


@pytest.fixture(scope="module")
def tiny(tiny_en_ct2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "onnx"
    script.convert(tiny_en_ct2, out)
    return out


@pytest.fixture(scope="module")
def decoder(tiny: Path) -> Decoder:
    return Decoder.load(tiny)


@pytest.fixture(scope="module")
def audio(tiny: Path, reference: Tensors) -> npt.NDArray[np.float32]:
    """Two different clips: the reference's, and the same played backwards."""
    features = reference["input_features"]
    return encode(tiny, np.concatenate([features, features[..., ::-1]]))


# ---------------------------------------------------------------------------------------------- a model of any shape


@dataclass(frozen=True)
class Made:
    """A small random Whisper, written as CTranslate2 writes it: the sizes, and how the weights are stored."""

    dtype: str = "f2"
    mels: int = 8
    width: int = 24
    heads: tuple[int, int] = (2, 3)
    layers: tuple[int, int] = (2, 1)
    source: int = 20
    target: int = 32
    vocab: int = 64
    timestamps: int = 10
    extra: str = ""
    flags: tuple[tuple[str, int], ...] = ()

    def variables(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        random, width = np.random.default_rng(7), self.width

        def linear(name: str, n_out: int, n_in: int, keys: slice = slice(0)) -> Iterator[tuple[str, npt.NDArray[Any]]]:
            bias = random.normal(0, 0.1, n_out)
            bias[keys] = 0
            yield f"{name}/bias", bias
            yield f"{name}/weight", random.normal(0, n_in**-0.5, (n_out, n_in))

        def norm(name: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
            yield f"{name}/beta", random.normal(0, 0.1, width)
            yield f"{name}/gamma", random.normal(1, 0.1, width)

        for i, side in enumerate(("encoder", "decoder")):
            yield f"{side}/num_heads", np.array(self.heads[i], "<i2")
            yield f"{side}/position_encodings/encodings", random.normal(0, 0.1, ((self.source, self.target)[i], width))
            yield from norm(f"{side}/layer_norm")
            for layer in range(self.layers[i]):
                for part, linears in (("self_attention", 2), ("attention", 3 if i else 0), ("ffn", 2)):
                    name = f"{side}/layer_{layer}/{part}"
                    yield from norm(f"{name}/layer_norm") if linears else ()
                    for j in range(linears):
                        many = {("self_attention", 0): (3, 1), ("attention", 1): (2, 1), ("ffn", 0): (2, 1)}
                        n_out, n_in = (1, 2) if (part, j) == ("ffn", 1) else many.get((part, j), (1, 1))
                        keys = {("self_attention", 0): slice(width, 2 * width), ("attention", 1): slice(width)}
                        here = keys.get((part, j), slice(0))
                        yield from linear(f"{name}/linear_{j}", n_out * width, n_in * width, here)
        for conv, channels in (("conv1", self.mels), ("conv2", width)):
            yield f"encoder/{conv}/bias", random.normal(0, 0.1, width)
            yield f"encoder/{conv}/weight", random.normal(0, 0.2, (width, channels, 3))
        yield "decoder/embeddings/weight", random.normal(0, 0.3, (self.vocab, width))
        for flag, value in {**script.FLAGS, **dict(self.flags)}.items():
            yield f"decoder/{flag}", np.array(value, "i1")
        if self.extra:
            yield self.extra, np.ones(3)

    def stored(self) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
        codes = {"f4": 0, "i1": 1, "i2": 2, "f2": 4, "bf16": 5}
        for name, value in self.variables():
            if value.dtype.kind == "i":
                yield name, codes[value.dtype.str[1:]], value
            elif self.dtype in ("i1", "i2") and value.ndim == 2 and name.endswith("/weight"):
                top = np.abs(value).max(1) if self.dtype == "i1" else np.abs(value).max()
                scale = np.asarray((127 if self.dtype == "i1" else 1024) / top, "<f4")
                quantized = np.rint(value * (scale[:, None] if scale.ndim else scale))
                yield name, codes[self.dtype], quantized.astype(f"<{self.dtype}")
                yield f"{name}_scale", codes["f4"], scale
            elif self.dtype == "bf16":
                yield name, codes["bf16"], (value.astype("<f4").view("<u4") >> 16).astype("<u2")
            else:
                dtype = "f4" if self.dtype in ("i1", "i2") else self.dtype
                yield name, codes[dtype], value.astype(f"<{dtype}")

    def binary(self) -> bytes:
        def text(value: str) -> bytes:
            return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

        stored = sorted(self.stored(), key=lambda item: item[0])
        parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(stored))]
        for name, code, value in stored:
            shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
            parts += [text(name), shape, struct.pack("<BI", code, value.nbytes), value.tobytes()]
        tied = [name for name, _, _ in stored if name.startswith("decoder/embeddings/")]
        parts.append(struct.pack("<I", len(tied)))
        parts += [text(name.replace("embeddings", "projection")) + text(name) for name in tied]
        return b"".join(parts)

    def write(self, folder: Path) -> Path:
        special = ["endoftext", "startoftranscript", "en", "transcribe", "notimestamps"]
        base = self.vocab - self.timestamps - len(special)
        tokens = [f"t{i}" for i in range(base)] + [f"<|{name}|>" for name in special]
        added = [{"id": base + i, "content": tokens[base + i]} for i in range(len(special))]
        tokens += [f"<|{i * 0.02:.2f}|>" for i in range(self.timestamps)]
        model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens[:base])}}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.bin").write_bytes(self.binary())
        (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
        (folder / "vocabulary.txt").write_text("\n".join(tokens) + "\n")
        (folder / "config.json").write_text(json.dumps({"suppress_ids": [1, 2], "suppress_ids_begin": [3]}))
        return folder


VARIANTS = {
    "float16": Made(),
    "float32": Made(dtype="f4"),
    "bfloat16": Made(dtype="bf16"),
    "int8": Made(dtype="i1"),
    "int16": Made(dtype="i2"),
    "128 mels, deep decoder": Made(mels=128, layers=(1, 4), width=32, heads=(4, 2)),
}


def close(made: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(made, expected, rtol=0, atol=tolerance)


# -------------------------------------------------------------------------------------------------------- the numbers


def test_encoder_gives_what_pytorch_gives(tiny: Path, reference: Tensors) -> None:
    close(encode(tiny, reference["input_features"]), reference["encoder_last_hidden_state"])


def test_decoder_gives_what_pytorch_gives(decoder: Decoder, reference: Tensors) -> None:
    logits = decoder.start(reference["decoder_tokens"][None], reference["encoder_last_hidden_state"])[0]
    ids, expected = reference["decoder_top10_ids"], reference["decoder_top10_logits"]
    close(np.take_along_axis(logits, ids, axis=1), expected)
    np.testing.assert_array_equal(logits.argmax(1), ids[:, 0])
    close(np.sort(logits, axis=1)[:, :-11:-1], expected)  # and no other token comes above them


def test_tiny_gives_what_the_numpy_forward_pass_gives(
    tiny: Path, tiny_en_ct2: Path, decoder: Decoder, reference: Tensors
) -> None:
    numpy_model = NumpyWhisper(tiny_en_ct2)
    hidden = numpy_model.encode(reference["input_features"])
    close(encode(tiny, reference["input_features"]), hidden)
    tokens = reference["decoder_tokens"][None]
    close(decoder.start(tokens, hidden), numpy_model.decode(tokens, hidden))


@pytest.mark.parametrize("made", VARIANTS.values(), ids=VARIANTS)
def test_any_sizes_and_storage_give_what_the_numpy_forward_pass_gives(tmp_path: Path, made: Made) -> None:
    script.convert(made.write(tmp_path / "in"), tmp_path / "out")
    numpy_model, random = NumpyWhisper(tmp_path / "in"), np.random.default_rng(1)
    features = random.normal(size=(2, made.mels, 2 * made.source))
    hidden = numpy_model.encode(features)
    close(encode(tmp_path / "out", features), hidden, 1e-5)
    tokens = random.integers(0, made.vocab, (2, 9))
    expected, decoder = numpy_model.decode(tokens, hidden), Decoder.load(tmp_path / "out")
    close(decoder.start(tokens[:, :4], hidden), expected[:, :4], 1e-5)
    close(decoder.go_on(tokens[:, 4:8], hidden), expected[:, 4:8], 1e-5)
    close(decoder.go_on(tokens[:, 8:], hidden), expected[:, 8:], 1e-5)


# ---------------------------------------------------------------------------------------------------------- the cache


def test_cached_decoding_equals_uncached_step_by_step(
    decoder: Decoder, audio: npt.NDArray[np.float32], reference: Tensors
) -> None:
    words = reference["decoder_tokens"]
    tokens = np.stack([words, np.roll(words, 7)])[:, :24]
    whole = decoder.start(tokens, audio)
    for row in range(2):  # a row does not see the other one
        close(decoder.start(tokens[row : row + 1], audio[row : row + 1]), whole[row : row + 1])
    close(decoder.start(tokens[:, :4], audio), whole[:, :4])
    for i in range(4, tokens.shape[1]):
        close(decoder.go_on(tokens[:, i : i + 1], audio), whole[:, i : i + 1])
        assert {value.shape[2] for name, value in decoder.present.items() if ".decoder." in name} == {i + 1}


def test_many_tokens_with_a_past_see_only_what_came_before_them(
    decoder: Decoder, audio: npt.NDArray[np.float32], reference: Tensors
) -> None:
    tokens = np.repeat(reference["decoder_tokens"][None, :12], 2, axis=0)
    whole = decoder.start(tokens, audio)
    decoder.start(tokens[:, :4], audio)
    close(decoder.go_on(tokens[:, 4:9], audio), whole[:, 4:9])
    close(decoder.go_on(tokens[:, 9:], audio), whole[:, 9:])


@pytest.mark.parametrize(("batch", "length", "fill"), [(0, 0, 0.0), (2, 0, 0.0), (2, 1, 9.0), (2, 1, float("nan"))])
def test_the_first_call_ignores_the_past_of_every_client(
    decoder: Decoder, audio: npt.NDArray[np.float32], batch: int, length: int, fill: float
) -> None:
    """onnx-asr passes (0, heads, 0, dim), transformers.js (batch, heads, 0, dim), optimum (batch, heads, 1, dim)."""
    tokens = [[50257, 50362, 632], [50257, 50362, 314]]
    expected = decoder.start(tokens, audio)
    state = dict(decoder.present)
    np.testing.assert_array_equal(decoder.start(tokens, audio, decoder.first_past(batch, length, fill)), expected)
    for name, value in decoder.present.items():
        np.testing.assert_array_equal(value, state[name])
        assert value.shape == (2, 6, 1500 if ".encoder." in name else 3, 64)


def test_the_cached_call_returns_cross_attention_presents_with_batch_0(
    decoder: Decoder, audio: npt.NDArray[np.float32]
) -> None:
    decoder.start([[50257, 50362], [50257, 50362]], audio)
    decoder.go_on([[632], [314]], audio)
    shapes = {name: value.shape for name, value in decoder.present.items()}
    assert {shape for name, shape in shapes.items() if ".encoder." in name} == {(0, 6, 1500, 64)}
    assert {shape for name, shape in shapes.items() if ".decoder." in name} == {(2, 6, 3, 64)}


def test_a_position_after_the_last_one_is_an_error_and_no_answer(tmp_path: Path) -> None:
    made = Made(target=5)
    script.convert(made.write(tmp_path / "in"), tmp_path / "out")
    hidden = np.zeros((1, made.source, made.width))
    decoder = Decoder.load(tmp_path / "out")
    decoder.start([[1, 2, 3, 4, 5]], hidden)
    with pytest.raises(Exception, match="embed_positions"):
        decoder.go_on([[6]], hidden)


# ---------------------------------------------------------------------------------------------------------- the files


def test_the_graphs_have_the_names_of_optimums_exports(tiny: Path) -> None:
    encoder, decoder = (session(tiny / file) for file in ("encoder_model.onnx", "decoder_model_merged.onnx"))
    assert [(x.name, x.type, x.shape) for x in encoder.get_inputs()] == [
        ("input_features", "tensor(float)", ["batch_size", 80, 3000])
    ]
    assert [(x.name, x.shape) for x in encoder.get_outputs()] == [("last_hidden_state", ["batch_size", 1500, 384])]
    cache = [f"{i}.{side}.{kv}" for i in range(4) for side in ("decoder", "encoder") for kv in ("key", "value")]
    inputs = {x.name: x for x in decoder.get_inputs()}
    past = [f"past_key_values.{name}" for name in cache]
    assert list(inputs) == ["input_ids", "encoder_hidden_states", *past, "use_cache_branch"]
    assert {(inputs[x].type, inputs[x].shape[1], inputs[x].shape[3]) for x in past} == {("tensor(float)", 6, 64)}
    assert inputs["input_ids"].type == "tensor(int64)"
    assert (inputs["use_cache_branch"].type, inputs["use_cache_branch"].shape) == ("tensor(bool)", [1])
    assert [x.name for x in decoder.get_outputs()] == ["logits", *(f"present.{name}" for name in cache)]


@pytest.mark.parametrize("file", ["encoder_model.onnx", "decoder_model_merged.onnx"])
def test_the_graphs_pass_the_checker_and_hold_each_weight_once(tiny: Path, tiny_en_ct2: Path, file: str) -> None:
    model = onnx.load(tiny / file)
    onnx.checker.check_model(model, full_check=True)
    known = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    made = {output for node in model.graph.node for output in node.output} - {x.name for x in model.graph.output}
    assert {x.name for x in known.graph.value_info} >= made
    assert (model.producer_name, model.opset_import[0].version, len(model.opset_import)) == ("hubpub", 17, 1)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    weights = {x.name: tuple(x.dims) for x in model.graph.initializer if not x.name.startswith("const.")}
    digests = {hashlib.sha256(x.raw_data).digest() for x in model.graph.initializer if x.name in weights}
    assert len(digests) == len(weights)
    parameters = sum(int(np.prod(dims)) for dims in weights.values())
    stored = script.Ct2Weights(tiny_en_ct2 / "model.bin")
    zero_key_biases = 4 * 384 * (2 if file.startswith("decoder") else 1)
    scalars = {"decoder": 8, "encoder": 1}[file.split("_")[0]]
    alias = 51864 * 384 if file.startswith("decoder") else 0  # the projection, tied to the embedding
    assert parameters == stored.elements(file.split("_")[0] + "/") - alias - scalars - zero_key_biases
    total = sum(len(x.raw_data) for x in model.graph.initializer)
    assert total == pytest.approx(4 * parameters, abs=200)
    assert (tiny / file).stat().st_size < total + 100_000
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:  # no weight hides in a branch
                assert not attribute.g.initializer
                assert not set(weights) & {name for inner in attribute.g.node for name in inner.input}


def test_every_weight_matmul_is_plain_named_and_stored_in_by_out(tiny: Path) -> None:
    model = onnx.load(tiny / "decoder_model_merged.onnx")
    dims = {x.name: tuple(x.dims) for x in model.graph.initializer}
    found = {
        node.name: dims[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in dims
    }
    per_layer = {
        f"{block}/{p}": (384, 384)
        for block in ("self_attn", "encoder_attn")
        for p in ("q_proj", "k_proj", "v_proj", "out_proj")
    }
    per_layer |= {"fc1": (384, 1536), "fc2": (1536, 384)}
    assert found == {f"/layers.{i}/{path}/MatMul": shape for i in range(4) for path, shape in per_layer.items()}
    assert not {"Gemm", "Attention", "Gelu"} & {node.op_type for node in model.graph.node}


def test_every_id_decodes(tiny: Path) -> None:
    vocab, added = (json.loads((tiny / file).read_text("utf-8")) for file in ("vocab.json", "added_tokens.json"))
    aliases = ("<|en|>", "<|transcribe|>")  # no weight was trained for a language or a task
    assert {added[alias] for alias in aliases} == {added["<|startoftranscript|>"]}
    tokens = {i: token for token, i in (vocab | added).items() if token not in aliases}
    assert sorted(tokens) == list(range(51864))
    assert not set(vocab) & set(added)
    expected = {50256: "endoftext", 50257: "startoftranscript", 50258: "untrained:en"}
    expected |= {50358: "untrained:transcribe"}
    expected[50362] = "notimestamps"
    expected |= {50363: "0.00", 50364: "0.02", 51863: "30.00"}
    assert {i: tokens[i] for i in expected} == {i: f"<|{name}|>" for i, name in expected.items()}
    model: Any = onnx_asr.load_model("whisper", tiny, providers=["CPUExecutionProvider"]).asr
    for i, token in tokens.items():
        text = model._decode_tokens(np.array([i])).text
        assert (text == "") == (token.startswith("<|") or token == "Ġ")


def test_the_config_is_whispers(tiny: Path, tmp_path: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    expected = {"model_type": "whisper", "num_mel_bins": 80, "d_model": 384, "vocab_size": 51864}
    expected |= {"encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6, "decoder_attention_heads": 6}
    expected |= {"encoder_ffn_dim": 1536, "max_source_positions": 1500, "max_target_positions": 448}
    expected |= {"bos_token_id": 50257, "decoder_start_token_id": 50257, "eos_token_id": 50256, "pad_token_id": 50256}
    assert {key: config[key] for key in expected} == expected
    assert config["begin_suppress_tokens"] == [220, 50256]
    script.convert(Made(vocab=51865).write(tmp_path / "in"), tmp_path / "out")
    multilingual = json.loads((tmp_path / "out" / "config.json").read_text())
    assert multilingual["bos_token_id"] == multilingual["eos_token_id"] == multilingual["decoder_start_token_id"] - 1


def test_two_processes_with_other_hash_seeds_write_the_same_bytes(
    tiny_en_ct2: Path, tiny: Path, tmp_path: Path
) -> None:
    digests = []
    for seed in ("0", "4711"):
        run(tiny_en_ct2, tmp_path / seed, PYTHONHASHSEED=seed)
        assert sorted(path.name for path in (tmp_path / seed).iterdir()) == FILES
        digests.append([hashlib.sha256((tmp_path / seed / file).read_bytes()).hexdigest() for file in FILES])
    assert digests[0] == digests[1] == [hashlib.sha256((tiny / file).read_bytes()).hexdigest() for file in FILES]
    assert str(tmp_path).encode() not in (tmp_path / "0" / "decoder_model_merged.onnx").read_bytes()


def test_weights_beyond_protobufs_limit_go_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made()
    script.convert(made.write(tmp_path / "in"), tmp_path / "one")
    monkeypatch.setattr(script, "MAX_SINGLE_FILE", 1000)
    script.convert(tmp_path / "in", tmp_path / "two")
    data = ["decoder_model_merged.onnx_data", "encoder_model.onnx_data"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(FILES + data)
    hidden = np.random.default_rng(2).normal(size=(1, made.source, made.width))
    logits = [Decoder.load(tmp_path / name).start([[1, 2, 3]], hidden) for name in ("one", "two")]
    np.testing.assert_array_equal(logits[0], logits[1])


# ------------------------------------------------------------------------------------------------------- the refusals


def run(model: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--model-dir", str(model), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def assert_refused(model: Path, out: Path, message: str) -> None:
    done = run(model, out)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr
    assert not out.exists() or not list(out.iterdir())


def test_a_truncated_model_is_refused(tiny_en_ct2: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_en_ct2, tmp_path / "in")
    path = tmp_path / "in" / "model.bin"
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)
    assert_refused(tmp_path / "in", tmp_path / "out", r"^error: .*model\.bin: truncated: ")


def test_every_cut_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "model.bin", Made(vocab=64, width=6, heads=(1, 1), layers=(1, 1)).binary()
    for length in {*range(0, len(whole), 61), *range(len(whole) - 200, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.raises(script.ConversionError):
            script.Ct2Weights(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(script.ConversionError, match="1 bytes after the end"):
        script.Ct2Weights(path)


WRONG = {
    "version": (struct.pack("<I", 5), struct.pack("<I", 6), r"binary version 5, not 6"),
    "spec": (b"WhisperSpoc", b"WhisperSpec", r"spec 'WhisperSpoc' revision 3, not 'WhisperSpec' revision 3"),
    "revision": (b"WhisperSpec\0\4", b"WhisperSpec\0\3", r"revision 4, not"),
    "size": (b"decoder/activation\0\0\1\2", b"decoder/activation\0\0\1\1", r"activation: 2 bytes do not fit dtype 1"),
    "dtype": (b"decoder/activation\0\0\7\1", b"decoder/activation\0\0\1\1", r"do not fit dtype 7"),
    "control character": (b"decoder\x1balibi", b"decoder/alibi", r"is not text"),
    "alias": (b"\0\x1a\0decoder/embeddings/weighx", b"\0\x1a\0decoder/embeddings/weight", r"alias .* not in the file"),
}


@pytest.mark.parametrize(("new", "old", "message"), WRONG.values(), ids=WRONG)
def test_a_foreign_binary_is_refused(tmp_path: Path, new: bytes, old: bytes, message: str) -> None:
    path = Made().write(tmp_path / "in") / "model.bin"
    data = path.read_bytes()
    at = data.rindex(old) if old.startswith(b"\0") else data.index(old)
    path.write_bytes(data[:at] + new + data[at + len(old) :])
    assert_refused(tmp_path / "in", tmp_path / "out", message)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            Made(extra="decoder/project_in/weight"),
            r"1 variables that are not Whisper's, the first is decoder/project_in",
        ),
        (Made(flags=(("activation", 1),)), r"decoder/activation is 1; Whisper has 3"),
        (Made(heads=(5, 3)), r"encoder: 2 layers, 5 heads, width 24"),
        (Made(layers=(2, 0)), r"decoder: 0 layers"),
        (Made(heads=(0, 0)), r"0 heads"),
    ],
)
def test_a_model_that_is_not_plain_whisper_is_refused(tmp_path: Path, made: Made, message: str) -> None:
    assert_refused(made.write(tmp_path / "in"), tmp_path / "out", message)


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    path = Made(dtype="f4").write(tmp_path / "in") / "model.bin"
    data = path.read_bytes()
    at = data.index(b"encoder/layer_norm/gamma\0") + 59
    path.write_bytes(data[:at] + b"\0\0\xc0\x7f" * 2 + data[at + 8 :])
    assert_refused(tmp_path / "in", tmp_path / "out", r"encoder/layer_norm/gamma holds values that are not finite")


@pytest.mark.parametrize("file", ["model.bin", "config.json", "tokenizer.json", "vocabulary.txt"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    (Made().write(tmp_path / "in") / file).unlink()
    assert_refused(tmp_path / "in", tmp_path / "out", re.escape(file))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.bin", "", r"the file is empty"),
        ("model.bin", "PK\3\4 a zip file", r"binary version \d+, not 6"),
        ("config.json", "{", r"config\.json: not JSON"),
        ("config.json", "[]", r"config\.json: not a JSON object"),
        ("tokenizer.json", "[" * 100_000, r"tokenizer\.json: not JSON"),
        ("tokenizer.json", "{}", r"not a tokenizer with model\.vocab and added_tokens"),
        (
            "tokenizer.json",
            '{"model": {"vocab": {"a": 0}}, "added_tokens": []}',
            r"token <\|endoftext\|> is missing|name",
        ),
        ("vocabulary.txt", "a\nb\n", r"does not name each of the model's 64 ids once"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, file: str, content: str, message: str) -> None:
    (Made().write(tmp_path / "in") / file).write_text(content)
    if file == "tokenizer.json":
        (tmp_path / "in" / "vocabulary.txt").write_text("\n".join(f"x{i}" for i in range(64)))
    assert_refused(tmp_path / "in", tmp_path / "out", message)


def test_a_failed_run_leaves_what_was_there(tmp_path: Path) -> None:
    script.convert(Made().write(tmp_path / "in"), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    Made(extra="decoder/other").write(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out").returncode == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_models_own_folder_is_no_output(tmp_path: Path) -> None:
    folder = Made().write(tmp_path / "in")
    done = run(folder, folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.bin",
        "tokenizer.json",
        "vocabulary.txt",
    ]


# --------------------------------------------------------------------------------------------------------- the client


@pytest.mark.parametrize("options", [{"language": "en"}, {}], ids=["language", "detected"])
def test_onnx_asr_transcribes_two_cities(tiny: Path, two_cities_wav: Path, options: dict[str, str]) -> None:
    """Two windows below 30 s, cut at the quietest 0.3 s of the first one's last 5 s: onnx-asr has no long form."""
    samples, rate = soundfile.read(two_cities_wav, dtype="float32")
    samples = soxr.resample(samples, rate, 16_000).astype(np.float32)
    loudness = np.convolve(samples**2, np.full(4_800, 1 / 4_800), "same")[25 * 16_000 : 30 * 16_000]
    cut = 25 * 16_000 + int(loudness.argmin())
    model = onnx_asr.load_model("whisper", tiny, providers=["CPUExecutionProvider"])
    text = " ".join(model.recognize(part, sample_rate=16_000, **options) for part in (samples[:cut], samples[cut:]))
    expected, heard = (re.sub(r"[^a-z ]", "", re.sub(r"\s+|-+", " ", each.lower())) for each in (TWO_CITIES, text))
    assert len(expected.split()) == 119
    assert jiwer.wer(expected, heard) <= 0.01


def test_the_requirements_are_the_headers_and_name_no_place() -> None:
    pins = set(re.findall(r'"([a-z]+==[\d.]+)"', SCRIPT.read_text().split("# ///")[1]))
    text = SCRIPT.with_suffix(".requirements.txt").read_text()
    assert len(pins) == 2
    assert pins <= set(re.findall(r"^([a-z-]+==[\d.]+)", text, re.MULTILINE))
    assert not re.search(r"https?:|file:|/", text)
    for entry in re.split(r"\n(?=[a-z])", text.strip()):
        assert "--hash=sha256:" in entry

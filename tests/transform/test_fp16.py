"""fp16: rounding and counting, layouts, opsets, memory, the same bytes everywhere; real models."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_asr
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, numpy_helper
from onnxfile.models import MODELS, contents, plain, save, values
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from pydantic import TypeAdapter, ValidationError
from transform.fp16_graphs import Array, convert, f32, graph, graphs, runs, snr

from hubpub import onnxfile
from hubpub.errors import OnnxFileError, StepError
from hubpub.recipe.model import Transform
from hubpub.transform import fp16
from hubpub.transform._fp16_values import EXTREME, Counts, Overflow, to_half
from hubpub.transform.fp16 import Fp16
from hubpub.transform.shard import Shard

_TANH = "g (float[T, 64] x) => (float[T, 64] y) { a = Mul(x, w) y = Tanh(a) }"

# ---------------------------------------------------------------------------------------------------------- rounding


def _half(source: Array, overflow: Overflow = "allow") -> tuple[Array, Counts]:
    out, counts = np.empty(source.size, np.uint16), Counts()
    to_half(source, out, counts, overflow)
    return out, counts


def _numpy_half(source: Array) -> Array:
    with np.errstate(all="ignore"):
        half = source.astype(np.float16)
    extreme = np.abs(source) == np.float32(EXTREME)
    half[extreme] = np.copysign(np.float16(65504), source[extreme])
    return half


def _numpy_counts(source: Array) -> Counts:
    half = _numpy_half(source).astype(np.float64)
    size = np.abs(half)
    finite = np.isfinite(source)
    counted = {
        "overflow": finite & np.isinf(half),
        "extreme": np.abs(source) == np.float32(EXTREME),
        "to_zero": (half == 0) & (source != 0),
        "subnormal": (size > 0) & (size < 2.0**-14),
        "nan": np.isnan(source),
        "infinite": np.isinf(source),
    }
    return Counts(source.size, **{name: int(mask.sum()) for name, mask in counted.items()})


@pytest.mark.parametrize("low", [0, 1, 0x0FFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x3000, 0x7FFF, 0x8000, 0xF000, 0xFFFF])
def test_every_exponent_rounds_as_numpy_rounds(low: int) -> None:
    """All patterns of the upper 16 bits: zeros, subnormals, ties, the edge of overflow, infinities, NaN payloads."""
    source = ((np.arange(1 << 16, dtype=np.uint32) << 16) | low).view(np.float32)
    half, counts = _half(source)
    np.testing.assert_array_equal(half, _numpy_half(source).view(np.uint16))
    assert counts == _numpy_counts(source)


def test_random_bits_and_block_ends() -> None:
    for size in (0, 1, 65535, 65536, 65537, 1_000_003):
        source = np.random.default_rng(size).integers(0, 1 << 32, size, dtype=np.uint32).view(np.float32)
        half, counts = _half(source)
        np.testing.assert_array_equal(half, _numpy_half(source).view(np.uint16))
        assert counts == _numpy_counts(source)


@settings(max_examples=200, deadline=None)
@given(source=hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32)))
def test_floats_of_any_size(source: Array) -> None:
    half, counts = _half(source)
    np.testing.assert_array_equal(half, _numpy_half(source).view(np.uint16))
    assert counts == _numpy_counts(source)


def test_clip_bounds_what_overflows_and_nothing_else() -> None:
    source = f32(65504, 65519.996, 65520, -1e30, np.inf, -np.inf, np.nan, -EXTREME)
    half, counts = _half(source, "clip")
    np.testing.assert_array_equal(half.view(np.float16), [65504, 65504, 65504, -65504, np.inf, -np.inf, np.nan, -65504])
    assert counts.found() == {"overflow": 2, "extreme": 1, "nan": 1, "infinite": 2}


# ---------------------------------------------------------------------------------------------------------- overflow


@pytest.mark.parametrize("size", [64, 600_064])  # in the graph; streamed, in several chunks
def test_overflow_is_refused_by_name_clipped_or_allowed(size: int, tmp_path: Path) -> None:
    weights = np.resize(values(0), size).astype(np.float32)
    weights[[0, 1, size - 1]] = [1e5, -7e4, 65520]
    weights[2:7] = [1e-9, -1e-9, 3e-5, np.nan, np.inf]
    model = graph(_TANH.replace("64", str(size)), w=weights)
    with pytest.raises(StepError, match=rf"m.onnx: 3 of {size} values of tensor 'w' are beyond 65504.*keep_fp32_nodes"):
        convert(model, tmp_path)
    assert not list((tmp_path / "out").iterdir())
    found = {"overflow": 3, "to_zero": 2, "nan": 1, "infinite": 1}
    for overflow, largest in (("clip", 65504), ("allow", np.inf)):
        converted, facts = convert(model, tmp_path, overflow=overflow)
        stored = numpy_helper.to_array(converted.graph.initializer[0])
        np.testing.assert_array_equal(stored[[0, 1, size - 1]], [largest, -largest, largest])
        np.testing.assert_array_equal(stored[2:7], weights[2:7].astype(np.float16))
        tiny = int(((np.abs(stored) < 2.0**-14) & (stored != 0)).sum())
        assert facts["tensors"] == {"w": {**found, "subnormal": tiny}}
        assert facts["totals"] == {"values": size, "extreme": 0, "subnormal": tiny, **found}
        assert facts["tensors_converted"] == 1
        assert (facts["bytes_in"], facts["bytes_out"]) == (4 * size, 2 * size)


def test_ordinary_tensors_are_not_listed(tmp_path: Path) -> None:
    _, facts = convert(graph(_TANH, w=np.ones(64, np.float32)), tmp_path)
    assert facts["tensors"] == {}
    assert facts["totals"]["values"] == 64


def test_shared_bytes_are_converted_once_and_stay_shared(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "external")
    shared = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    del shared.graph.initializer[3].external_data[:]
    shared.graph.initializer[3].external_data.extend(shared.graph.initializer[0].external_data)
    save(shared, tmp_path / "m.onnx", "inline")
    convert(tmp_path / "m.onnx", tmp_path, layout="external")
    written = onnx.load(tmp_path / "out" / "m.onnx", load_external_data=False).graph.initializer
    assert written[0].external_data == written[3].external_data


# ----------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", ["inline", "external"])
@pytest.mark.parametrize("source", ["inline", "external", "scattered", "sharded"])
def test_any_source_gives_the_same_tensors(source: str, layout: str, tmp_path: Path) -> None:
    for form in (source, "inline"):
        (tmp_path / form).mkdir(exist_ok=True)
        save(MODELS["subgraphs"](), tmp_path / form / "m.onnx", "inline" if form == "sharded" else form)
    if source == "sharded":
        (tmp_path / "shards").mkdir()
        Shard.model_validate({"max_bytes": 6000}).apply(
            tmp_path / source / "m.onnx", tmp_path / "shards" / "m.onnx", len_
        )
        source = "shards"
    converted, facts = convert(tmp_path / source / "m.onnx", tmp_path, layout=layout)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"m.onnx"} | ({"m.onnx.data"} if layout == "external" else set())
    (tmp_path / "reference").mkdir()
    expected, expected_facts = convert(tmp_path / "inline" / "m.onnx", tmp_path / "reference")
    assert contents(converted) == contents(expected)
    assert facts == expected_facts


def len_(_: int) -> None:
    """Progress that nobody watches."""


def test_inline_of_2_gib_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """4.4 GB of float32 in a file with a hole: the result would have 2.2 GB."""
    model = graph("g (float[T, 40000] x) => (float[T, 27500] y) { h = MatMul(x, w) y = Tanh(h) }")
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[40_000, 27_500])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="w.data")
    model.graph.initializer.append(weights)
    with (tmp_path / "w.data").open("wb") as data:
        data.truncate(4_400_000_000)
    with pytest.raises(StepError, match=r"would have 22000\d+ bytes of tensors in one file.*; set layout: external"):
        convert(model, tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_the_limit_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph(_TANH, w=np.resize(values(0), (600, 64)))
    monkeypatch.setattr(onnxfile, "MAX_FILE_BYTES", 2 * 600 * 64)
    convert(model, tmp_path)
    monkeypatch.setattr(onnxfile, "MAX_FILE_BYTES", 2 * 600 * 64 - 1)
    with pytest.raises(StepError, match="set layout: external"):
        convert(model, tmp_path)
    convert(model, tmp_path, layout="external")


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23])
def test_opsets(opset: int, tmp_path: Path) -> None:
    save(plain(opset), tmp_path / "m.onnx", "inline")
    converted, _ = convert(tmp_path / "m.onnx", tmp_path)
    assert converted.opset_import[0].version == opset
    inputs = {"x": values(9)}
    for feed in (inputs, {**inputs, "w1": values(8)}):
        expected = runs(tmp_path / "m.onnx", feed)[0]
        assert snr(expected, runs(tmp_path / "out" / "m.onnx", feed)[0]) > 55


def test_names_order_and_metadata_stay(tmp_path: Path) -> None:
    model = plain()
    save(model, tmp_path / "m.onnx", "inline")
    converted, _ = convert(tmp_path / "m.onnx", tmp_path)
    assert [n.name for n in converted.graph.node if n.op_type != "Cast"] == [n.name for n in model.graph.node]
    assert [t.name for t in converted.graph.initializer] == [t.name for t in model.graph.initializer]
    assert converted.metadata_props == model.metadata_props
    assert (converted.producer_name, converted.graph.doc_string) == ("tests", "a graph")


def test_value_info_follows_and_names_already_taken_are_left(tmp_path: Path) -> None:
    model = graph("g (float[64] x) => (float[64] y) { x_fp16 = Tanh(x) y = Neg(x_fp16) }")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("x_fp16", TensorProto.FLOAT, [64]))
    converted, _ = convert(model, tmp_path)
    assert converted.graph.value_info[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert [node.output[0] for node in converted.graph.node] == ["x_fp16_2", "x_fp16", "y_fp16", "y"]


def test_damaged_source_is_one_error(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "external")
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(OnnxFileError, match="too short"):
        convert(tmp_path / "m.onnx", tmp_path)


def test_types_that_do_not_fit_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="used before it is made"):
        convert(graph("g (float[64] x) => (float[64] y) { y = Neg(a) }"), tmp_path)


# --------------------------------------------------------------------------------------------------------- processes

_IN_A_PROCESS = """
    import re, sys
    from pathlib import Path
    import numpy, onnx, onnx.inliner, onnx.shape_inference
    from hubpub.transform import _fp16_rewrite
    from hubpub.transform.fp16 import Fp16

    def status(field):
        text = Path("/proc/self/status").read_text()
        return int(re.search(field + r":\\s+(\\d+) kB", text)[1]) * 1024

    model, target, layout = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    measure = sys.platform == "linux"
    before = status("VmRSS") if measure else 0
    Fp16(layout=layout, overflow="clip").apply(model, target, lambda _: None)
    print(status("VmHWM") - before if measure else 0)
"""


def _apply_elsewhere(model: Path, target: Path, layout: str, hash_seed: str = "0") -> int:
    """Convert in a process of its own; the bytes by which its peak RSS passed its start."""
    target.parent.mkdir()
    root = Path(fp16.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_IN_A_PROCESS), model, target, layout],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize("name", ["subgraphs", "function"])
def test_processes_with_other_hash_seeds_write_the_same_bytes(name: str, tmp_path: Path) -> None:
    save(MODELS[name](), tmp_path / "m.onnx", "inline")
    digests = set()
    for seed in ("1", "2", "3"):
        _apply_elsewhere(tmp_path / "m.onnx", tmp_path / seed / "m.onnx", "external", seed)
        files = sorted((tmp_path / seed).iterdir())
        digests.add(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files))
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak RSS of a process is read from /proc")
@pytest.mark.parametrize("layout", ["external", "inline"])
def test_memory_is_bounded_by_a_chunk(layout: str, tmp_path: Path) -> None:
    """300 MB in tensors of 12 and, one, 60 MB: less than 40 MB more than at rest."""
    shapes = [[3, 1 << 20]] * 20 + [[15, 1 << 20]]
    rng = np.random.default_rng(0)
    nodes, model, end = [], graph("g (float[1] x) => (float[1] y) { y = Tanh(x) }"), 0
    with (tmp_path / "source.data").open("wb") as data:
        for number, shape in enumerate(shapes):
            weights = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=shape)
            weights.data_location = TensorProto.EXTERNAL
            stored = rng.standard_normal(shape, np.float32)
            for key, value in (("location", "source.data"), ("offset", end), ("length", stored.nbytes)):
                weights.external_data.add(key=key, value=str(value))
            data.write(stored.data)
            end += stored.nbytes
            model.graph.initializer.append(weights)
            nodes.append(onnx.helper.make_node("Mul", ["x", f"w{number}"], [f"m{number}"]))
    model.graph.node.extend(nodes)
    save(model, tmp_path / "m.onnx", "inline")
    assert _apply_elsewhere(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", layout) < 40_000_000
    written = onnx.load(tmp_path / "out" / "m.onnx")
    again = np.random.default_rng(0)
    for one, shape in zip(written.graph.initializer, shapes, strict=True):
        np.testing.assert_array_equal(
            numpy_helper.to_array(one), again.standard_normal(shape, np.float32).astype(np.float16)
        )


# ------------------------------------------------------------------------------------------------------- real models


def _silero_inputs(path: Path, speech: Array) -> dict[str, Array]:
    """Inputs for a Silero model, whichever it has."""
    feed: dict[str, Array] = {}
    for value in onnx.load(path).graph.input:
        dims = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            feed[value.name] = np.array(16000)
        elif value.name == "input":
            feed[value.name] = np.resize(speech, [*dims[:-1], dims[-1] if dims[-1] > 1 else 576])
        else:
            feed[value.name] = np.zeros(dims, np.float32)
    return feed


def test_silero(silero_onnx_dir: Path, two_cities_wav: Path, tmp_path: Path) -> None:
    """Every variant: If, LSTM, Conv, a decomposed STFT with its square root."""
    speech = _speech(two_cities_wav)[0][32_000:]
    paths = sorted(silero_onnx_dir.glob("*.onnx"))
    ran, seen = 0, set[str]()
    for path in paths:
        converted, facts = convert(path, tmp_path)
        assert facts["bytes_out"] < 0.51 * facts["bytes_in"]
        assert facts["nodes_fp32"]["power"]["Sqrt"] >= 1
        seen |= {node.op_type for inner in graphs(converted.graph) for node in inner.node}
        inputs = _silero_inputs(path, speech)
        try:
            expected = runs(path, inputs)
        except InvalidArgument:  # a variant with inputs of its own; it was loaded at least
            continue
        for before, after in zip(expected, runs(tmp_path / "out" / "m.onnx", inputs), strict=True):
            assert snr(before, after) > 35, path.name
        ran += 1
    assert ran >= 3
    assert seen >= {"If", "LSTM", "Conv", "Sqrt"}


@pytest.fixture(scope="module")
def whisper_fp16(whisper_tiny_en: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper") / "model"
    shutil.copytree(whisper_tiny_en, folder)
    for name in ("encoder_model", "decoder_model_merged"):
        facts: dict[str, Any] = Fp16().apply(folder / f"{name}.onnx", folder / f"{name}.fp16.onnx", len_)
        assert facts["nodes_fp32"] == {}
        assert facts["bytes_out"] < 0.501 * facts["bytes_in"]
    return folder


def _speech(wav: Path) -> list[Array]:
    """Two windows of 16 kHz below 30 s, cut where it is quiet."""
    samples, rate = soundfile.read(wav, dtype="float32")
    samples = soxr.resample(samples, rate, 16_000).astype(np.float32)
    loudness = np.convolve(samples**2, np.full(4_800, 1 / 4_800), "same")[25 * 16_000 : 30 * 16_000]
    cut = 25 * 16_000 + int(loudness.argmin())
    return [samples[:cut], samples[cut:]]


def test_whisper_transcribes_the_same(whisper_fp16: Path, two_cities_wav: Path) -> None:
    texts = []
    for quantization in (None, "fp16"):
        model: Any = onnx_asr.load_model(
            "whisper", whisper_fp16, quantization=quantization, providers=["CPUExecutionProvider"]
        )
        texts.append([model.recognize(part, sample_rate=16_000, language="en") for part in _speech(two_cities_wav)])
    assert texts[0] == texts[1]
    assert "best of times" in texts[1][0].lower()


def test_whisper_encoder_is_near(whisper_fp16: Path, two_cities_wav: Path) -> None:
    model: Any = onnx_asr.load_model("whisper", whisper_fp16, providers=["CPUExecutionProvider"])
    part = _speech(two_cities_wav)[0]
    features, _ = model.asr._preprocessor(part[None], np.array([part.size]))
    before, after = (
        runs(whisper_fp16 / f"encoder_model{suffix}.onnx", {"input_features": features})[0] for suffix in ("", ".fp16")
    )
    assert snr(before, after) >= 40


# ------------------------------------------------------------------------------------------------------------ params


@pytest.mark.parametrize(
    "params",
    [{"layout": "sharded"}, {"interface": "bf16"}, {"overflow": "ignore"}, {"keep_fp32_ops": "MatMul"}, {"unknown": 1}],
)
def test_params_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Fp16(**params)


def test_it_is_a_transform_of_the_recipe() -> None:
    made: object = TypeAdapter(Transform).validate_python({"transform": "fp16", "layout": "external"})
    assert made == Fp16(layout="external")
    assert Fp16.model_validate(Fp16(keep_fp32_ops=("Softmax",)).model_dump(mode="json")).keep_fp32_ops == ("Softmax",)


def test_a_sound_source_must_give_a_sound_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["", "Type Error"])
    monkeypatch.setattr(fp16, "unsound", lambda _: next(answers))
    with pytest.raises(StepError, match="the converted graph is not sound: Type Error"):
        convert(graph(_TANH, w=np.ones(64, np.float32)), tmp_path)
    assert not list((tmp_path / "out").iterdir())

"""weight_only: packing, every place of a weight in every form, what the runtime does with it, real models."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, numpy_helper
from pydantic import TypeAdapter, ValidationError
from transform.test_dynamic_int8 import weight_graphs, weight_model
from transform.weights_graphs import CASES, QUIET, apply, case, graph, near, normal, op_counts

from hubpub.errors import StepError
from hubpub.recipe.model import Transform
from hubpub.transform._blocks import pack, quantize_blocks, to_signed, unpack
from hubpub.transform._runtime import load_footprint, optimized_ops
from hubpub.transform.weight_only import WeightOnly

_EXTRA = {
    "ConvTranspose": (
        "g (float[1, 24, T] x) => (float[1, 32, U] y) { y = ConvTranspose<strides = [2]>(x, w, b) }",
        {"w": normal(24, 32, 3), "b": normal(32)}, {"x": normal(1, 24, 30)},
    ),
    "GRU": (
        "g (float[T, 2, 48] x) => (float[T, 1, 2, 32] y) { y = GRU<hidden_size = 32>(x, w, r) }",
        {"w": normal(1, 96, 48), "r": normal(1, 96, 32)}, {"x": normal(7, 2, 48)},
    ),
    "RNN": (
        "g (float[T, 2, 48] x) => (float[T, 1, 2, 32] y) { y = RNN<hidden_size = 32>(x, w, r) }",
        {"w": normal(1, 32, 48), "r": normal(1, 32, 32)}, {"x": normal(7, 2, 48)},
    ),
    "on the left": (
        "g (float[48, T] x) => (float[40, T] y) { y = MatMul(w, x) }", {"w": normal(40, 48)}, {"x": normal(48, 9)},
    ),
    "a batch of weights": (
        "g (float[3, T, 48] x) => (float[3, T, 40] y) { y = MatMul(x, w) }",
        {"w": normal(3, 48, 40)}, {"x": normal(3, 9, 48)},
    ),
    "added": (
        "g (float[9, 48] x) => (float[9, 48] y) { y = Add(x, w) }", {"w": normal(9, 48)}, {"x": normal(9, 48, seed=1)},
    ),
    "added, with a leading 1": (
        "g (float[1, 9, 48] x) => (float[1, 9, 48] y) { y = Add(x, w) }",
        {"w": normal(1, 9, 48)}, {"x": normal(1, 9, 48, seed=1)},
    ),
    "Gather along the last axis": (
        "g (int64[T] x) => (float[40, T] y) { y = Gather<axis = 1>(w, x) }",
        {"w": normal(40, 50)}, {"x": np.arange(0, 50, 7)},
    ),
    "an output": (
        "g (float[T, 48] x) => (float[T, 40] y, float[48, 40] w) { y = MatMul(x, w) }",
        {"w": normal(48, 40)}, {"x": normal(9, 48)},
    ),
    "odd rows": (
        "g (int64[T] x) => (float[T, 51] y) { e = Gather(w, x) t = Transpose(w) y = MatMul(e, t) }",
        {"w": normal(51, 37)}, {"x": np.arange(0, 50, 7)},
    ),
}  # fmt: skip
ALL = {**CASES, **_EXTRA}


def _model(name: str, opset: int) -> tuple[onnx.ModelProto, dict[str, Any]]:
    if name in CASES:
        return case(name, opset)
    text, weights, feeds = _EXTRA[name]
    return graph(text, opset, 10 if opset >= 21 else 8, **weights), feeds


# ---------------------------------------------------------------------------------------------------------- integers


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=9), elements=st.integers(0, 15)))
def test_packing_is_undone_by_unpacking(integers: np.ndarray[Any, Any]) -> None:
    packed = pack(integers, 4)
    assert packed.shape == (*integers.shape[:-1], -(-integers.shape[-1] // 2))
    np.testing.assert_array_equal(unpack(packed, 4, integers.shape[-1]), integers)
    np.testing.assert_array_equal(pack(integers, 8), integers)


@given(hnp.arrays(np.uint8, st.integers(1, 33), elements=st.integers(0, 15)))
def test_packing_is_that_of_onnx(integers: np.ndarray[Any, Any]) -> None:
    for element, values, dtype in (
        (TensorProto.UINT4, integers, ml_dtypes.uint4),
        (TensorProto.INT4, to_signed(integers, 4) & 15, ml_dtypes.int4),
    ):
        tensor = onnx.TensorProto(data_type=element, dims=integers.shape, raw_data=pack(values, 4).tobytes())
        wanted = integers.astype(np.int8) - (8 if element == TensorProto.INT4 else 0)
        read = numpy_helper.to_array(tensor)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read.astype(np.int8), wanted)


_FLOATS = st.floats(-1e4, 1e4, width=32)


@settings(deadline=None)
@given(
    rows=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=_FLOATS),
    bits=st.sampled_from([4, 8]), block=st.sampled_from([None, 16, 32]), symmetric=st.booleans(), search=st.booleans(),
)  # fmt: skip
def test_blocks_are_within_a_step(
    rows: np.ndarray[Any, Any], bits: int, block: int | None, symmetric: bool, search: bool
) -> None:
    blocks = quantize_blocks(rows, bits, block, symmetric=symmetric, search=search)
    got = blocks.values(rows.shape[1]).astype(np.float64)
    error = float(np.square(got - rows).sum())
    assert blocks.integers.max() < 1 << bits
    assert blocks.error == pytest.approx(error, rel=1e-3, abs=1e-3)
    assert blocks.signal == pytest.approx(float(np.square(rows, dtype=np.float64).sum()), rel=1e-6)
    plain = quantize_blocks(rows, bits, block, symmetric=symmetric)
    assert blocks.error <= plain.error * (1 + 1e-9)
    step = np.repeat(np.abs(plain.scales), plain.integers.shape[2], 1)[:, : rows.shape[1]]
    # A zero point is rounded, and the far side of 4 bits symmetric ends at 7: up to one step there.
    assert (np.abs(plain.values(rows.shape[1]) - rows) <= step * 1.01 + 1e-30).all()
    assert (plain.values(rows.shape[1])[rows == 0] == 0).all()


def test_4_bits_meet_the_largest_value_and_use_all_integers() -> None:
    blocks = quantize_blocks(np.array([[-8, -7, 7, 0, 4]], np.float32), 4)
    assert blocks.values(5).tolist() == [[-8, -7, 7, 0, 4]]
    assert quantize_blocks(np.array([[8, -7, 7]], np.float32), 4).values(3).tolist() == [[8, -7, 7]]


def test_the_result_does_not_depend_on_the_size_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normal(100, 70)
    whole = quantize_blocks(rows, 4, 32, search=True)
    monkeypatch.setattr("hubpub.transform._blocks._VALUES", 200)
    pieces = quantize_blocks(rows, 4, 32, search=True)
    np.testing.assert_array_equal(whole.integers, pieces.integers)
    np.testing.assert_array_equal(whole.scales, pieces.scales)


# ------------------------------------------------------------------------------------------------------------ places

_FORMS: dict[str, tuple[dict[str, Any], list[int], float]] = {
    "16 bits": ({"bits": 16}, [11, 17, 23], 60),
    "8 bits": ({}, [11, 13, 17, 21, 23], 28),
    "8 bits, asymmetric": ({"symmetric": False, "clip": "mse"}, [11, 17, 21], 28),
    "8 bits in blocks": ({"block_size": 16}, [21, 23], 28),
    "4 bits": ({"bits": 4}, [21, 23], 6),
    "4 bits in blocks": ({"bits": 4, "block_size": 16, "clip": "mse"}, [21], 10),
    "4 bits in blocks, asymmetric": ({"bits": 4, "block_size": 16, "symmetric": False}, [21], 10),
    "MatMulNBits 8": ({"form": "matmulnbits"}, [11, 17, 21], 28),
    "MatMulNBits 8, asymmetric": ({"form": "matmulnbits", "symmetric": False, "block_size": 16}, [17], 28),
    "MatMulNBits 4": ({"form": "matmulnbits", "bits": 4, "block_size": 16}, [21], 10),
    "MatMulNBits 4, asymmetric, int8": (
        {"form": "matmulnbits", "bits": 4, "symmetric": False, "activations": "int8"}, [21], 10,
    ),
}  # fmt: skip
_POINTS = [(form, opset) for form, (_, opsets, _) in _FORMS.items() for opset in opsets]


@pytest.mark.parametrize(("form", "opset"), _POINTS)
@pytest.mark.parametrize("name", ALL)
def test_every_place_of_a_weight(name: str, form: str, opset: int, tmp_path: Path) -> None:
    params, _, least = _FORMS[form]
    model, feeds = _model(name, opset)
    written, facts = apply(WeightOnly(min_elements=100, **QUIET, **params), model, tmp_path)
    assert near(tmp_path, feeds) > least
    assert written.opset_import[0].version == opset
    layers = {layer["weight"]: layer for layer in facts["layers"]}
    assert "w" in layers
    assert facts["bytes_out"] < facts["bytes_in"] * (0.7 if params.get("bits") == 16 else 0.6)
    stored = {t.name: t for t in written.graph.initializer}
    assert not {"w", "r"} & set(stored)
    assert {skip["reason"] for skip in facts["skipped"]} <= {"a bias"}


@pytest.mark.parametrize("form", ["8 bits", "4 bits in blocks", "MatMulNBits 8"])
def test_weights_are_what_the_facts_say(form: str, tmp_path: Path) -> None:
    """The weight itself is an output: its error is the one noted."""
    model, feeds = _model("an output", 21)
    _, facts = apply(WeightOnly(min_elements=100, **QUIET, **_FORMS[form][0]), model, tmp_path)
    from transform.weights_graphs import runs

    got = runs(tmp_path / "out" / "m.onnx", feeds)[1]
    weight = normal(48, 40).astype(np.float64)
    snr = 10 * np.log10(np.square(weight).sum() / np.square(got - weight).sum())
    assert facts["layers"][0]["snr_db"] == pytest.approx(snr, abs=0.02)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("form", ["8 bits", "8 bits in blocks", "4 bits in blocks"])
def test_halves_stay_halves(form: str, dtype: Any, tmp_path: Path) -> None:
    text = "g (float[T, 48] x) => (float[T, 40] y) { v = Cast<to = 1>(w) y = MatMul(x, v) }"
    model = graph(text, 21, 10, w=normal(48, 40).astype(dtype))
    _, facts = apply(WeightOnly(min_elements=100, **QUIET, **_FORMS[form][0]), model, tmp_path)
    assert facts["layers"][0]["bytes_in"] == 2 * 48 * 40
    assert near(tmp_path, {"x": normal(9, 48)}) > _FORMS[form][2]


@pytest.mark.parametrize("bits", [4, 8])
def test_an_fp16_product_takes_fp16_scales(bits: int, tmp_path: Path) -> None:
    model = graph(
        "g (float16[T, 48] x) => (float16[T, 40] y) { y = MatMul(x, w) }", w=normal(48, 40).astype(np.float16)
    )
    written, _ = apply(WeightOnly(min_elements=100, bits=bits, form="matmulnbits", **QUIET), model, tmp_path)
    assert op_counts(written) == {"MatMulNBits": 1}
    assert near(tmp_path, {"x": normal(9, 48).astype(np.float16)}) > (28 if bits == 8 else 10)


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    for params in ({}, {"form": "matmulnbits"}, {"form": "matmulnbits", "bits": 4}):
        model, _ = _model("tied", 17)
        _, facts = apply(WeightOnly(min_elements=100, **QUIET, **params), model, tmp_path)
        bits = params.get("bits", 8)
        scales = 50 if params == {} else 50 * 2
        assert facts["bytes_out"] <= 50 * 64 * bits // 8 + 4 * scales + 64


def test_names_that_are_there_are_not_taken(tmp_path: Path) -> None:
    text = "g (float[T, 48] x) => (float[T, 40] y) { w_quantized = MatMul(x, w) y = Add(w_quantized, w_scale) }"
    model = graph(text, w=normal(48, 40), w_scale=normal(40))
    model.graph.node[0].name = "w_dequantizelinear"
    apply(WeightOnly(min_elements=100, **QUIET), model, tmp_path)
    assert near(tmp_path, {"x": normal(9, 48)}) > 28


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=weight_graphs(), form=st.sampled_from(_POINTS), yes=st.booleans())
def test_any_graph_loads_and_is_near(text: str, form: tuple[str, int], yes: bool, tmp_path: Path) -> None:
    params, _, least = _FORMS[form[0]]
    apply(WeightOnly(min_elements=100, **QUIET, **params), weight_model(text, form[1]), tmp_path)
    assert near(tmp_path, {"x": normal(32, 32, seed=9), "yes": np.array(yes)}) > (least / 2 if least > 10 else 0)


# ------------------------------------------------------------------------------------------------ left alone, refused


@pytest.mark.parametrize(
    ("params", "weight", "reason"),
    [
        ({"op_types": ("Conv",)}, normal(48, 48), "of a kind not asked for (MatMul)"),
        ({"exclude": ("w*",)}, normal(48, 48), "excluded by 'w*'"),
        ({}, np.full((48, 48), np.inf, np.float32), "not finite (NaN or infinity)"),
        ({"bits": 16}, np.full((48, 48), 1e5, np.float32), "beyond 65504, the largest that float16 holds"),
    ],
)
def test_what_is_left_alone_is_listed(params: dict[str, Any], weight: Any, reason: str, tmp_path: Path) -> None:
    text = "g (float[1, 48, 48] x) => (float[1, 48, 48] y) { a = Conv(x, k) y = MatMul(a, w) }"
    model = graph(text, k=normal(48, 48, 1), w=weight)
    _, facts = apply(WeightOnly(**QUIET, **params), model, tmp_path)
    assert [(skip["weight"], skip["reason"]) for skip in facts["skipped"]] == [("w", reason)]


def test_weights_of_custom_operations_are_left_alone(tmp_path: Path) -> None:
    text = "g (float[48, 48] x) => (float[48, 48] y) { a = MatMul(x, w) v = Identity(u) y = custom.Act(a, v) }"
    model = graph(text, w=normal(48, 48), u=normal(48, 48))
    _, facts = apply(WeightOnly(**QUIET), model, tmp_path)
    assert [(skip["weight"], skip["reason"]) for skip in facts["skipped"]] == [("u", "used by an operation of custom")]


@pytest.mark.parametrize(
    ("params", "lacks"),
    [({"bits": 4}, "4 bits"), ({"block_size": 32}, "blocks"), ({"bits": 4, "block_size": 32}, "blocks")],
)
def test_what_takes_opset_21_is_refused_before(params: dict[str, Any], lacks: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=f"has opset 17, and {lacks} take opset 21.*; set form: matmulnbits"):
        apply(WeightOnly(min_elements=100, **QUIET, **params), case("MatMul")[0], tmp_path)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "params",
    [
        {"block_size": 48},
        {"block_size": 8},
        {"bits": 3},
        {"bits": 16, "form": "matmulnbits"},
        {"bits": 16, "block_size": 32},
    ],
)
def test_params_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WeightOnly(**params)


def test_twice_is_refused_unless_the_rest_is_asked_for(tmp_path: Path) -> None:
    model, feeds = _model("Conv", 17)
    text = "g (float[1, 48, 48] x) => (float[1, 48, 48] y) { a = Conv(x, k) y = MatMul(a, w) }"
    model, feeds = graph(text, k=normal(48, 48, 1), w=normal(48, 48)), {"x": normal(1, 48, 48)}
    apply(WeightOnly(op_types=("Conv",), **QUIET), model, tmp_path)
    once = tmp_path / "once.onnx"
    (tmp_path / "out" / "m.onnx").rename(once)
    with pytest.raises(StepError, match=r"is quantized already \(1 DequantizeLinear\)"):
        apply(WeightOnly(**QUIET), once, tmp_path)
    written, facts = apply(WeightOnly(quantized="rest", **QUIET), once, tmp_path)
    assert [layer["weight"] for layer in facts["layers"]] == ["w"]
    assert op_counts(written)["DequantizeLinear"] == 2
    assert near(tmp_path, feeds, once) > 28


# ----------------------------------------------------------------------------------------------------------- runtime


def _stack(kind: str, tmp_path: Path, params: dict[str, Any] | None) -> Path:
    """A model of 48 MB of weights as it is, or quantized."""
    size, layers = 1024, 12
    op = "Conv" if kind == "Conv" else "MatMul"
    weights = {
        f"w{n}": np.resize(normal(size, size, seed=n), (size, size, 1) if op == "Conv" else (size, size))
        for n in range(layers)
    }
    if kind == "Gather":
        text = " ".join(f"g{n} = Gather(w{n}, i)" for n in range(layers))
        sums = " ".join(f"s{n + 1} = Add({'g0' if n == 0 else f's{n}'}, g{n + 1})" for n in range(layers - 1))
        text = f"g (int64[T] i) => (float[T, {size}] s{layers - 1}) {{ {text} {sums} }}"
    else:
        lines = [f"x{n + 1} = {op}(x{n}, w{n})" for n in range(layers)]
        text = f"g (float[1, {size}, {size}] x0) => (float[1, {size}, {size}] x{layers}) {{ {' '.join(lines)} }}"
    source = tmp_path / "m.onnx"
    source.write_bytes(graph(text, 21, 10, **weights).SerializeToString())
    if params is None:
        return source
    (tmp_path / "out").mkdir(exist_ok=True)
    WeightOnly(**QUIET, **params).apply(source, tmp_path / "out" / "m.onnx", lambda _: None)
    return tmp_path / "out" / "m.onnx"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc")
def test_memory_after_load(tmp_path: Path) -> None:
    """Which forms stay small in memory and which are folded back: the table in the module's docstring."""
    for kind, params, most in (
        ("MatMul", {}, 0.9), ("MatMul", {"form": "matmulnbits"}, 0.4),
        ("MatMul", {"form": "matmulnbits", "bits": 4}, 0.4), ("Conv", {}, 0.6), ("Gather", {}, 0.6),
    ):  # fmt: skip
        plain, small = load_footprint(_stack(kind, tmp_path, None)), load_footprint(_stack(kind, tmp_path, params))
        assert small.added < most * plain.added, (kind, params, plain.added, small.added)
    folded = load_footprint(_stack("MatMul", tmp_path, {"bits": 16}))
    assert folded.added > 0.9 * 12 * 4 * 1024 * 1024


def test_the_runtime_says_what_it_makes_of_each_form(tmp_path: Path) -> None:
    for params, expected in (({}, "MatMulNBits"), ({"bits": 16}, "MatMul"), ({"form": "matmulnbits"}, "MatMulNBits")):
        model, _ = _model("MatMul of batches", 21)
        _, facts = apply(WeightOnly(min_elements=100, **params), model, tmp_path)
        assert set(facts["runtime"]["ops"]) == {expected}


def test_a_model_that_the_runtime_cannot_load_is_one_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    with pytest.raises(StepError, match=r"bad.onnx: onnxruntime does not load it: "):
        optimized_ops(bad)


# -------------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("layout", ["inline", "external"])
def test_layouts_and_the_same_bytes_again(layout: str, tmp_path: Path) -> None:
    model, feeds = _model("LSTM", 21)
    contents = []
    for params in itertools.repeat({"layout": layout}, 2):
        apply(WeightOnly(**QUIET, **params), model, tmp_path)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"m.onnx"} | ({"m.onnx.data"} if layout == "external" else set())
    assert near(tmp_path, feeds) > 28


def test_it_is_a_transform_of_the_recipe() -> None:
    made: Any = TypeAdapter(Transform).validate_python({"transform": "weight_only", "bits": 4})
    assert isinstance(made, WeightOnly)
    assert made.model_validate(made.model_dump(mode="json")) == made

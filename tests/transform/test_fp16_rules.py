"""fp16: what stays float32 and why, by data flow; every kind of graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxfile.models import MODELS, feeds, save, tensor
from transform.fp16_graphs import convert, exact, f32, graph, graphs, ops, runs, snr

from hubpub.errors import StepError

F16, F32 = TensorProto.FLOAT16, TensorProto.FLOAT
RNG = np.random.default_rng(0)
W = RNG.standard_normal((64, 64)).astype(np.float32) / 8


# ---------------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize("interface", ["fp32", "fp16"])
def test_length_arithmetic_is_exact_past_2048(interface: str, tmp_path: Path) -> None:
    """NeMo's: floor((length - 1) / 2) + 1, three times over, beside the arithmetic on data."""
    steps = "".join(
        f"a{i} = Sub(f{i}, one) b{i} = Div(a{i}, two) c{i} = Floor(b{i}) f{i + 1} = Add(c{i}, one) " for i in range(3)
    )
    model = graph(
        f"g (float[T, 64] x, int64[1] length) => (float[T, 64] y, int64[1] frames, float[1] counted) {{"
        f"f0 = Cast<to = 1>(length) {steps} frames = Cast<to = 7>(f3) counted = Identity(f3)"
        "h = MatMul(x, w) y = Add(h, one) }",
        w=W, one=f32(1), two=f32(2),
    )  # fmt: skip
    converted, facts = convert(model, tmp_path, interface=interface)
    assert facts["nodes_fp32"]["count"] == {
        "Add": 3, "Cast": 2, "Div": 3, "Floor": 3, "Sub": 3, "Identity": 1,
    }  # fmt: skip
    assert ops(converted) == {"w": F16, "one": F32, "two": F32, "one_fp16": F16}
    x = np.ones((1, 64), np.float16 if interface == "fp16" else np.float32)
    for length in (1, 2047, 2049, 4097, 80_001, 1_000_003, 16_000_001):
        expected = length
        for _ in range(3):
            expected = (expected - 1) // 2 + 1
        _, frames, counted = exact(converted, {"x": x, "length": np.array([length])})
        assert frames[0] == counted[0] == expected


def test_relative_lengths_and_masks_are_exact(tmp_path: Path) -> None:
    """A float input times a length, rounded to an integer; a range compared with a length, in floats."""
    model = graph(
        "g (float[B, T] x, float[B] part, int64[1] length) => (int64[B] frames, bool[T] mask, float[B, T] y) {"
        "s = Shape(x) t = Gather(s, i1) tf = Cast<to = 1>(t) a = Mul(part, tf) r = Round(a) frames = Cast<to = 7>(r)"
        "range = Range(i0, t, i1s) rf = Cast<to = 1>(range) lf = Cast<to = 1>(length)"
        "mask = Less(rf, lf) y = Tanh(x) }",
        i1=np.array(1), i0=np.array(0), i1s=np.array(1),
    )  # fmt: skip
    converted, _ = convert(model, tmp_path)
    size = 100_001
    inputs = {"x": np.zeros((2, size), np.float32), "part": f32(0.50001, 1), "length": np.array([50_003])}
    frames, mask, _ = exact(converted, inputs)
    np.testing.assert_array_equal(frames, exact(model, inputs)[0])
    assert frames[1] == size
    assert mask.sum() == 50_003


def test_sums_over_masks_and_means_by_length(tmp_path: Path) -> None:
    """A count from truth values; a mean over 100,000 frames: the sum, the count and the quotient."""
    model = graph(
        "g (float[T] x, bool[T] mask, int64[1] length) => (float[1] mean, float[1] other) {"
        "m = Cast<to = 1>(mask) n = ReduceSum(m) xm = Mul(x, m) s = ReduceSum(xm) mean = Div(s, n)"
        "lf = Cast<to = 1>(length) other = Div(s, lf) }"
    )
    converted, facts = convert(model, tmp_path)
    size = 100_001
    inputs = {"x": np.full(size, 3, np.float32), "mask": np.ones(size, bool), "length": np.array([size])}
    for output in exact(converted, inputs):
        np.testing.assert_allclose(output, 3, rtol=1e-4)
    assert facts["nodes_fp32"]["count"]["Div"] == 2


def test_positions_are_computed_in_float32(tmp_path: Path) -> None:
    text = (
        "g (float[T, 64] x) => (float[T, 64] y) {"
        "s = Shape<start = 0, end = 1>(x) t = Squeeze(s) r = Range(i0, t, i1) p = Cast<to = 1>(r) c = Unsqueeze(p, ax)"
        "a = MatMul(c, freq) sin = Sin(a) h = MatMul(x, w) y = Add(h, sin) }"
    )
    freq = (1 / 10_000 ** (np.arange(64) / 64)).astype(np.float32)[None]
    model = graph(text, w=W, freq=freq, i0=np.array(0), i1=np.array(1), ax=np.array([1]))
    converted, facts = convert(model, tmp_path)
    inputs = {"x": np.zeros((9000, 64), np.float32)}
    np.testing.assert_allclose(exact(converted, inputs)[0], exact(model, inputs)[0], atol=1e-3)
    assert facts["nodes_fp16"] == 2


def test_a_network_on_integers_is_still_a_network(tmp_path: Path) -> None:
    """PCM as integers: a count until it meets a weight matrix; and what follows is data, however it ends."""
    model = graph(
        "g (int16[T, 64] pcm) => (int64[T, 1] best) {"
        "x = Cast<to = 1>(pcm) n = Div(x, full) h = MatMul(n, w) a = Relu(h) b = MatMul(a, w)"
        "best = ArgMax<axis = 1>(b) }",
        w=W, full=f32(32768),
    )  # fmt: skip
    converted, facts = convert(model, tmp_path)
    assert facts["nodes_fp32"] == {"count": {"Cast": 1, "Div": 1}}
    assert ops(converted) == {"w": F16, "full": F32}


# ----------------------------------------------------------------------------------------------------------- powers


def test_decomposed_normalization_neither_overflows_nor_loses_its_epsilon(tmp_path: Path) -> None:
    model = graph(
        "g (float[T, 64] x) => (float[T, 64] y) {"
        "h = MatMul(x, w) m = ReduceMean<axes = [1]>(h) d = Sub(h, m) q = Pow(d, two) v = ReduceMean<axes = [1]>(q)"
        "e = Add(v, eps) s = Sqrt(e) n = Div(d, s) y = Mul(n, g) }",
        w=W, two=f32(2), eps=f32(1e-12), g=f32(1),
    )  # fmt: skip
    converted, facts = convert(model, tmp_path)
    assert facts["nodes_fp32"] == {"power": {"Add": 1, "Pow": 1, "Sqrt": 1}, "sum": {"ReduceMean": 2}}
    inputs = {"x": RNG.standard_normal((3, 64)).astype(np.float32) * 2000}
    assert snr(exact(model, inputs)[0], exact(converted, inputs)[0]) > 50
    assert not exact(converted, {"x": np.zeros((1, 64), np.float32)})[0].any()


def test_log_mel_keeps_its_floor(tmp_path: Path) -> None:
    model = graph(
        "g (float[T, 64] re, float[T, 64] im) => (float[T, 64] y) {"
        "r = Mul(re, re) i = Mul(im, im) p = Add(r, i) m = MatMul(p, mel) f = Add(m, floor) y = Log(f) }",
        mel=np.abs(W), floor=f32(2.0**-24),
    )  # fmt: skip
    converted, facts = convert(model, tmp_path)
    assert facts["nodes_fp16"] == 0
    big = {"re": np.full((1, 64), 4000, np.float32), "im": np.zeros((1, 64), np.float32)}
    for inputs in (big, {name: value * 0 for name, value in big.items()}):
        np.testing.assert_allclose(exact(converted, inputs)[0], exact(model, inputs)[0], rtol=1e-3)
    assert facts["casts"] == {"to_fp16": 0, "to_fp32": 0}


def test_squares_that_are_activations_go_to_float16(tmp_path: Path) -> None:
    """relu(x)^2 before a weight and a residual, and the cube in GELU: no root or logarithm ends them."""
    model = graph(
        "g (float[T, 64] x) => (float[T, 64] y) {"
        "h = MatMul(x, w) r = Relu(h) q = Mul(r, r) d = MatMul(q, w) y0 = Add(x, d) c = Pow(y0, three) y = Tanh(c) }",
        w=W, three=f32(3),
    )  # fmt: skip
    _, facts = convert(model, tmp_path)
    assert facts["nodes_fp32"] == {}


# ---------------------------------------------------------------------------------------------- subgraphs, functions


@pytest.mark.parametrize("layout", ["inline", "external"])
@pytest.mark.parametrize("name", MODELS)
def test_tensors_in_every_place(name: str, layout: str, tmp_path: Path) -> None:
    save(MODELS[name](), tmp_path / "m.onnx", "inline")
    if name == "typed":  # has a float16 tensor
        with pytest.raises(StepError, match=r"holds float16 already \('f16'\); start from the float32 model"):
            convert(tmp_path / "m.onnx", tmp_path)
        return
    _, facts = convert(tmp_path / "m.onnx", tmp_path, layout=layout, overflow="clip")
    assert facts["bytes_out"] < facts["bytes_in"] or name == "low_bit"
    for inputs in feeds(MODELS[name]()):
        expected = runs(tmp_path / "m.onnx", inputs)[0]
        np.testing.assert_allclose(runs(tmp_path / "out" / "m.onnx", inputs)[0], expected, rtol=4e-3, atol=2e-2)


_IF = """
g (float[T, 64] x, bool which, float[64] past) => (float[T, 64] y) {
    h = MatMul(x, w)
    a = If (which) <
        then_branch = then () => (float[T, 64] t) { t = MatMul(h, w) },
        else_branch = otherwise () => (float[T, 64] e) { s = ReduceSum(h) k = Add(h, s) e = Add(k, past) }
    >
    y = Mul(a, half)
}
"""


def test_branches_are_rewritten_with_what_they_capture(tmp_path: Path) -> None:
    model = graph(_IF, w=W, half=f32(0.5))
    converted, facts = convert(model, tmp_path)
    assert facts["nodes_fp32"] == {"sum": {"ReduceSum": 1}}
    then, other = (inner for inner in graphs(converted.graph) if inner.name in ("then", "otherwise"))
    assert [node.op_type for node in then.node] == ["MatMul"]
    assert then.output[0].type.tensor_type.elem_type == other.output[0].type.tensor_type.elem_type == F16
    assert "past_fp16" in {name for node in other.node for name in node.output}  # cast where it is needed only
    for which in (False, True):
        inputs = {"x": RNG.standard_normal((3, 64)).astype(np.float32), "which": np.array(which), "past": W[0]}
        assert snr(exact(model, inputs)[0], exact(converted, inputs)[0]) > 45
        assert snr(exact(model, inputs)[0], runs(tmp_path / "out" / "m.onnx", inputs)[0]) > 45


def test_a_branch_that_gives_a_count_stays_float32(tmp_path: Path) -> None:
    text = (
        "g (int64[1] n, bool which) => (int64[1] y) { c = Cast<to = 1>(n) a = If (which) <"
        "then_branch = then () => (float[1] t) { t = Add(c, one) },"
        "else_branch = other () => (float[1] e) { e = Identity(c) }"
        "> b = Mul(a, two) y = Cast<to = 7>(b) }"
    )
    converted, _ = convert(graph(text, one=f32(1), two=f32(2)), tmp_path)
    assert exact(converted, {"n": np.array([100_001]), "which": np.array(True)})[0] == 200_004
    assert not [t for t in ops(converted).values() if t == F16]


_LOOP = """
g (float[64] x, int64 n) => (float[64] y, float[K, 64] all) {
    h = Mul(x, w)
    v, all = Loop (n, go, h) <body = body (int64 i, bool c, float[64] s) => (bool d, float[64] u, float[64] z) {
        d = Identity(c) f = Cast<to = 1>(i) a = Add(s, w) u = Add(a, h) z = Mul(u, f) }>
    y = Add(v, w)
}
"""
_SCAN = """
g (float[64] x, float[K, 64] items) => (float[64] y, float[K, 64] all) {
    h = Mul(x, w)
    t = Tanh(items)
    v, all = Scan <num_scan_inputs = 1, body = body (float[64] s, float[64] item) => (float[64] u, float[64] z) {
        a = Add(s, w) u = Add(a, item) z = Mul(u, h) }> (h, t)
    y = Add(v, w)
}
"""


@pytest.mark.parametrize("text", [_LOOP, _SCAN], ids=["loop", "scan"])
@pytest.mark.parametrize("size", [64, 32768])
def test_bodies_of_loops_stay_float32_with_casts_before_them(text: str, size: int, tmp_path: Path) -> None:
    """A small constant used inside and outside is stored twice; a large one once, and cast before the loop."""
    go = {"go": np.array(True)} if text is _LOOP else {}
    model = graph(text.replace("64]", f"{size}]"), 17, 8, w=np.resize(W[0], size), **go)
    converted, facts = convert(model, tmp_path)
    assert set(facts["nodes_fp32"]) == {"loop"}
    body = next(inner for inner in graphs(converted.graph) if inner.name == "body")
    assert not [n for n in body.node if n.op_type == "Cast" and n.attribute[0].i == F16]
    assert {name: kind for name, kind in ops(converted).items() if name != "go"} == (
        {"w": F32, "w_fp16": F16} if size == 64 else {"w": F16}
    )
    items = {"n": np.array(3)} if text is _LOOP else {"items": np.resize(W, (3, size))}
    inputs = {"x": np.resize(W[1], size), **items}
    expected = runs(tmp_path / "m.onnx", inputs)
    for before, after in zip(expected, runs(tmp_path / "out" / "m.onnx", inputs), strict=True):
        assert snr(before, after) > 50


def test_functions_are_inlined_and_converted(tmp_path: Path) -> None:
    text = (
        "g (float[T, 64] x) => (float[T, 64] y) { h = local.Twice(x, w) y = local.Twice(h, w) }"
        '<domain: "local", opset_import: ["" : 17]> Twice (a, b) => (d) { c = MatMul(a, b) d = MatMul(c, b) }'
    )
    model = graph(text, w=W)
    converted, facts = convert(model, tmp_path)
    assert facts["nodes_fp16"] == 4
    assert not converted.functions
    inputs = {"x": W}
    assert snr(exact(model, inputs)[0], exact(converted, inputs)[0]) > 45


def test_custom_operations_stay_float32_and_unknown_types_are_not_touched(tmp_path: Path) -> None:
    model = graph(
        "g (float[T, 64] x) => (float[T, 64] y, float[T, 64] z) {"
        "h = MatMul(x, w) c = custom.Odd(h, w1) i = Identity(c) m = MatMul(c, w) y = Add(m, w1) z = Relu(i) }",
        w=W, w1=W[0],
    )  # fmt: skip
    converted, facts = convert(model, tmp_path)
    assert facts["nodes_fp32"] == {"custom": {"Identity": 1, "custom.Odd": 1}}
    by_output = {node.output[0]: node for node in converted.graph.node}
    assert list(by_output["c"].input) == ["h_fp32", "w1"]
    assert list(by_output["m"].input) == ["c_fp16", "w"]


def test_nothing_is_cast_whose_type_is_unknown(tmp_path: Path) -> None:
    model = graph("g (float[T] x) => (float[T] y) { a = custom.Odd(x) b = Identity(a) c = custom.Even(b) y = Tanh(c) }")
    converted, facts = convert(model, tmp_path)
    assert [node.op_type for node in converted.graph.node] == ["Odd", "Identity", "Even", "Cast", "Tanh", "Cast"]
    assert facts["nodes_fp32"]["custom"] == {"custom.Even": 1, "custom.Odd": 1}


# ------------------------------------------------------------------------------------------------- ends and constants


def test_an_initializer_that_is_an_input_keeps_its_type(tmp_path: Path) -> None:
    text = "g (float[64] x, float[64] w) => (float[64] y) { a = Mul(x, w) y = Tanh(a) }"
    for ir_version, kinds in ((8, {"w": F32}), (3, {"w": F16})):  # before version 4 every constant was an input
        converted, _ = convert(graph(text, ir_version=ir_version, opset=11, w=W[0]), tmp_path)
        assert ops(converted) == kinds
    model = graph(text, w=W[0])
    converted, _ = convert(model, tmp_path)
    inputs = {"x": W[1], "w": W[2]}
    np.testing.assert_allclose(exact(converted, inputs)[0], exact(model, inputs)[0], atol=1e-3)
    converted, _ = convert(model, tmp_path, interface="fp16")
    assert ops(converted) == {"w": F16}


@pytest.mark.parametrize("interface", ["fp32", "fp16"])
def test_names_and_types_of_the_interface(interface: str, tmp_path: Path) -> None:
    """An output that is used inside too, one that is a constant, and one that is an input."""
    ends = "(float[64] x, int64[1] i) => (float[64] y, float[64] z, float[64] w, int64[1] j)"
    text = f"g {ends} {{ y = Mul(x, w) z = Tanh(y) j = Neg(i) }}"
    converted, _ = convert(graph(text, w=W[0]), tmp_path, interface=interface)
    kind = F32 if interface == "fp32" else F16
    for value in (*converted.graph.input, *converted.graph.output):
        assert value.type.tensor_type.elem_type == (TensorProto.INT64 if value.name in "ij" else kind)
    assert [value.name for value in converted.graph.output] == ["y", "z", "w", "j"]


def test_a_mask_of_the_lowest_float_is_the_lowest_half(tmp_path: Path) -> None:
    """As transformers writes it: (1 - mask) * finfo.min, of an integer mask (a count, so float32) and of a constant."""
    low = float(np.finfo(np.float32).min)
    model = graph(
        "g (float[T, T] s, int64[T] keep, bool[T, T] causal) => (float[T, T] y) {"
        "k = Cast<to = 1>(keep) d = Sub(one, k) m = Mul(d, low) c = Where(causal, zero, floor) a = Add(s, m)"
        "b = Add(a, c)"
        "y = Softmax(b) }",
        one=f32(1), low=f32(low), floor=f32(low), zero=f32(0),
    )  # fmt: skip
    converted, facts = convert(model, tmp_path)
    assert facts["totals"]["extreme"] == 1
    inputs = {"s": W[:5, :5], "keep": np.array([1, 1, 1, 0, 0]), "causal": np.tri(5, dtype=bool)}
    np.testing.assert_allclose(exact(converted, inputs)[0], exact(model, inputs)[0], atol=2e-3)
    with pytest.raises(
        StepError, match=r"constant 'low' is beyond 65504.* gets into 'm'.*; set overflow: clip or allow"
    ):
        convert(_with_low(model, -1e9), tmp_path)
    converted, _ = convert(_with_low(model, -1e9), tmp_path, overflow="clip")
    np.testing.assert_allclose(exact(converted, inputs)[0], exact(model, inputs)[0], atol=2e-3)


def _with_low(model: onnx.ModelProto, low: float) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    next(t for t in changed.graph.initializer if t.name == "low").CopyFrom(tensor("low", f32(low)))
    return changed


def test_kept_by_name(tmp_path: Path) -> None:
    model = graph("g (float[T, 64] x) => (float[T, 64] y) { h = MatMul(x, w) s = Softmax(h) y = MatMul(s, w) }", w=W)
    model.graph.node[0].name = "first"
    converted, facts = convert(model, tmp_path, keep_fp32_ops=("Softmax",), keep_fp32_nodes=("first",))
    assert facts["nodes_fp32"] == {"named": {"MatMul": 1, "Softmax": 1}}
    assert ops(converted) == {"w": F32, "w_fp16": F16}
    with pytest.raises(StepError, match=r"no node 'fisrt'.*did you mean 'first'"):
        convert(model, tmp_path, keep_fp32_nodes=("fisrt",))
    with pytest.raises(StepError, match=r"no operation 'Sotfmax'.*did you mean 'Softmax'"):
        convert(model, tmp_path, keep_fp32_ops=("Sotfmax",))


@pytest.mark.parametrize("opset", [13, 21])
def test_quantized_weights_meet_float16_behind_a_cast(opset: int, tmp_path: Path) -> None:
    model = graph(
        "g (float[T, 64] x) => (float[T, 64] y) { d = DequantizeLinear(q, scale, zero) y = MatMul(x, d) }",
        opset, q=np.clip(W * 100, -127, 127).astype(np.int8),
        scale=np.array(1e-6, np.float32), zero=np.array(0, np.int8),
    )  # fmt: skip
    converted, facts = convert(model, tmp_path)
    assert ops(converted)["scale"] == F32
    assert list(facts["nodes_fp32"].values()) == [{"DequantizeLinear": 1}]


def test_refusals(tmp_path: Path) -> None:
    text = "g (float[64] x) => (float[64] y) { y = Tanh(x) }"
    for opset, message in ((10, "has opset 10"), (99, "has opset 99")):
        with pytest.raises(StepError, match=message):
            convert(graph(text, opset), tmp_path)
    training = graph(text)
    training.training_info.add()
    with pytest.raises(StepError, match="training graph"):
        convert(training, tmp_path)
    with pytest.raises(StepError, match=r"holds float16 already \('h'\)"):
        convert(graph("g (float[64] x) => (float[64] y) { h = Cast<to = 10>(x) y = Cast<to = 1>(h) }"), tmp_path)

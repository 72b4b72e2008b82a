"""fp16: any small graph, and one operation of each kind, loads in onnxruntime and gives nearly the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transform.fp16_graphs import Array, convert, f32, graph, runs, snr

W = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) / 8

_RESHAPED = "Transpose<perm = [1, 0]>({a})"
_STEPS = (
    "Tanh({a})", "Sigmoid({a})", "Relu({a})", "Neg({a})", "Identity({a})", _RESHAPED, "MatMul({a}, w)",
    "MatMul(w, {a})", "Gemm({a}, w, b)", "Add({a}, b)", "Mul({a}, b)", "Add({a}, {c})", "Mul({a}, {s})",
    "Softmax({a})", "Max({a}, {c})",
    "Where(yes, {a}, {c})", "Mul({a}, {count})", "Div({a}, {count})", "Div({c}, {root})", "Clip({a}, low, high)",
    "Cast<to = 1>({a})", "Erf({a})", "Expand({a}, shape)", "Gather({a}, order)", "Pad({a}, none)",
    "ScatterND({a}, where, row)", "ReduceMean<keepdims = 1>({a})", "ReduceMax<axes = [1], keepdims = 1>({a})",
)  # fmt: skip


@st.composite
def _graphs(draw: st.DrawFn) -> str:
    """Up to 10 steps on 8 × 8 values; every step keeps them in about [-64, 64], some change type on the way."""
    lines, values = ["count = Cast<to = 1>(n)", "start = Tanh(x)"], ["start", "x"]
    for number in range(draw(st.integers(1, 10))):
        step = draw(st.sampled_from(_STEPS))
        a, c = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        if "{s}" in step:
            lines.append(f"s{number} = Sigmoid({c})")
        if "{root}" in step:
            lines.append(f"q{number} = Mul({a}, {a}) e{number} = Add(q{number}, one) root{number} = Sqrt(e{number})")
        form = step.format(a=a, c=c, s=f"s{number}", root=f"root{number}", count="count")
        if draw(st.booleans()) and draw(st.booleans()):
            then = f"then () => (float[A, B] t{number}) {{ t{number} = {form} }}"
            other = f"other () => (float[A, B] o{number}) {{ o{number} = Identity({c}) }}"
            form = f"If (yes) <then_branch = {then}, else_branch = {other}>"
        lines.append(f"p{number} = {form}")
        lines.append(f"v{number} = Tanh(p{number}) r{number} = Expand(v{number}, shape)")
        values.append(f"r{number}")
    lines.append(f"y = Sub({values[-1]}, {draw(st.sampled_from(values))}) g = Greater(y, high) z = Cast<to = 7>(count)")
    return (
        "g (float[8, 8] x, int64[1] n, bool yes) => (float[8, 8] y, bool[8, 8] g, int64[1] z) {" + " ".join(lines) + "}"
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_graphs(), opset=st.sampled_from([13, 17]), interface=st.sampled_from(["fp32", "fp16"]), yes=st.booleans())
def test_any_graph_loads_and_is_near(text: str, opset: int, interface: str, yes: bool, tmp_path: Path) -> None:
    """Within 0.05 where values are at most 2: 40 roundings of 2^-11, none amplified more than about twice."""
    rng = np.random.default_rng(1)
    weights: dict[str, Any] = {
        "w": (rng.standard_normal((8, 8)) / 4).astype(np.float32),
        "b": f32(*rng.uniform(-1, 1, 8)),
    }
    weights |= {"one": f32(1), "low": np.float32(-0.9), "high": np.float32(0.9), "shape": np.array([8, 8])}
    weights |= {"order": np.arange(8)[::-1].copy(), "none": np.zeros(4, np.int64)}
    weights |= {"where": np.array([[3]]), "row": np.ones((1, 8), np.float32)}
    model = graph(text, opset, 8, **{name: np.asarray(value) for name, value in weights.items()})
    convert(model, tmp_path, interface=interface)
    x = rng.standard_normal((8, 8)).astype(np.float32)
    inputs: dict[str, Array] = {"x": x, "n": np.array([3]), "yes": np.array(yes)}
    expected = runs(tmp_path / "m.onnx", inputs)
    given_ = {**inputs, "x": x.astype(np.float16)} if interface == "fp16" else inputs
    y, _, z = runs(tmp_path / "out" / "m.onnx", given_)
    assert np.abs(y.astype(np.float32) - expected[0]).max() < 0.05
    assert z == expected[2]
    assert y.dtype == (np.float16 if interface == "fp16" else np.float32)


_OPERATIONS: dict[str, tuple[str, dict[str, Array]]] = {
    "LSTM": ("a, b, c = LSTM<hidden_size = 8>(x3, lw, lr)", {"lw": W[None, :32, :8], "lr": W[None, :32, 8:16]}),
    "GRU": ("a, b = GRU<hidden_size = 8>(x3, lw, lr)", {"lw": W[None, :24, :8], "lr": W[None, :24, 8:16]}),
    "Conv": ("a = Conv(x3, k)", {"k": W[:8, :8, None]}),
    "ConvTranspose": ("a = ConvTranspose(x3, k)", {"k": W[:8, :8, None]}),
    "LayerNormalization": ("a = LayerNormalization(x3, s)", {"s": W[0, :8]}),
    "BatchNormalization": ("a = BatchNormalization(x3, s, s, s, v)", {"s": W[0, :8], "v": np.abs(W[0, :8]) + 1}),
    "InstanceNormalization": ("a = InstanceNormalization(x3, s, s)", {"s": W[0, :8]}),
    "Resize": ('a = Resize<mode = "linear">(x3, roi, scales)', {"roi": f32(), "scales": f32(1, 1, 2)}),
    "TopK": ("a, i = TopK(x3, k)", {"k": np.array([3])}),
    "Einsum": ('a = Einsum<equation = "bij,jk->bik">(x3, k)', {"k": W[:8, :8]}),
    "CumSum": ("a = CumSum(x3, k)", {"k": np.array(2)}),
    "MaxPool": ("a = MaxPool<kernel_shape = [2]>(x3)", {}),
    "Split": ("a, a1 = Split<axis = 1>(x3, k)", {"k": np.array([4, 4])}),
    "ConstantOfShape": ("s = Shape(x3) z = ConstantOfShape<value = float[1] {0.5}>(s) a = Add(x3, z)", {}),
    "EyeLike": ("f = Flatten(x3) e = EyeLike(f) a = Mul(f, e)", {}),
    "RandomNormalLike": ("r = RandomNormalLike<scale = 1e-30>(x3) a = Add(r, x3)", {}),
    "OneHot": (
        "o = OneHot(ids, depth, ends) a = MatMul(x3, o)",
        {"ids": np.arange(8), "depth": np.array(8), "ends": f32(0, 1)},
    ),
    "PRelu": ("a = PRelu(x3, s)", {"s": W[0, :8]}),
    "HardSwish": ("a = HardSwish(x3)", {}),
    "Gelu": ("a = Gelu(x3)", {}),
    "Celu": ("a = Celu(x3)", {}),
    "Sequence": ("q = SequenceConstruct(x3, x3) a = ConcatFromSequence<axis = 1>(q)", {}),
    "CastLike": ("a = CastLike(x3, s)", {"s": f32(1)}),
    "Dropout": ("a, m = Dropout(x3)", {}),
    "GridSample": (
        "g = Reshape(x3, sh) a = GridSample(x4, g)",
        {"sh": np.array([1, 4, 8, 2]), "x4": W[None, None, :4, :4]},
    ),
    "Trilu": ("a = Trilu(x3)", {}),
    "STFT": (
        "r = Reshape(x3, sh) a = STFT(r, step, window)",
        {"sh": np.array([1, 64, 1]), "step": np.array(8), "window": f32(*[1] * 16)},
    ),
    "Double": ("d = Cast<to = 11>(x3) e = Exp(d) a = Cast<to = 1>(e)", {}),
    "Constant": (
        "s = Constant<value_float = 2.0>() l = Constant<value_floats = [1.0]>()"
        "b = Mul(x3, s) r = ReduceSum(l) a = Add(b, r)",
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("opset", [17, 20, 21, 23])
@pytest.mark.parametrize("name", _OPERATIONS)
def test_operations(name: str, opset: int, tmp_path: Path) -> None:
    """Each between two operations in float16, so that Casts are needed where it stays float32."""
    text, weights = _OPERATIONS[name]
    if (name == "Gelu" and opset < 20) or (name == "RandomNormalLike" and opset > 21):
        pytest.skip("Gelu came with opset 20; onnxruntime's RandomNormalLike ends at 21")
    nodes = f"x3 = Relu(x) {text} n = Neg(a) y = Flatten<axis = 0>(n)"
    model = graph(f"g (float[1, 8, 8] x) => (float[1, K] y) {{ {nodes} }}", opset, 10, **weights)
    inputs = {"x": W[:8, :8][None].copy()}
    convert(model, tmp_path)
    before, after = runs(tmp_path / "m.onnx", inputs)[0], runs(tmp_path / "out" / "m.onnx", inputs)[0]
    assert snr(before, after) > 45

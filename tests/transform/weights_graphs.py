"""Graphs with weights in every place that models put them, quantized, checked, and run before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from transform.fp16_graphs import graph, graphs, runs, session, snr

from hubpub.onnxfile import OnnxFile
from hubpub.transform.dynamic_int8 import DynamicInt8
from hubpub.transform.fp16 import unsound
from hubpub.transform.weight_only import WeightOnly

Array = npt.NDArray[Any]
Facts = dict[str, Any]
QUIET = {"report_runtime": False}


def normal(*shape: int, seed: int = 0) -> Array:
    """Weights whose columns differ in size, as those of real layers do."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape) / np.sqrt(max(shape[-1], 1))
    return (values * np.exp(rng.uniform(-1, 1, shape[-1]))).astype(np.float32)


def apply(step: DynamicInt8 | WeightOnly, model: onnx.ModelProto | Path, folder: Path) -> tuple[onnx.ModelProto, Facts]:
    """Quantize, and check what holds for every result."""
    source, target = folder / "m.onnx", folder / "out" / "m.onnx"
    target.parent.mkdir(exist_ok=True)
    if isinstance(model, Path):
        source = model
    else:
        source.write_bytes(model.SerializeToString(deterministic=True))
    facts: Facts = dict(step.apply(source, target, lambda _: None))
    assert {path.name for path in target.parent.iterdir()} <= {"m.onnx", "m.onnx.data"}  # the scratch file is gone
    written = onnx.load(target)
    if not unsound(OnnxFile.open(source)):
        assert not unsound(OnnxFile.open(target))
    names = [t.name for t in written.graph.initializer]
    assert len(set(names)) == len(names)
    used = {name for inner in graphs(written.graph) for node in inner.node for name in node.input}
    used |= {value.name for inner in graphs(written.graph) for value in inner.output}
    kept = {t.name for t in onnx.load(source).graph.initializer}
    assert set(names) <= used | kept
    return written, facts


def near(folder: Path, feeds: dict[str, Array], source: Path | None = None) -> float:
    """The least SNR of the outputs, dB."""
    before, after = runs(source or folder / "m.onnx", feeds), runs(folder / "out" / "m.onnx", feeds)
    assert [one.shape for one in before] == [one.shape for one in after]
    return min(snr(one.astype(np.float64), two.astype(np.float64)) for one, two in zip(before, after, strict=True))


def op_counts(model: onnx.ModelProto) -> dict[str, int]:
    counts: dict[str, int] = {}
    for inner in graphs(model.graph):
        for node in inner.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


LSTM_WEIGHTS = {"w": normal(2, 128, 48, seed=1), "r": normal(2, 128, 32, seed=2), "b": normal(2, 256, seed=3)}

CASES: dict[str, tuple[str, dict[str, Array], dict[str, Array]]] = {
    "MatMul": (
        "g (float[T, 48] x) => (float[T, 40] y) { y = MatMul(x, w) }",
        {"w": normal(48, 40)}, {"x": normal(9, 48)},
    ),
    "MatMul of batches": (
        "g (float[B, T, 48] x) => (float[B, T, 40] y) { y = MatMul(x, w) }",
        {"w": normal(48, 40)}, {"x": normal(3, 9, 48)},
    ),
    "two MatMuls, one input": (
        "g (float[T, 48] x) => (float[T, 40] y) { a = MatMul(x, w) b = MatMul(x, v) y = Add(a, b) }",
        {"w": normal(48, 40), "v": normal(48, 40, seed=1)}, {"x": normal(9, 48)},
    ),
    "one weight, two MatMuls": (
        "g (float[T, 40] x) => (float[T, 40] y) { a = MatMul(x, w) b = Tanh(a) c = MatMul(b, w) y = Add(a, c) }",
        {"w": normal(40, 40)}, {"x": normal(9, 40)},
    ),
    "Gemm": (
        "g (float[T, 48] x) => (float[T, 40] y) { y = Gemm(x, w, b) }",
        {"w": normal(48, 40), "b": normal(40)}, {"x": normal(9, 48)},
    ),
    "Gemm, transB, no bias": (
        "g (float[T, 48] x) => (float[T, 40] y) { y = Gemm<transB = 1>(x, w) }",
        {"w": normal(40, 48)}, {"x": normal(9, 48)},
    ),
    "Gather": (
        "g (int64[T] x) => (float[T, 40] y) { y = Gather(w, x) }",
        {"w": normal(50, 40)}, {"x": np.arange(0, 50, 7)},
    ),
    "tied": (
        "g (int64[A, T] x) => (float[A, T, 50] y) "
        "{ e = Gather(w, x) h = Tanh(e) t = Transpose<perm = [1, 0]>(w) y = MatMul(h, t) }",
        {"w": normal(50, 64)}, {"x": np.arange(0, 50, 7)[None]},
    ),
    "tied by Identity": (
        "g (float[T, 64] x) => (float[T, 64] y) { v = Identity(w) a = MatMul(x, v) y = MatMul(a, w) }",
        {"w": normal(64, 64)}, {"x": normal(9, 64)},
    ),
    "in an If": (
        "g (float[T, 48] x, bool yes) => (float[T, 40] y) { y = If (yes) <"
        "then_branch = t () => (float[T, 40] p) { p = MatMul(x, w) }, "
        "else_branch = o () => (float[T, 40] q) { a = MatMul(x, w) q = Neg(a) }> }",
        {"w": normal(48, 40)}, {"x": normal(9, 48), "yes": np.array(True)},
    ),
    "in a Loop": (
        "g (float[8, 40] x, int64 n) => (float[8, 40] y) { yes = Constant<value_int = 1>() go = Cast<to = 9>(yes) "
        "y = Loop (n, go, x) <body = b (int64 i, bool c, float[8, 40] s) => (bool d, float[8, 40] t) "
        "{ d = Identity(c) a = MatMul(s, w) t = Tanh(a) }> }",
        {"w": normal(40, 40)}, {"x": normal(8, 40), "n": np.array(2)},
    ),
    "in a Scan": (
        "g (float[5, 40] x, float[40] s) => (float[40] z, float[5, 40] y) { z, y = Scan <num_scan_inputs = 1, "
        "body = b (float[40] h, float[40] v) => (float[40] i, float[40] o) "
        "{ a = MatMul(h, w) i = Add(a, v) o = Tanh(i) }> (s, x) }",
        {"w": normal(40, 40)}, {"x": normal(5, 40), "s": normal(40)},
    ),
    "weights inside an If": (
        "g (float[T, 48] x, bool yes) => (float[T, 40] y) { y = If (yes) <"
        "then_branch = t () => (float[T, 40] p) INSIDE { p = MatMul(x, w) }, "
        "else_branch = o () => (float[T, 40] q) INSIDE { a = MatMul(x, w) q = Neg(a) }> }",
        {"w": normal(48, 40)}, {"x": normal(9, 48), "yes": np.array(True)},
    ),
    "Constant nodes inside an If": (
        "g (float[T, 48] x, bool yes) => (float[T, 40] y) { z = Neg(x) y = If (yes) <"
        "then_branch = t () => (float[T, 40] p) { CONSTANT p = MatMul(z, w) }, "
        "else_branch = o () => (float[T, 40] q) { CONSTANT a = MatMul(z, w) q = Neg(a) }> }",
        {"w": normal(48, 40)}, {"x": normal(9, 48), "yes": np.array(False)},
    ),
    "Constant nodes": (
        "g (float[T, 48] x) => (float[T, 40] y) { CONSTANT y = MatMul(x, w) }",
        {"w": normal(48, 40)}, {"x": normal(9, 48)},
    ),
    "LSTM": (
        'g (float[T, 2, 48] x) => (float[T, 2, 2, 32] y, float[2, 2, 32] h) { y, h = LSTM<hidden_size = 32, '
        'direction = "bidirectional">(x, w, r, b) }',
        LSTM_WEIGHTS, {"x": normal(7, 2, 48)},
    ),
    "Conv": (
        "g (float[1, 24, T] x) => (float[1, 32, U] y) { y = Conv<pads = [1, 1], strides = [2]>(x, w, b) }",
        {"w": normal(32, 24, 3), "b": normal(32)}, {"x": normal(1, 24, 30)},
    ),
    "Conv with groups": (
        "g (float[1, 32, 9, 9] x) => (float[1, 64, H, W] y) { y = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w) }",
        {"w": normal(64, 16, 3, 3)}, {"x": normal(1, 32, 9, 9)},
    ),
}  # fmt: skip


def case(name: str, opset: int = 17) -> tuple[onnx.ModelProto, dict[str, Array]]:
    text, weights, feeds = CASES[name]
    ir_version = 10 if opset >= 21 else 8
    inside = "INSIDE" in text or "CONSTANT" in text
    model = graph(text.replace("INSIDE", "").replace("CONSTANT", ""), opset, ir_version, **({} if inside else weights))
    if not inside:
        return model, feeds
    for inner in graphs(model.graph)[1:] or [model.graph]:
        if "INSIDE" in text:
            inner.initializer.append(onnx.numpy_helper.from_array(weights["w"], "w"))
        else:
            tensor = onnx.numpy_helper.from_array(weights["w"], "value")
            inner.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    return model, feeds


__all__ = [
    "CASES",
    "QUIET",
    "Array",
    "Facts",
    "apply",
    "case",
    "graph",
    "near",
    "normal",
    "op_counts",
    "runs",
    "session",
]

"""Calibrated int8 on graphs that exporters write and users hand in: right, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from transform.fp16_graphs import f32, graph, runs, snr
from transform.int8_graphs import Array

from hubpub.errors import HubpubError, StepError
from hubpub.transform.base import Calibrated
from hubpub.transform.calibration import Method
from hubpub.transform.dynamic_int8 import DynamicInt8
from hubpub.transform.smoothquant_int8 import SmoothQuantInt8
from hubpub.transform.static_int8 import StaticInt8

SMALL = {"min_elements": 16}


def matrix(rows: int, columns: int, seed: int = 0) -> Array:
    rng = np.random.default_rng([seed, rows, columns])
    return (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)


class Inputs:
    """Windows for ``x``, and whatever else is asked for."""

    def __init__(self, *shape: int, count: int = 4, seed: int = 0, **more: Array) -> None:
        self._shape, self._count, self._seed, self._more = shape, count, seed, more

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        for number in range(self._count):
            rng = np.random.default_rng([self._seed, number])
            yield {"x": rng.normal(size=self._shape).astype(np.float32), **self._more}


def apply(step: Calibrated, model: onnx.ModelProto, folder: Path, windows: Inputs) -> tuple[Path, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    source, target = folder / "m.onnx", folder / "out" / "m.onnx"
    target.parent.mkdir(exist_ok=True)
    source.write_bytes(model.SerializeToString(deterministic=True))
    return target, dict(step.apply_calibrated(source, target, windows, None, lambda _: None))


def check(model: onnx.ModelProto, folder: Path, windows: Inputs, **params: Any) -> dict[str, Any]:
    """Smoothed float equals the source; SmoothQuant and static int8 come near it. The facts of SmoothQuant."""
    window = dict(next(iter(windows)))
    step = SmoothQuantInt8(**{**SMALL, "output": "smoothed_fp32", **params})
    target, _ = apply(step, model, folder, windows)
    expected = runs(folder / "m.onnx", window)
    for one, other in zip(expected, runs(target, window), strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max(initial=0) <= 1e-4 * max(np.abs(one).max(initial=0), 1e-3)
    facts: dict[str, Any] = {}
    for step_ in (StaticInt8(**{**SMALL, **params}), SmoothQuantInt8(**{**SMALL, **params})):
        target, facts = apply(step_, model, folder, windows)
        got = runs(target, window)
        assert min(snr(one, other) for one, other in zip(expected, got, strict=True)) > 15
        names = [tensor.name for tensor in onnx.load(target).graph.initializer]
        assert len(names) == len(set(names))
    return facts


def test_tied_and_shared_weights_are_stored_once(tmp_path: Path) -> None:
    text = """
    g (float[n, 16] x) => (float[n, 16] y, float[n, 16] z)
    {
      a = MatMul (x, w)
      b = Relu (a)
      y = MatMul (b, w)
      wt = Transpose <perm = [1, 0]> (w)
      z = MatMul (b, wt)
    }
    """
    facts = check(graph(text, w=matrix(16, 16)), tmp_path, Inputs(9, 16))
    assert facts["fused"]["layers"] == 3
    written = onnx.load(tmp_path / "out" / "m.onnx")
    int8 = [t.name for t in written.graph.initializer if t.data_type == t.INT8 and len(t.dims) == 2]
    assert len(int8) == 2  # as it lies, and turned
    assert "w" not in {t.name for t in written.graph.initializer}


def test_a_weight_that_others_use_too_stays_for_them(tmp_path: Path) -> None:
    text = """
    g (float[n, 16] x, int64[k] ids) => (float[n, 16] y, float[k, 16] rows)
    {
      y = MatMul (x, w)
      rows = Gather (w, ids)
    }
    """
    check(graph(text, w=matrix(16, 16)), tmp_path, Inputs(9, 16, ids=np.array([3, 1])), store_others="fp32")
    assert "w" in {t.name for t in onnx.load(tmp_path / "out" / "m.onnx").graph.initializer}


def test_constant_nodes_identities_and_weights_that_are_inputs(tmp_path: Path) -> None:
    text = """
    g (float[n, 16] x, float[16, 16] given) => (float[n, 16] y)
    {
      same = Identity (w)
      a = MatMul (x, same)
      b = MatMul (a, given)
      y = MatMul (b, c)
    }
    """
    model = graph(text, w=matrix(16, 16), given=matrix(16, 16, 1))
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(matrix(16, 16, 2), "c"))
    model.graph.node.insert(0, constant)
    facts = check(model, tmp_path, Inputs(9, 16))
    assert [entry["weight"] for entry in facts["not_integer"]] == ["given"]
    assert "a caller may give another" in facts["not_integer"][0]["reason"]
    assert facts["fused"]["layers"] == 2


def test_weights_inside_if_and_loop_are_named_and_stay_float(tmp_path: Path) -> None:
    text = """
    g (float[n, 16] x, bool c, int64 m) => (float[n, 16] y)
    {
      a = MatMul (x, w)
      b = If (c) <
        then_branch = t () => (float[n, 16] p) { p = MatMul (a, inner) },
        else_branch = e () => (float[n, 16] q) { q = Relu (a) }
      >
      on = Constant <value = bool {1}> ()
      l = Loop (m, on, b) <
        body = l (int64 i, bool k, float[n, 16] s) => (bool k2, float[n, 16] s2) {
          k2 = Identity (k)
          s1 = MatMul (s, inner)
          s2 = Add (s1, a)
        }
      >
      y = MatMul (l, v)
    }
    """
    weights = {"w": matrix(16, 16), "inner": matrix(16, 16, 1), "v": matrix(16, 16, 2)}
    more = {"c": np.array(True), "m": np.array(2)}
    facts = check(graph(text, **weights), tmp_path, Inputs(9, 16, **more))
    assert facts["fused"]["layers"] == 2
    assert [entry["weight"] for entry in facts["not_integer"]] == ["inner"]
    assert "inside a subgraph" in facts["not_integer"][0]["reason"]
    # What a subgraph reads must not be folded away under it.
    places = {layer["weight"]: layer.get("folded_into") for layer in facts["layers"]}
    assert places["v"] == "Mul added"


def test_custom_operations_are_left_alone(tmp_path: Path) -> None:
    text = """
    g (float[n, 16] x) => (float[n, 16] y)
    {
      a = MatMul (x, w)
      y = com.microsoft.Gelu (a)
    }
    """
    model = graph(text.replace("com.microsoft.Gelu", "Relu"), w=matrix(16, 16))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    check(model, tmp_path, Inputs(9, 16))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "custom"
    with pytest.raises(StepError, match=r"onnxruntime does not load it: .*custom:Unheard"):
        apply(SmoothQuantInt8(**SMALL), model, tmp_path, Inputs(9, 16))


@pytest.mark.parametrize("opset", [13, 15, 17, 18, 20, 21, 23])
def test_opsets(tmp_path: Path, opset: int) -> None:
    norm = "n = LayerNormalization <axis = -1> (x, g, h)" if opset >= 17 else "n = Mul (x, g)"
    text = f"""
    g (float[b, n, 16] x) => (float[b, n, 16] y)
    {{
      {norm}
      a = MatMul (n, w)
      r = Relu (a)
      y = MatMul (r, v)
    }}
    """
    named = {"w": matrix(16, 16), "v": matrix(16, 16, 1), "g": f32(*range(1, 17)), "h": f32(*range(16))}
    facts = check(graph(text, opset, ir_version=8 if opset < 21 else 10, **named), tmp_path, Inputs(2, 9, 16))
    assert facts["fused"]["layers"] == 2


def test_weights_that_are_not_finite_stay_and_dead_channels_do_no_harm(tmp_path: Path) -> None:
    text = "g (float[n, 16] x) => (float[n, 16] y) { d = Mul (x, z)  a = MatMul (d, w)  y = MatMul (a, v) }"
    dead, lame = matrix(16, 16), matrix(16, 16, 1)
    dead[:, 3] = 0
    dead[5] = 0
    lame[2] = 0
    zero = np.ones(16, np.float32)
    zero[[0, 5]] = 0
    check(graph(text, z=zero, w=dead, v=lame), tmp_path, Inputs(9, 16))
    lame[0, 0] = np.inf
    facts = apply(SmoothQuantInt8(**SMALL), graph(text, z=zero, w=dead, v=lame), tmp_path, Inputs(9, 16))[1]
    assert facts["not_integer"][0]["reason"] == "not finite (NaN or infinity)"


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Chains of what surrounds products: norms, biases, activations, residuals, branches, shared weights."""
    width = draw(st.sampled_from([4, 6, 16]))
    lines, named, live, number = [], {}, ["x"], 0

    def fresh() -> str:
        nonlocal number
        number += 1
        return f"v{number}"

    for _ in range(draw(st.integers(1, 8))):
        value, out = live[-1], fresh()  # nothing is dead, the runtime would drop it
        kind = draw(st.sampled_from(["MatMul", "MatMul", "Norm", "Add", "Sub", "Mul", "Div", "Relu", "Sigmoid", "Res"]))
        vector, seed = f"c{number}", draw(st.integers(0, 50))
        if kind == "MatMul":
            shared = [name for name in named if name.startswith("w")]
            name = draw(st.sampled_from(shared)) if shared and draw(st.booleans()) else f"w{number}"
            named.setdefault(name, matrix(width, width, seed))
            lines.append(f"{out} = MatMul ({value}, {name})")
        elif kind == "Norm":
            named |= {vector: matrix(1, width, seed)[0] * 9, f"h{number}": matrix(1, width, seed + 1)[0]}
            lines.append(f"{out} = LayerNormalization <axis = -1> ({value}, {vector}, h{number})")
        elif kind in ("Relu", "Sigmoid"):
            lines.append(f"{out} = {kind} ({value})")
        elif kind == "Res":
            lines.append(f"{out} = Add ({value}, {draw(st.sampled_from(live))})")
        else:
            size = draw(st.sampled_from([1, width]))
            named[vector] = (np.abs(matrix(1, size, seed)[0]) + 0.5).astype(np.float32)
            left, right = (value, vector) if kind == "Div" or draw(st.booleans()) else (vector, value)
            lines.append(f"{out} = {kind} ({left}, {right})")
        live.append(out)
    name = f"w{number + 1}"
    named[name] = matrix(width, width, 77)
    lines.append(f"y = MatMul ({live[-1]}, {name})")
    text = f"g (float[b, n, {width}] x) => (float[b, n, {width}] y) {{ {' '.join(lines)} }}"
    return graph(text, 17, **named)


@pytest.mark.slow
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=networks(), alpha=st.sampled_from([0.0, 0.5, 0.8, "search"]))
def test_smoothing_changes_nothing_and_integers_run(tmp_path: Path, model: onnx.ModelProto, alpha: Any) -> None:
    width = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    windows = Inputs(2, 5, width)
    (window, *_) = windows
    folder = tmp_path / "g"
    smoothed = SmoothQuantInt8(min_elements=1, alpha=alpha, output="smoothed_fp32")
    target, _ = apply(smoothed, model, folder, windows)
    (expected,), (got,) = runs(folder / "m.onnx", dict(window)), runs(target, dict(window))
    # Where large values cancel, what is left has the rounding errors of the large ones.
    assert np.abs(expected - got).max() <= 1e-3 * max(np.abs(expected).max(), 1e-2)
    target, facts = apply(SmoothQuantInt8(min_elements=1, alpha=alpha), model, folder, windows)
    # onnxruntime 1.31 leaves a product in float where a Relu follows at once and its result stays float.
    clipped = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    assert set(facts["fused"]["not_fused"]) <= clipped
    assert np.isfinite(runs(target, dict(window))[0]).all()


def test_a_product_that_the_runtime_leaves_in_float_is_named(tmp_path: Path) -> None:
    text = "g (float[n, 16] x) => (float[n, 16] y) { a = MatMul (x, w)  r = Relu (a)  s = Tanh (r)  y = MatMul (s, v) }"
    facts = check(graph(text, w=matrix(16, 16), v=matrix(16, 16, 1)), tmp_path, Inputs(9, 16))
    assert facts["fused"]["not_fused"] == ["a"]


def test_errors_are_ours(tmp_path: Path) -> None:
    model = graph("g (float[n, 16] x) => (float[n, 16] y) { y = MatMul (x, w) }", w=matrix(16, 16))
    for windows in (Inputs(9, 15), Inputs(9, 16, more=np.zeros(1))):
        for step in (SmoothQuantInt8(**SMALL), StaticInt8(**SMALL)):
            with pytest.raises(HubpubError):
                apply(step, model, tmp_path, windows)


def test_large_weights_of_a_branch_are_no_hindrance(tmp_path: Path) -> None:
    text = """
    g (float[n, 16] x, bool c) => (float[n, 16] y)
    {
      a = MatMul (x, w)
      y = If (c) <
        then_branch = t () => (float[n, 16] p) { p = MatMul (a, w) },
        else_branch = e () => (float[n, 16] q) { q = Relu (a) }
      >
    }
    """
    model = graph(text, w=matrix(16, 16))
    branch = model.graph.node[1].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(matrix(16, 64), "inner"))
    branch.node[0].output[0] = "wide"
    branch.node.append(helper.make_node("MatMul", ["wide", "inner"], ["wider"]))
    branch.node.append(helper.make_node("Slice", ["wider", "from", "to", "axis"], ["p"]))
    for name, value in (("from", 0), ("to", 16), ("axis", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    facts = check(model, tmp_path, Inputs(9, 16, c=np.array(True)), layout="external")
    assert {entry["weight"] for entry in facts["not_integer"]} == {"w", "inner"}


@pytest.mark.parametrize("step", [StaticInt8(**SMALL), DynamicInt8(op_types=("Conv",), **SMALL)])
def test_a_bias_that_a_caller_may_give_stays_an_input(step: Any, tmp_path: Path) -> None:
    text = """
    g (float[1, 4, t] x, float[8] b) => (float[1, 8, u] y)
    {
      m = Conv (x, free)
      y = Conv <kernel_shape = [1]> (m, k, b)
    }
    """
    kernels = {name: matrix(8, 8)[:, : 4 if name == "free" else 8, None] for name in ("free", "k")}
    source, target = tmp_path / "m.onnx", tmp_path / "out.onnx"
    source.write_bytes(graph(text, **kernels, b=f32(*range(8))).SerializeToString())
    if isinstance(step, Calibrated):
        step.apply_calibrated(source, target, Inputs(1, 4, 20), None, lambda _: None)
    else:
        step.apply(source, target, lambda _: None)
    x = next(iter(Inputs(1, 4, 20)))
    for window in (dict(x), {**x, "b": f32(*[100.0] * 8)}):
        assert snr(runs(source, window)[0], runs(target, window)[0]) > 25


class Sizes(Inputs):
    """Windows of which the first have no rows."""

    def __init__(self, *rows: int) -> None:
        super().__init__(0, 16, count=len(rows))
        self._rows = rows

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        for number, rows in enumerate(self._rows):
            yield {"x": np.random.default_rng(number).normal(size=(rows, 16)).astype(np.float32)}


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(
    "step",
    [
        *(StaticInt8(method=method, **SMALL) for method in get_args(Method)),
        SmoothQuantInt8(**SMALL),
        SmoothQuantInt8(alpha=0.5, ranges="percentile", **SMALL),
    ],
)
def test_a_window_may_be_empty_where_a_layer_is(step: Any, opset: int, tmp_path: Path) -> None:
    model = graph("g (float[n, 16] x) => (float[n, 16] y) { y = MatMul (x, w) }", opset, w=matrix(16, 16))
    target, _ = apply(step, model, tmp_path, Sizes(0, 0, 9, 7, 0))
    assert snr(runs(tmp_path / "m.onnx", w := dict(next(iter(Inputs(9, 16)))))[0], runs(target, w)[0]) > 20
    with pytest.raises(StepError, match="'x' is empty in every window"):
        apply(step, model, tmp_path, Sizes(0, 0))


def test_a_nan_in_one_window_is_named(tmp_path: Path) -> None:
    class OneNan(Inputs):
        def __iter__(self) -> Iterator[Mapping[str, Array]]:
            for number, window in enumerate(super().__iter__()):
                window["x"][5, 3] = np.nan if number == 2 else 0
                yield window

    model = graph("g (float[n, 16] x) => (float[n, 16] y) { y = MatMul (x, w) }", w=matrix(16, 16))
    for method in get_args(Method):
        with pytest.raises(StepError, match="input 'x' is NaN in window 3; leave out"):
            apply(StaticInt8(method=method, **SMALL), model, tmp_path, OneNan(9, 16))


def test_what_is_spread_by_an_addition_is_not_folded_into(tmp_path: Path) -> None:
    text = """
    g (float[n, 64] x) => (float[n, 16] y)
    {
      one = MatMul (x, column)
      same = LayerNormalization <axis = -1> (one, gain, shift)
      a = Add (one, row)
      b = Add (same, row)
      d = MatMul (a, w)
      e = MatMul (b, w)
      y = Add (d, e)
    }
    """
    given = {
        "column": matrix(64, 1),
        "gain": f32(2.0),
        "shift": f32(1.0),
        "row": matrix(16, 16)[0],
        "w": matrix(16, 16),
    }
    check(graph(text, **given), tmp_path, Inputs(9, 64))


def test_a_quantized_model_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    model = graph("g (float[n, 16] x) => (float[n, 16] y) { y = MatMul (x, w) }", w=matrix(16, 16))
    target, _ = apply(StaticInt8(**SMALL), model, tmp_path, Inputs(9, 16))
    with pytest.raises(StepError, match=r"is quantized already .*; start from the float model$"):
        apply(SmoothQuantInt8(**SMALL), onnx.load(target), tmp_path / "again", Inputs(9, 16))


def test_weights_of_extreme_size_have_facts_that_are_numbers(tmp_path: Path) -> None:
    text = "g (float[n, 16] x) => (float[n, 16] y) { a = MatMul (x, w) y = MatMul (a, v) }"
    facts = check(graph(text, w=matrix(16, 16) * f32(1e25), v=matrix(16, 16, 1) * f32(1e-27)), tmp_path, Inputs(9, 16))
    json.dumps(facts, allow_nan=False)
    assert all(layer["snr_db"] > 35 and layer["output_snr_db"] > 25 for layer in facts["layers"])

"""Static int8: which kernels run, how good it is, and what is left alone and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transform.fp16_graphs import graph, runs, snr
from transform.int8_graphs import Array, Sequences, block

from hubpub.transform import _int8_values as i8
from hubpub.transform.static_int8 import StaticInt8

CONVOLUTIONS = """
net (float[b, 8, t] x) => (float[b, 6, u] y, float[b, 16, t] side)
{
  a = Conv <pads = [1, 1], kernel_shape = [3]> (x, k1, b1)
  r = Relu (a)
  side = Conv <pads = [1, 1], kernel_shape = [3]> (r, k2)
  s = Sigmoid (side)
  d = Conv <group = 16, pads = [2, 2], kernel_shape = [5]> (s, k3, b3)
  e = Conv <strides = [2], kernel_shape = [1]> (d, k4)
  f = Add (e, shift)
  t = ConvTranspose <strides = [2]> (f, k5)
  y = Relu (t)
}
"""


def convolutions() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"k1": (16, 8, 3), "k2": (16, 16, 3), "k3": (16, 1, 5), "k4": (8, 16, 1), "k5": (8, 6, 2)}
    named = {name: rng.normal(size=shape) / np.sqrt(shape[1] * shape[2]) for name, shape in shapes.items()}
    named |= {"b1": rng.normal(size=16), "b3": rng.normal(size=16), "shift": rng.normal(size=(8, 1))}
    return graph(CONVOLUTIONS, **{name: value.astype(np.float32) for name, value in named.items()})


class Waves(Sequences):
    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return ({"x": np.tile(window["x"][..., :1], 8).swapaxes(1, 2)} for window in super().__iter__())


def quantize(model: onnx.ModelProto, folder: Path, windows: Any, **params: Any) -> tuple[Path, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    source, target = folder / "m.onnx", folder / "out" / "m.onnx"
    target.parent.mkdir(exist_ok=True)
    source.write_bytes(model.SerializeToString(deterministic=True))
    step = StaticInt8(**{"min_elements": 32, **params})
    facts = step.apply_calibrated(source, target, windows, None, lambda _: None)
    assert {path.name for path in target.parent.iterdir()} <= {"m.onnx", "m.onnx.data"}
    return target, dict(facts)


def quality(folder: Path, target: Path, windows: Any) -> list[float]:
    (window,) = windows
    before, after = runs(folder / "m.onnx", dict(window)), runs(target, dict(window))
    return [snr(one, two) for one, two in zip(before, after, strict=True)]


def test_convolutions_run_in_integers_with_relu_and_bias(tmp_path: Path) -> None:
    target, facts = quantize(convolutions(), tmp_path, Waves())
    assert facts["fused"] == {"ops": {"QLinearConv": 4}, "layers": 4, "not_fused": []}
    assert min(quality(tmp_path, target, Waves(1, seed=9))) > 25
    assert [value.name for value in onnx.load(target).graph.output] == ["y", "side"]


def test_what_the_runtime_has_no_integer_kernel_for_is_named(tmp_path: Path) -> None:
    target, facts = quantize(convolutions(), tmp_path, Waves(), op_types=("ConvTranspose",))
    (layer,) = facts["layers"][:1]
    assert layer["op"] == "ConvTranspose"
    assert facts["fused"] == {"ops": {}, "layers": 0, "not_fused": [layer["node"]]}
    assert min(quality(tmp_path, target, Waves(1, seed=9))) > 25


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_products_run_in_integers_by_every_method(tmp_path: Path, method: Any) -> None:
    target, facts = quantize(block(), tmp_path, Sequences(), method=method)
    assert facts["fused"] == {"ops": {"MatMulIntegerToFloat": 6}, "layers": 6, "not_fused": []}
    assert {layer["method"] for layer in facts["layers"][:6]} == {f"static int8, {method}"}
    floor = 8 if method == "entropy" else 12  # large channels on purpose, which entropy cuts off
    assert quality(tmp_path, target, Sequences(1, seed=9))[0] > floor


@pytest.mark.parametrize("asymmetric", [True, False])
def test_zero_points_are_those_asked_for(tmp_path: Path, asymmetric: bool) -> None:
    target, _ = quantize(convolutions(), tmp_path, Waves(), asymmetric=asymmetric)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
    zeros = {int(value) for name, value in stored.items() if name.endswith("zero_point") and value.dtype == np.uint8}
    assert (zeros == {128}) != asymmetric
    if asymmetric:
        assert 0 in zeros  # after Relu


def test_no_two_weights_of_a_kernel_can_saturate(tmp_path: Path) -> None:
    target, _ = quantize(convolutions(), tmp_path, Waves())
    for tensor in onnx.load(target).graph.initializer:
        if tensor.name in ("k1_quantized", "k2_quantized", "k3_quantized"):
            rows = np.sort(np.abs(onnx.numpy_helper.to_array(tensor).reshape(tensor.dims[0], -1).astype(int)), axis=1)
            signed = onnx.numpy_helper.to_array(tensor).reshape(tensor.dims[0], -1).astype(int)
            for side in (signed, -signed):
                top = np.sort(np.maximum(side, 0), axis=1)[:, -2:]
                assert (top.sum(1) <= i8.PAIR_LIMIT).all()
            assert rows.max() > 40


def test_what_is_left_alone_is_listed_with_its_reason_and_bytes(tmp_path: Path) -> None:
    _, facts = quantize(convolutions(), tmp_path, Waves(), exclude=("k1", "k4"), store_others="fp32")
    assert facts["not_integer"] == [
        {"weight": "k1", "reason": "excluded by 'k1'", "bytes": 4 * 16 * 8 * 3},
        {"weight": "k4", "reason": "excluded by 'k4'", "bytes": 4 * 8 * 16},
    ]
    assert {entry["weight"] for entry in facts["skipped"]} >= {"k1", "k4", "k5"}


def test_a_convolution_and_a_product_behind_it_may_read_one_value(tmp_path: Path) -> None:
    text = """
    g (float[1, 8, 16] x) => (float[1, 8, 16] y)
    {
      r = Relu (x)
      c = Conv <kernel_shape = [3], pads = [1, 1]> (r, k)
      m = MatMul (r, w)
      y = Add (c, m)
    }
    """
    rng = np.random.default_rng(0)
    k, w = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 8, 3), (16, 16)))
    _, facts = quantize(graph(text, k=k, w=w), tmp_path, [{"x": rng.normal(size=(1, 8, 16)).astype(np.float32)}])
    assert facts["fused"] == {"ops": {"MatMulIntegerToFloat": 1, "QLinearConv": 1}, "layers": 2, "not_fused": []}

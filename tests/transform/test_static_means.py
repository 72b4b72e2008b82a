"""Static int8 that mends the means of convolutions, and convolutions that are only stored in integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transform.fp16_graphs import Array, graph, runs

from hubpub.transform._channel_means import mean_error
from hubpub.transform.static_int8 import StaticInt8

NET = """
net (float[b, 8, t] x) => (float[b, 8, t] y, float[b, 8, t] z)
{
  r = Relu (x)
  y = Conv <group = 2, pads = [2, 2], kernel_shape = [5]> (r, k1, b1)
  s = Sigmoid (y)
  z = Conv <kernel_shape = [1]> (s, k2)
}
"""


class Loud:
    """Windows whose channels have means of their own."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        rng = np.random.default_rng(self._seed)
        means = np.linspace(0, 4, 8)[:, None]
        return iter([{"x": (means + rng.normal(size=(2, 8, 300))).astype(np.float32)} for _ in range(self._count)])


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    kernels = {"k1": rng.normal(size=(8, 4, 5)), "k2": rng.normal(size=(8, 8, 1)), "b1": rng.normal(size=8)}
    kernels["k1"][:, 0, 0] *= 10  # one weight that sets the scale of its channel
    return graph(NET, **{name: value.astype(np.float32) for name, value in kernels.items()})


def quantize(folder: Path, **params: Any) -> tuple[Path, dict[str, Any]]:
    folder.mkdir()
    onnx.save(model(), folder / "m.onnx")
    step = StaticInt8.model_validate({"transform": "static_int8", "min_elements": 1, "report_runtime": False} | params)
    facts = step.apply_calibrated(folder / "m.onnx", folder / "q.onnx", Loud(4, 1), None, lambda _: None)
    return folder / "q.onnx", dict(facts)


def errors(path: Path, output: int) -> tuple[float, float]:
    """Of other windows: error of the channels' means, and error in all, over the signal's."""
    found, wanted = [], []
    for window in Loud(4, 2):
        found.append(runs(path, dict(window))[output])
        wanted.append(runs(path.with_name("m.onnx"), dict(window))[output])
    off = np.concatenate(found) - np.concatenate(wanted)
    scale = np.concatenate(wanted).std(axis=(0, 2))
    return float(np.abs(off.mean(axis=(0, 2)) / scale).max()), float((off.std(axis=(0, 2)) / scale).max())


@pytest.mark.parametrize("params", [{"only_store": ["k1"]}, {"target": "x86_vnni"}, {}])
def test_means_are_mended(params: dict[str, Any], tmp_path: Path) -> None:
    plain, facts = quantize(tmp_path / "plain", **params)
    assert "mean_corrected" not in facts["layers"][0]
    mended, facts = quantize(tmp_path / "mended", correct_means=True, **params)
    assert {each["weight"]: each["mean_corrected"] for each in facts["layers"]} == {"k1": True, "k2": False}
    before, after = errors(plain, 0)[0], errors(mended, 0)[0]
    assert before > 0.005
    assert after < before / 3


def test_what_is_only_stored_is_computed_in_float(tmp_path: Path) -> None:
    path, facts = quantize(tmp_path / "a", only_store=["k1"])
    methods = {each["weight"]: each["method"] for each in facts["layers"]}
    assert methods == {"k1": "stored int8", "k2": "static int8, minmax"}
    written = onnx.load(path)
    made_by = {node.output[0]: node for node in written.graph.node}
    first = next(node for node in written.graph.node if node.op_type == "Conv" and node.attribute[0].name == "group")
    assert first.input[0] == "r"
    assert made_by[first.input[1]].op_type == "DequantizeLinear"
    kernel = next(t for t in written.graph.initializer if t.name == made_by[first.input[1]].input[0])
    assert kernel.data_type == onnx.TensorProto.INT8


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    texts = {quantize(tmp_path / str(n), correct_means=True, threads=n)[0].read_bytes() for n in (1, 2)}
    assert len(texts) == 1


def test_the_mean_error_of_groups() -> None:
    rng = np.random.default_rng(0)
    error, means = rng.normal(size=(6, 2, 3)), rng.normal(size=4)
    wanted = [sum(error[o, c].sum() * means[2 * (o // 3) + c] for c in range(2)) for o in range(6)]
    np.testing.assert_allclose(mean_error(error, means), wanted)

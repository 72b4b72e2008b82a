"""Excluded products that keep float inputs: weights rounded so that errors cancel, and what the graph becomes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from transform.fp16_graphs import graph, runs, snr
from transform.int8_graphs import Array, Sequences, block, quantize

from hubpub.errors import StepError
from hubpub.transform._blocks import quantize_blocks
from hubpub.transform._compensated import _feedback, round_compensated

GEMM = """
gemm (float[b, 32] x) => (float[b, 24] y)
{
  a = Gemm <alpha = 0.5, transB = 1> (x, w, bias)
  c = MatMul (x, turned)
  y = Add (a, c)
}
"""


def correlated(rows: int, seed: int) -> Array:
    """Rows of 96 channels that move together, as activations do."""
    mix = np.random.default_rng(0).normal(size=(96, 96)) * np.exp(-np.arange(96) / 12)
    return (np.random.default_rng(seed).normal(size=(rows, 96)) @ mix.T).astype(np.float32)


def operations(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("width", [32, 128])  # 128: the last block is not full
def test_rounding_errors_cancel_on_inputs_that_were_not_seen(width: int) -> None:
    matrix = np.random.default_rng(1).normal(size=(96, 40)).astype(np.float32)
    unseen = correlated(300, 3)
    compensated = round_compensated(matrix, correlated(2000, 2), width)
    plain = quantize_blocks(np.ascontiguousarray(matrix.T), 8, width)
    found = [snr(unseen @ matrix, unseen @ blocks.values(96).T) for blocks in (plain, compensated)]
    assert found[1] > found[0] + 6
    assert np.array_equal(compensated.scales, plain.scales)
    assert compensated.error >= plain.error  # of the weights alone plain rounding is the best
    assert compensated.error == pytest.approx(float(np.square(compensated.values(96).T - matrix).sum()), rel=1e-3)


def test_the_feedback_is_that_of_the_factorization() -> None:
    inputs = correlated(400, 4).astype(np.float64)
    moments = inputs.T @ inputs / 400 + np.eye(96)
    unit = _feedback(moments) + np.eye(96)
    assert np.array_equal(unit, np.triu(unit))
    diagonal = np.linalg.solve(unit, np.linalg.solve(unit, moments).T)
    assert np.abs(diagonal - np.diag(np.diag(diagonal))).max() < 1e-9 * np.abs(diagonal).max()


@pytest.mark.parametrize("inputs", [np.zeros((0, 96)), np.zeros((5, 96)), np.full((5, 96), np.nan)])
def test_without_inputs_to_learn_from_rounding_is_plain(inputs: Array) -> None:
    matrix = np.random.default_rng(1).normal(size=(96, 8)).astype(np.float32)
    plain = quantize_blocks(np.ascontiguousarray(matrix.T), 8, 32)
    assert np.array_equal(round_compensated(matrix, inputs.astype(np.float32), 32).integers, plain.integers)


def test_excluded_layers_keep_float_inputs_and_take_8_bits(tmp_path: Path) -> None:
    plain, _ = quantize(block(), tmp_path / "plain")
    target, facts = quantize(block(), tmp_path / "kept", exclude=("w2", "wo"), store_excluded="int8")
    ops = operations(target)
    assert ops["MatMulNBits"] == 2
    assert facts["fused"] == {"ops": {"MatMulIntegerToFloat": 4}, "layers": 4, "not_fused": []}
    methods = {layer["weight"]: layer["method"] for layer in facts["layers"]}
    assert {name for name, method in methods.items() if "inputs float32" in method} == {"w2", "wo"}
    assert not facts["not_integer"]
    assert not [entry for entry in facts["skipped"] if "_scale" in entry["weight"]], "these are nobody's weights"
    (window,) = Sequences(1, seed=99)
    expected = runs(tmp_path / "plain" / "m.onnx", dict(window))[0]
    better, worse = (snr(expected, runs(path, dict(window))[0]) for path in (target, plain))
    assert better > worse


def test_all_layers_may_be_excluded(tmp_path: Path) -> None:
    target, facts = quantize(block(), tmp_path, exclude=("w?",), store_excluded="int8")
    assert operations(target)["MatMulNBits"] == 6
    assert facts["calibration"] == {"windows": 6, "groups": 0}
    assert facts["bytes_out"] < 0.45 * facts["bytes_in"]
    (window,) = Sequences(1, seed=99)
    assert snr(*(runs(path, dict(window))[0] for path in (tmp_path / "m.onnx", target))) > 35
    with pytest.raises(StepError, match="excluded by"):
        quantize(block(), tmp_path / "fp32", exclude=("w?",))


def test_a_gemm_with_factors_and_a_matrix_of_two_products(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    w = rng.normal(size=(24, 32)).astype(np.float32)
    given = {"w": w, "bias": rng.normal(size=24).astype(np.float32), "turned": np.ascontiguousarray(w.T)}
    windows = [{"x": rng.normal(size=(50, 32)).astype(np.float32)} for _ in range(4)]
    target, _ = quantize(graph(GEMM, 17, **given), tmp_path, windows, exclude=("*",), store_excluded="int8")
    assert operations(target)["MatMulNBits"] == 2
    unseen = {"x": rng.normal(size=(20, 32)).astype(np.float32)}
    assert snr(*(runs(path, unseen)[0] for path in (tmp_path / "m.onnx", target))) > 38


def test_an_interrupted_calibration_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    options = {"exclude": ("w2",), "store_excluded": "int8"}
    whole, _ = quantize(block(), tmp_path / "whole", **options)
    resume = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        quantize(block(), tmp_path / "cut", Sequences(stop=3), resume, **options)
    again, _ = quantize(block(), tmp_path / "cut", None, resume, **options)
    assert again.read_bytes() == whole.read_bytes()

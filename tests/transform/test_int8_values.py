"""Scales, rounding, errors, and pairs that saturate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hubpub.transform import _int8_values as i8

floats = st.floats(-1e4, 1e4, width=32)
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=floats)


@pytest.mark.parametrize("grid", [i8.INT8, i8.INT7, i8.UINT8, i8.UINT7])
@settings(deadline=None, max_examples=60)
@given(values=matrices, axis=st.sampled_from([None, 0, 1, -1]))
def test_no_value_moves_by_more_than_a_step_and_zero_stays(grid: i8.Grid, values: i8.Array, axis: int | None) -> None:
    scale, zero = i8.scale_of(*i8.extremes(values, axis), grid)
    integers = i8.quantize(values, scale, zero, grid, axis)
    assert integers.dtype == grid.dtype
    assert integers.min() >= grid.low
    assert integers.max() <= grid.high
    back = i8.dequantize(integers, scale, zero, axis)
    width = scale if axis is None else np.expand_dims(scale, 1 - axis % 2)
    slack = 0.501 if grid.symmetric else 1.001  # the zero point's rounding takes half a step at one end
    assert (np.abs(back - values) <= slack * width + 1e-30).all()
    assert (back[values == 0] == 0).all()
    noise = np.square(back - values, dtype=np.float64)
    whole = noise.sum() if axis is None else noise.sum(1 - axis % 2)
    assert i8.noise(values, scale, zero, grid, axis) == pytest.approx(whole, rel=1e-6, abs=1e-12)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(67, 31)).astype(np.float32)
    whole = [i8.quantize(values, *i8.scale_of(*i8.extremes(values, axis), i8.UINT8), i8.UINT8, axis) for axis in (0, 1)]
    monkeypatch.setattr(i8, "_BLOCK", 40)
    for axis in (0, 1):
        scale, zero = i8.scale_of(*i8.extremes(values, axis), i8.UINT8)
        assert (i8.quantize(values, scale, zero, i8.UINT8, axis) == whole[axis]).all()


def test_rounding_is_that_of_quantize_linear() -> None:
    import onnxruntime
    from onnx import TensorProto, helper

    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    given_ = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("z", TensorProto.UINT8, []),
    ]
    graph = helper.make_graph([node], "g", given_, [helper.make_tensor_value_info("y", TensorProto.UINT8, ["n"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    scale, zero = i8.scale_of(*i8.extremes(values), i8.UINT8)
    (expected,) = session.run(None, {"x": values, "s": scale, "z": zero})
    assert (i8.quantize(values, scale, zero, i8.UINT8) == expected).all()


def test_a_far_outlier_is_cut_off_and_an_even_range_is_not() -> None:
    rng = np.random.default_rng(2)
    bell, even = rng.normal(size=(2, 4096)).astype(np.float32), rng.uniform(-1, 1, (1, 4096)).astype(np.float32)
    bell[0, 0] = 9
    values = np.concatenate([bell, even])
    best = i8.best_clip(values, i8.Grid(-7, 7), 0)
    full, zero = i8.scale_of(*i8.extremes(values, 0), i8.Grid(-7, 7))
    assert best[0] < 0.6 * full[0]
    assert best[2] >= 0.9 * full[2]
    assert (i8.noise(values, best, zero, i8.Grid(-7, 7), 0) <= i8.noise(values, full, zero, i8.Grid(-7, 7), 0)).all()


def test_balanced_puts_zero_in_the_middle() -> None:
    scale, zero = i8.balanced(np.float32(-3), np.float32(1), i8.UINT8)
    assert zero == 128
    assert i8.quantize(np.float32([3, -3, 0]), scale, zero, i8.UINT8).tolist() == [255, 1, 128]


def test_pairs_saturate_as_bytes_do() -> None:
    left = np.array([[255, 255, 255], [255, 0, 1]], np.uint8)
    right = np.array([[127, -127], [127, -127], [127, 1]], np.int8)
    got = i8.saturating_matmul(left, right)
    assert got.tolist() == [[32767 + 255 * 127, -32768 + 255], [255 * 127 + 127, -255 * 127 + 1]]


@settings(deadline=None, max_examples=60)
@given(
    weights=hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=floats),
    seed=st.integers(0, 99),
)
def test_a_pair_safe_scale_is_exact_on_any_activations(weights: i8.Array, seed: int) -> None:
    plain, zero = i8.scale_of(*i8.extremes(weights, 1), i8.INT8)
    safe = i8.pair_safe_scale(weights, plain)
    assert (safe >= plain).all()
    assert (safe <= 2.02 * plain).all()
    integers = i8.quantize(weights, safe, zero, i8.INT8, 1)
    assert (i8.pairs_reach(integers) <= i8.PAIR_LIMIT).all()
    rng = np.random.default_rng(seed)
    for left in (rng.choice([0, 255], (50, len(weights))), rng.integers(0, 256, (50, len(weights)))):
        exact = left.astype(np.int64) @ integers.astype(np.int64)
        assert (i8.saturating_matmul(left.astype(np.uint8), integers) == exact).all()


def test_seven_bits_never_saturate_and_eight_do() -> None:
    full = np.full((1, 64), 255, np.uint8)
    for grid, same in ((i8.INT7, True), (i8.INT8, False)):
        right = np.full((64, 1), grid.high, np.int8)
        assert bool((i8.saturating_matmul(full, right) == 255 * 64 * grid.high).all()) == same
        assert bool((i8.pairs_reach(right) <= i8.PAIR_LIMIT).all()) == same


def test_snr_of_nothing() -> None:
    assert i8.snr_db(0, 1) == 0
    assert i8.snr_db(1, 0) == 300
    assert i8.snr_db(100, 1) == pytest.approx(20)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 40), columns=st.integers(1, 9))
def test_columns_are_quantized_and_measured_at_once(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rows, columns)) * np.exp(rng.standard_normal(columns))).astype(np.float32)
    scale, zero = i8.scale_of(*i8.extremes(values, 1), i8.INT8)
    integers, signal, error = i8.quantize_columns(values, scale, i8.INT8)
    assert np.array_equal(integers, i8.quantize(values, scale, zero, i8.INT8, 1))
    assert signal == pytest.approx(float(np.square(values, dtype=np.float64).sum()), rel=1e-5)
    assert error == pytest.approx(float(i8.noise(values, scale, zero, i8.INT8, 1).sum()), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_columns_of_any_size_have_an_snr(size: float) -> None:
    matrix = (np.random.default_rng(0).normal(size=(64, 8)) * size).astype(np.float32)
    scale, _ = i8.scale_of(*i8.extremes(matrix, 1), i8.INT8)
    _, signal, error = i8.quantize_columns(matrix, scale, i8.INT8)
    assert 40 < i8.snr_db(signal, error) < 50

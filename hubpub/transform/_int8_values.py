"""float32 to integers of at most 8 bits and back: scales, zero points, errors, and what old x86 kernels do to pairs.

Rounding is to nearest, ties to even, and the arithmetic is float32 division, as in ONNX's QuantizeLinear. A scale is
per tensor (a 0-d array, ``axis`` None) or per channel (1-d, along ``axis``). Scratch memory is a block, whatever the
size of a tensor, and no result depends on the size of the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float32]

_BLOCK = 1 << 18  # values; a block and its scratch stay near a core's cache
_TINY = np.float32(2.0**-100)  # the scale of what is all zero; its reciprocal is finite
_CLIPS = tuple(1 - step / 40 for step in range(21))


@dataclass(frozen=True)
class Grid:
    """The integers ``low`` to ``high``; those of a symmetric grid lie evenly about zero."""

    low: int
    high: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest type that holds them."""
        return np.dtype(np.int8 if self.low < 0 else np.uint8)

    @property
    def symmetric(self) -> bool:
        """Whether zero is in the middle."""
        return self.low == -self.high


INT8 = Grid(-127, 127)
INT7 = Grid(-64, 64)
"""Two products with an unsigned byte add up to at most 2 · 255 · 64 = 32,640, which 16 bits hold."""
UINT8 = Grid(0, 255)
UINT7 = Grid(0, 127)


def blocks(values: Array) -> Iterator[slice]:
    """Ranges of the first axis, of about `_BLOCK` values each (at least one row)."""
    rows = values.shape[0] if values.ndim else 1
    step = max(_BLOCK // max(values.size // max(rows, 1), 1), 1)
    return (slice(start, start + step) for start in range(0, rows, step))


def extremes(values: Array, axis: int | None = None) -> tuple[Floats, Floats]:
    """Least and greatest value, of the whole or of each index along ``axis``; of nothing they are 0."""
    over = tuple(i for i in range(values.ndim) if axis is None or i != axis % values.ndim)
    if not values.size:
        shape = () if axis is None else (values.shape[axis],)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    return np.asarray(values.min(over), np.float32), np.asarray(values.max(over), np.float32)


def scale_of(low: Array, high: Array, grid: Grid) -> tuple[Floats, Array]:
    """Scale and zero point by which ``grid`` covers ``low`` to ``high``, zero always among them.

    A symmetric grid covers the larger of the two on both sides, its zero point is 0. On another grid zero is met
    exactly: the zero point is rounded, so up to half a step at one end is given up.

    Args:
        low: least value, per tensor or per channel.
        high: greatest value, of the same shape.
        grid: the integers.

    Returns:
        Scale (float32, positive) and zero point (of the grid's type), both of the shape of ``low``.
    """
    least = np.minimum(np.asarray(low, np.float64), 0)
    greatest = np.maximum(np.asarray(high, np.float64), 0)
    if grid.symmetric:
        scale = np.asarray(np.maximum(np.maximum(-least, greatest) / grid.high, _TINY), np.float32)
        return scale, np.zeros(scale.shape, grid.dtype)
    scale = np.asarray(np.maximum((greatest - least) / (grid.high - grid.low), _TINY), np.float32)
    zero = np.clip(np.rint(grid.low - least / scale), grid.low, grid.high)
    return scale, np.asarray(zero, grid.dtype)


def balanced(low: Array, high: Array, grid: Grid) -> tuple[Floats, Array]:
    """Scale and zero point of an unsigned grid that treats both signs alike: the zero point is in the middle."""
    middle = (grid.low + grid.high + 1) // 2
    reach = np.maximum(np.abs(np.asarray(low, np.float64)), np.abs(np.asarray(high, np.float64)))
    scale = np.asarray(np.maximum(reach / (grid.high - middle), _TINY), np.float32)
    return scale, np.full(scale.shape, middle, grid.dtype)


def quantize(values: Array, scale: Array, zero: Array, grid: Grid, axis: int | None = None) -> Array:
    """``round(values / scale) + zero``, cut off at the ends of the grid; NaN becomes ``zero``."""
    out = np.empty(values.shape, grid.dtype)
    flat, flat_out = (values, out) if values.ndim else (values.reshape(1), out.reshape(1))
    steps, zeros = _along(scale, axis, flat.ndim), _along(zero, axis, flat.ndim)
    for rows in blocks(flat):
        scaled = np.rint(flat[rows].astype(np.float32, copy=False) / _part(steps, rows)) + _part(zeros, rows)
        np.clip(scaled, grid.low, grid.high, out=scaled)
        if np.isnan(scaled.sum()):
            scaled = np.where(np.isnan(scaled), _part(zeros, rows), scaled)
        flat_out[rows] = scaled
    return out


def dequantize(integers: Array, scale: Array, zero: Array, axis: int | None = None) -> Floats:
    """``(integers - zero) * scale`` as float32."""
    out = np.empty(integers.shape, np.float32)
    flat, flat_out = (integers, out) if integers.ndim else (integers.reshape(1), out.reshape(1))
    steps, zeros = _along(scale, axis, flat.ndim), _along(zero, axis, flat.ndim)
    for rows in blocks(flat):
        flat_out[rows] = (flat[rows].astype(np.float32) - _part(zeros, rows)) * _part(steps, rows)
    return out


def noise(values: Array, scale: Array, zero: Array, grid: Grid, axis: int | None = None) -> NDArray[np.float64]:
    """Sum of squared errors that the grid makes, in all or of each channel; shape of ``scale``."""
    flat = values if values.ndim else values.reshape(1)
    total = np.zeros(np.shape(scale), np.float64)
    over = tuple(i for i in range(flat.ndim) if axis is None or i != axis % flat.ndim)
    for rows in blocks(flat):
        here, there = (scale, zero) if axis is None or axis % flat.ndim else (scale[rows], zero[rows])
        error = dequantize(quantize(flat[rows], here, there, grid, axis), here, there, axis) - flat[rows]
        part = np.square(error, dtype=np.float64).sum(over)
        if axis is not None and axis % flat.ndim == 0:
            total[rows] = part
        else:
            total += part
    return total


def quantize_columns(values: Floats, scale: Floats, grid: Grid) -> tuple[Array, float, float]:
    """`quantize` with a scale per column and no zero point, with the sums of squares of the values and of the errors.

    Args:
        values: ``[K, N]``.
        scale: ``[N]``.
        grid: a symmetric one.
    """
    integers = np.empty(values.shape, grid.dtype)
    signal = error = 0.0
    for rows in blocks(values):
        part = values[rows]
        rounded = part / scale
        np.clip(np.rint(rounded, out=rounded), grid.low, grid.high, out=rounded)
        integers[rows] = rounded
        rounded *= scale
        rounded -= part
        signal += _power(part)
        error += _power(rounded)
    return integers, signal, error


def _power(values: Floats) -> float:
    """Sum of squares, in float32 where that can hold them."""
    with np.errstate(over="ignore", under="ignore"):
        total = float(np.square(values).sum())
    return total if 1e-30 < total < np.inf else float(np.square(values, dtype=np.float64).sum())


def snr_db(signal: float, error: float) -> float:
    """Ratio of two sums of squares, dB; at most 300, for an error of nothing, and of no signal 0."""
    if signal <= 0:
        return 0.0
    return float(min(10 * np.log10(signal / error), 300.0)) if error > 0 else 300.0


def best_clip(values: Array, grid: Grid, axis: int | None = None) -> Floats:
    """The scale of a symmetric grid with the least squared error, of 21 that cut off 0 to 50 % of the range.

    Few large values may be worth cutting off, because every step is finer then.

    Returns:
        float32, per tensor or per channel.
    """
    low, high = extremes(values, axis)
    best, zero = scale_of(low, high, grid)
    least = noise(values, best, zero, grid, axis)
    whole = best
    for share in _CLIPS[1:]:
        scale = np.maximum(whole * np.float32(share), _TINY)
        error = noise(values, scale, zero, grid, axis)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return np.asarray(best, np.float32)


# ------------------------------------------------------------------------------------------------ pairs on old x86


def saturating_matmul(activations: Array, weights: Array) -> NDArray[np.int32]:
    """uint8 ``[…, K]`` by int8 ``[K, N]`` as AVX2 and AVX512 without VNNI do it.

    ``vpmaddubsw`` multiplies unsigned by signed bytes and adds neighbouring products (k = 0 and 1, 2 and 3 …) with
    saturation at 16 bits; only then are sums 32 bits wide.
    """
    odd = weights.shape[0] % 2
    left = np.pad(activations, [(0, 0)] * (activations.ndim - 1) + [(0, odd)]).astype(np.int32)
    right = np.pad(weights, [(0, odd), (0, 0)]).astype(np.int32)
    total = np.zeros((*activations.shape[:-1], weights.shape[1]), np.int32)
    for k in range(0, right.shape[0], 2):
        pair = left[..., k, None] * right[k] + left[..., k + 1, None] * right[k + 1]
        total += np.clip(pair, -(1 << 15), (1 << 15) - 1)
    return total


def pairs_reach(weights: Array) -> NDArray[np.int32]:
    """The most that a pair of neighbours along the first axis comes to, same signs only, of each other index.

    Args:
        weights: integers ``[K, N]``, in the order in which the kernel takes them.

    Returns:
        ``[N]``. Up to 128 (`PAIR_LIMIT`) no pair of products with unsigned bytes can leave 16 bits.
    """
    even, odd = weights[0::2], weights[1::2]
    reach = np.abs(weights[-1].astype(np.int32)) if len(weights) % 2 else np.zeros(weights.shape[1], np.int32)
    for start in range(0, len(odd), step := max(_BLOCK // max(weights.shape[1], 1), 1)):
        one = even[start : start + step][: len(odd) - start].astype(np.int16)
        other = odd[start : start + step].astype(np.int16)
        up = np.maximum(one, 0) + np.maximum(other, 0)
        down = np.minimum(one, 0) + np.minimum(other, 0)
        reach = np.maximum(reach, np.maximum(up.max(0), -down.min(0)))
    return np.asarray(reach, np.int32)


PAIR_LIMIT = 128
"""255 · 128 = 32,640 fits into 16 bits, 255 · 129 does not."""


def pair_safe_scale(weights: Floats, scale: Floats) -> Floats:
    """Scales of INT8, not below ``scale``, at which no pair of rounded weights exceeds `PAIR_LIMIT`.

    A column whose two largest neighbours differ in sign or size keeps its scale; the worst needs twice its own, which
    is what 7 bits would cost every column.

    Args:
        weights: float32 ``[K, N]``.
        scale: ``[N]``, what is wanted.
    """
    # Rounding adds at most one to a pair.
    return np.asarray(np.maximum(scale, pairs_reach_of_floats(weights) / np.float32(PAIR_LIMIT - 1)), np.float32)


def pairs_reach_of_floats(weights: Floats) -> Floats:
    """`pairs_reach` before rounding, float32 ``[N]``."""
    even, odd = weights[0::2], weights[1::2]
    alone = weights[-1] if len(weights) % 2 else np.zeros(weights.shape[1], np.float32)
    reach = np.abs(alone)
    for start in range(0, len(odd), step := max(_BLOCK // max(weights.shape[1], 1), 1)):
        one, other = even[start : start + step][: len(odd) - start], odd[start : start + step]
        up = np.maximum(one, 0) + np.maximum(other, 0)
        down = np.minimum(one, 0) + np.minimum(other, 0)
        reach = np.maximum(reach, np.maximum(up.max(0), -down.min(0)))
    return np.asarray(reach, np.float32)


def _along(values: Array, axis: int | None, ndim: int) -> Array:
    """Scale or zero point in a shape that broadcasts, as float32."""
    as_floats = np.asarray(values, np.float32)
    if axis is None:
        return as_floats.reshape((1,) * ndim)
    return as_floats.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def _part(values: Array, rows: slice) -> Array:
    return values[rows] if values.shape[0] > 1 else values

"""float32 to unsigned integers of 4 or 8 bits with a scale for every block of a row, and how 4 bits are packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_TINY = np.float32(2.0**-100)  # the scale of what is all zero
_CLIPS = tuple(1 - step / 40 for step in range(17))
_VALUES = 1 << 20  # looked at in one go


@dataclass(frozen=True)
class Blocks:
    """Rows in blocks: value ``(integers - zero) * scale``.

    Integers are uint8 ``[rows, blocks, block]`` below ``1 << bits``, scales float32 and zeros uint8
    ``[rows, blocks]``. Where a row ends inside its last block, the rest of it is ``zero``.
    """

    integers: Array
    scales: Array
    zeros: Array
    bits: int
    error: float
    """Sum of squared errors."""
    signal: float
    """Sum of squares of the values."""

    def values(self, columns: int) -> Array:
        """The values that are meant, float32 ``[rows, columns]``."""
        floats = (self.integers.astype(np.float32) - self.zeros[..., None]) * self.scales[..., None]
        return np.asarray(floats.reshape(len(floats), -1)[:, :columns])


def quantize_blocks(
    rows: Array, bits: int, block: int | None = None, *, symmetric: bool = True, search: bool = False
) -> Blocks:
    """Quantize each block of each row with a scale of its own.

    Symmetric, the zero is in the middle; of 8 bits the scale is positive and ±127 is met, of 4 bits the value
    of largest magnitude becomes -8, whatever its sign, so that all 16 integers serve (as in llama.cpp's Q4_0).
    Asymmetric, the integers cover the range from the least to the greatest value, zero among them and exact.

    Args:
        rows: float ``[rows, columns]``, finite.
        bits: 4 or 8.
        block: columns of a block; None: all.
        symmetric: which.
        search: take, of 17 scales that cut off 0 to 40 % of a block's range, the one of the least squared error.
    """
    count, columns = rows.shape
    block = block or max(columns, 1)
    number = max(-(-columns // block), 1)
    integers = np.empty((count, number, block), np.uint8)
    scales = np.empty((count, number), np.float32)
    zeros = np.empty((count, number), np.uint8)
    error = signal = 0.0
    step = max(_VALUES // (number * block), 1)
    for start in range(0, count, step):
        part = slice(start, start + step)
        piece = np.zeros((len(rows[part]), number * block), np.float32)
        piece[:, :columns] = rows[part]
        values = piece.reshape(-1, number, block)
        best = _try(values, bits, 1.0, symmetric)
        if search:
            for share in _CLIPS[1:]:
                other = _try(values, bits, share, symmetric)
                better = other[3] < best[3]
                best = tuple(
                    np.where(better[..., None] if one.ndim == 3 else better, two, one)
                    for one, two in zip(best, other, strict=True)
                )
        integers[part], scales[part], zeros[part] = best[:3]
        error += float(best[3].sum())
        signal += float(np.square(values, dtype=np.float64).sum())
    return Blocks(integers, scales, zeros, bits, error, signal)


def _try(values: Array, bits: int, share: float, symmetric: bool) -> tuple[Array, ...]:
    """Integers, scales, zeros and squared errors of blocks ``[rows, blocks, block]`` cut off at ``share``."""
    top, middle = (1 << bits) - 1, 1 << (bits - 1)
    low, high = values.min(2) * np.float32(share), values.max(2) * np.float32(share)
    if symmetric:
        reach = np.where(high > -low, high, low)
        scales = np.abs(reach) / np.float32(middle - 1) if bits == 8 else reach / np.float32(-middle)
        zeros = np.full(low.shape, middle, np.float32)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = (high - low) / np.float32(top)
        safe = np.where(np.abs(scales) < _TINY, _TINY, scales)
        zeros = np.clip(np.rint(-low / safe), 0, top)
    scales = np.where(np.abs(scales) < _TINY, _TINY, scales).astype(np.float32)
    integers = np.clip(np.rint(values / scales[..., None]) + zeros[..., None], 0, top)
    errors = np.square((integers - zeros[..., None]) * scales[..., None] - values, dtype=np.float64).sum(2)
    return integers.astype(np.uint8), scales, zeros.astype(np.uint8), errors


def pack(integers: Array, bits: int) -> Array:
    """Pack along the last axis: two of 4 bits in a byte, the first in the low half, an odd end filled with zero."""
    if bits == 8:
        return integers
    if integers.shape[-1] % 2:
        integers = np.concatenate([integers, np.zeros((*integers.shape[:-1], 1), np.uint8)], -1)
    return np.asarray(integers[..., 0::2] | integers[..., 1::2] << 4)


def unpack(packed: Array, bits: int, count: int) -> Array:
    """Undo `pack`: the first ``count`` integers along the last axis."""
    if bits == 8:
        return packed[..., :count]
    both = np.stack([packed & 15, packed >> 4], -1)
    return np.asarray(both.reshape(*packed.shape[:-1], -1)[..., :count])


def to_signed(integers: Array, bits: int) -> Array:
    """Unsigned integers about a zero in the middle as the bits of signed ones about 0 (two's complement)."""
    return np.asarray(integers ^ np.uint8(1 << (bits - 1)))

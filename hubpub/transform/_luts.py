"""Lookup tables of weight tensors: one per tensor or per group of channels, the best there are.

Clustered is by content: tensors of the same bytes share one table, however many packages of a family hold them. Of a
tensor only its tables are kept; finding the indices again costs less than keeping them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.transform._compensated import assign_compensated
from hubpub.transform._kmeans import cluster, jit

if TYPE_CHECKING:
    from hubpub.coremlfile import ElementType

Array = np.ndarray[Any, np.dtype[Any]]

_KEPT = 1 << 14
_ALL = 1 << 16


@dataclass(frozen=True)
class Form:
    """How a tensor is palettized.

    Attributes:
        bits: of an index.
        axis: of the channels that are grouped or scaled; None: one table for all.
        group: channels that share a table; 0: all.
        scaled: whether each channel is divided by its largest magnitude first.
    """

    bits: int
    axis: int | None = None
    group: int = 0
    scaled: bool = False

    def groups(self, shape: tuple[int, ...]) -> int:
        """Number of tables."""
        return shape[self.axis] // self.group if self.axis is not None and self.group else 1


@dataclass(frozen=True)
class Luts:
    """Tables of one tensor.

    Attributes:
        tables: ``[groups, 2 ** bits]``, ascending, of the tensor's type; unused entries repeat the largest.
        scales: ``[channels]`` of the tensor's type, or None.
        error: sum of squared differences between the tensor and what the tables give.
        energy: sum of the tensor's squares.
        indices: into the one table, packed, where they are not those of the nearest entries.
    """

    tables: Array
    scales: Array | None
    error: float
    energy: float
    indices: bytes | None = None


_kept: OrderedDict[tuple[Any, ...], Luts | None] = OrderedDict()
_lock = threading.Lock()


def luts_of(raw: bytes, kind: ElementType, shape: tuple[int, ...], form: Form) -> Luts | None:
    """The tables of a tensor, those that were made before where its content is the same.

    Returns:
        None where the tensor holds NaN or infinities.
    """
    key = (hashlib.sha256(raw).digest(), kind.name, shape if form.axis is not None else (), form)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    try:
        made = _make(_tensor(raw, kind), shape, form)
    except _NotFiniteError:
        made = None
    with _lock:
        _kept[key] = made
        while len(_kept) > _KEPT:
            _kept.popitem(last=False)
    return made


def compensated_luts(raw: bytes, kind: ElementType, shape: tuple[int, ...], bits: int, moments: Array) -> Luts:
    """One table, and indices with which the errors of a kernel's weights cancel on what it is multiplied with.

    Args:
        raw: the tensor, finite.
        kind: its type.
        shape: ``[outputs, …]``.
        bits: of an index.
        moments: float64 ``[K, K]`` of the K values that each output is a sum over, positive definite.
    """
    values = _tensor(raw, kind)
    matrix = values.reshape(shape[0], -1)
    weights = np.broadcast_to(np.diag(moments), matrix.shape).reshape(-1)
    table = _table(*_weighted(values, weights), 1 << bits, values.dtype)
    exact = matrix.astype(np.float64)
    indices = assign_compensated(np.ascontiguousarray(exact.T), table, moments).T
    error = float(np.square(table.astype(np.float64)[indices] - exact).sum())
    packed = pack(np.ascontiguousarray(indices).reshape(-1).astype(np.uint8), bits)
    return Luts(table[None], None, error, float(np.square(exact).sum()), packed)


def indices_of(raw: bytes, kind: ElementType, shape: tuple[int, ...], form: Form, luts: Luts) -> bytes:
    """Indices into ``luts``, packed, the first in the lowest bits."""
    if luts.indices is not None:
        return luts.indices
    values = _tensor(raw, kind)
    if form.axis is None:
        return pack(_nearest(values, luts.tables[0]), form.bits)
    blocks = _by_channel(values, shape, form.axis)
    indices = np.empty(blocks.shape, np.uint8)
    scales = luts.scales
    for table, (begin, end) in zip(luts.tables, _bounds(blocks.shape[1], form.group), strict=True):
        part = np.ascontiguousarray(blocks[:, begin:end])
        if scales is not None:
            part = _divided(part, scales[begin:end])
        indices[:, begin:end] = _nearest(part.reshape(-1), table).reshape(part.shape)
    return pack(indices.reshape(-1), form.bits)


def pack(indices: Array, bits: int) -> bytes:
    """``indices`` (uint8) in ``bits`` bits each, without gaps."""
    packed: bytes = indices.tobytes() if bits == 8 else _packed(np.ascontiguousarray(indices), bits).tobytes()
    return packed


class _NotFiniteError(Exception):
    """A tensor holds NaN or infinities."""


def _tensor(raw: bytes, kind: ElementType) -> Array:
    return np.frombuffer(raw, kind.dtype())


def _make(values: Array, shape: tuple[int, ...], form: Form) -> Luts:
    size = 1 << form.bits
    if form.axis is None:
        distinct, counts = _distinct(values)
        table = _table(distinct, counts, size, values.dtype)
        return Luts(table[None], None, _error(distinct, counts, table), float((counts * np.square(distinct)).sum()))
    blocks = _by_channel(values, shape, form.axis)
    channels = blocks.shape[1]
    scales = None
    if form.scaled:
        scales = np.abs(blocks).max(axis=(0, 2))
        if not np.isfinite(scales).all():
            raise _NotFiniteError
        scales[scales == 0] = 1
    tables, error = [], 0.0
    for begin, end in _bounds(channels, form.group):
        part = np.ascontiguousarray(blocks[:, begin:end])
        if scales is None:
            distinct, counts = _distinct(part.reshape(-1))
            table = _table(distinct, counts, size, values.dtype)
            error += _error(distinct, counts, table)
        else:
            # What is small after the division weighs as much as it did before it.
            weight = np.square(np.broadcast_to(scales[None, begin:end, None], part.shape), dtype=np.float64)
            divided = _divided(part, scales[begin:end])
            distinct, counts = _weighted(divided.reshape(-1), weight.reshape(-1))
            table = _table(distinct, counts, size, values.dtype)
            given = table.astype(np.float64)[_nearest(divided.reshape(-1), table)].reshape(part.shape)
            error += float(np.square(given * scales[None, begin:end, None] - part, dtype=np.float64).sum())
        tables.append(table)
    energy = float(np.square(values, dtype=np.float64).sum())
    return Luts(np.stack(tables), scales, error, energy)


def _by_channel(values: Array, shape: tuple[int, ...], axis: int) -> Array:
    """As ``[before, channels, after]``."""
    before = int(np.prod(shape[:axis], dtype=np.int64))
    return values.reshape(before, shape[axis], -1)


def _bounds(channels: int, group: int) -> list[tuple[int, int]]:
    step = group or channels
    return [(begin, begin + step) for begin in range(0, channels, step)]


def _divided(part: Array, scales: Array) -> Array:
    quotient: Array = (part / scales[None, :, None].astype(np.float64)).astype(part.dtype)
    return quotient


def _distinct(values: Array) -> tuple[Array, Array]:
    """Distinct values, ascending, and how often each occurs."""
    if values.dtype != np.float16:
        found, counts = np.unique(values, return_counts=True)
        if not np.isfinite(found[[0, -1]]).all():  # NaN is sorted to the end
            raise _NotFiniteError
        return found.astype(np.float64), counts
    histogram = _histogram(values.view(np.uint16))
    histogram[0] += histogram[0x8000]  # zero has two patterns
    histogram[0x8000] = 0
    counts = histogram[_patterns()]
    if counts.sum() != len(values):
        raise _NotFiniteError
    there = np.flatnonzero(counts)
    return _patterns().view(np.float16)[there].astype(np.float64), counts[there]


def _weighted(values: Array, weights: Array) -> tuple[Array, Array]:
    # Not of halves, which NumPy up to 2.4 at least does not always sort with AVX-512.
    found, inverse = np.unique(values.astype(np.float64), return_inverse=True)
    return found, np.bincount(inverse.reshape(-1), weights, len(found))


@cache
def _patterns() -> Array:
    """The bit patterns of all finite halves, ascending by value."""
    negative, positive = np.arange(0xFBFF, 0x7FFF, -1), np.arange(0x7C00)
    ordered: Array = np.concatenate([negative, positive]).astype(np.uint16)
    return ordered


def _table(distinct: Array, counts: Array, size: int, dtype: np.dtype[Any]) -> Array:
    centers = cluster(distinct, counts, size).centers.astype(dtype)
    return np.concatenate([centers, np.repeat(centers[-1:], size - len(centers))])


def _error(distinct: Array, counts: Array, table: Array) -> float:
    off = distinct - table.astype(np.float64)[_indices(distinct, table)]
    return float((counts * np.square(off)).sum())


def _indices(values: Array, table: Array) -> Array:
    """Index of the nearest entry; of two that are as near the lower one."""
    centers = table.astype(np.float64)
    between = (centers[:-1] + centers[1:]) / 2
    return np.searchsorted(between, values).astype(np.uint8)


def _nearest(values: Array, table: Array) -> Array:
    """As `_indices`, for many values of the tensor's type."""
    if values.dtype != np.float16:
        return _indices(values, table)
    of_pattern = np.zeros(_ALL, np.uint8)
    of_pattern[_patterns()] = _indices(_patterns().view(np.float16).astype(np.float64), table)
    return of_pattern[values.view(np.uint16)]


@jit
def _histogram(patterns: Array) -> Array:
    counts = np.zeros(65536, np.int64)
    for pattern in patterns:
        counts[pattern] += 1
    return counts


@jit
def _packed(indices: Array, bits: int) -> Array:
    packed = np.zeros((len(indices) * bits + 7) // 8, np.uint8)
    held, filled, at = np.uint32(0), 0, 0
    for index in indices:
        held |= np.uint32(index) << np.uint32(filled)
        filled += bits
        if filled >= 8:
            packed[at] = np.uint8(held & np.uint32(255))
            at += 1
            held >>= np.uint32(8)
            filled -= 8
    if filled:
        packed[at] = np.uint8(held)
    return packed

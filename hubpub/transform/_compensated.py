"""Round a matrix so that the errors of its weights cancel on inputs that were seen.

Rows of the matrix, one for each input channel, are rounded one after the other, the liveliest channel first; each is
first moved by what makes up for the errors of those before it. The step from row to row follows from a factorization
of the inputs' second moments.

Origin: GPTQ (Frantar et al., 2022, arXiv:2210.17323), in the form of QuIP (Chee et al., 2023, arXiv:2307.13304, LDLQ),
which is equal and needs no inverse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.transform._blocks import Blocks, quantize_blocks
from hubpub.transform._products import product

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DAMPING = 0.01
"""Added to the second moments, as a share of their mean: what was not seen counts a little too."""
_PANEL = 64
_MIDDLE = 128


def round_compensated(matrix: Array, inputs: Array, block: int) -> Blocks:
    """Symmetric 8 bits with a scale for each ``block`` of rows of each column, as `quantize_blocks` of the columns.

    Args:
        matrix: float32 ``[K, N]``, finite.
        inputs: float32 ``[R, K]``, rows of what it is multiplied with; none: plain rounding.
        block: rows that share a scale.
    """
    plain = quantize_blocks(np.ascontiguousarray(matrix.T), 8, block)
    if not len(inputs) or not np.isfinite(inputs).all() or not np.any(inputs):
        return plain
    moments = product(np.ascontiguousarray(inputs.T, np.float64), inputs.astype(np.float64))
    moments = damped(moments / len(inputs))
    order = np.argsort(-np.diag(moments), kind="stable")
    scales = np.repeat(plain.scales, block, axis=1)[:, : len(matrix)].T.astype(np.float64)
    ordered, found = scales[order], np.empty(matrix.shape, np.float64)

    def nearest(row: int, wanted: Array) -> Array:
        found[order[row]] = np.clip(np.rint(wanted / ordered[row]), -_MIDDLE, _MIDDLE - 1)
        return found[order[row]] * ordered[row]  # type: ignore[no-any-return]

    _round_rows(matrix[order].astype(np.float64), _feedback(moments[np.ix_(order, order)]), nearest)
    integers = plain.integers.reshape(len(plain.integers), -1).copy()
    integers[:, : len(matrix)] = (found.T + _MIDDLE).astype(np.uint8)
    error = float(np.square(found * scales - matrix).sum())
    return Blocks(integers.reshape(plain.integers.shape), plain.scales, plain.zeros, 8, error, plain.signal)


def assign_compensated(matrix: Array, table: Array, moments: Array) -> Array:
    """Indices into a table, int64 ``[K, N]``.

    Args:
        matrix: float64 ``[K, N]``.
        table: ``[T]``, ascending.
        moments: float64 ``[K, K]``, second moments of what it is multiplied with, damped.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    entries, found = table.astype(np.float64), np.empty(matrix.shape, np.int64)
    between = (entries[:-1] + entries[1:]) / 2

    def nearest(row: int, wanted: Array) -> Array:
        found[order[row]] = np.searchsorted(between, wanted)
        return entries[found[order[row]]]  # type: ignore[no-any-return]

    _round_rows(matrix[order], _feedback(moments[np.ix_(order, order)]), nearest)
    return found


def damped(moments: Array) -> Array:
    """With a share of their mean on the diagonal."""
    found: Array = moments + np.diag(np.full(len(moments), DAMPING * float(np.diag(moments).mean())))
    return found


def _round_rows(matrix: Array, feedback: Array, nearest: Callable[[int, Array], Array]) -> None:
    """Take the rows of ``[K, N]`` from the first on; ``feedback`` ``[K, K]``: of each error to each later row.

    ``nearest`` is told a row and what is wanted of it, and says what it gets.
    """
    wanted = matrix.copy()
    for start in range(0, len(matrix), _PANEL):
        end = min(start + _PANEL, len(matrix))
        errors = np.empty((end - start, matrix.shape[1]))
        for row in range(start, end):
            done = row - start
            target = wanted[row] + (errors[:done] * feedback[start:row, row, None]).sum(0)
            errors[done] = matrix[row] - nearest(row, target)
        if end < len(matrix):
            wanted[end:] += product(np.ascontiguousarray(feedback[start:end, end:].T), errors)


def _feedback(moments: Array) -> Array:
    """The strict upper part of U in ``moments = U D U'``, U unit upper triangular, by panels from the last on."""
    left, size = moments.copy(), len(moments)
    unit = np.zeros_like(left)
    for end in range(size, 0, -_PANEL):
        start = max(end - _PANEL, 0)
        diagonal = np.empty(end - start)
        for column in range(end - 1, start - 1, -1):
            diagonal[column - start] = left[column, column]
            values = left[:column, column] / left[column, column]
            unit[:column, column] = values
            left[:column, start:column] -= np.outer(values, left[start:column, column])
        if start:
            panel = np.ascontiguousarray(unit[:start, start:end])
            left[:start, :start] -= product(panel * diagonal, np.ascontiguousarray(panel.T))
    return unit

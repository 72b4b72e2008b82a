"""Tensors from parameters."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates


@translates("fill", moves=True)
def fill(op: Operation, graph: Graph) -> Operand:
    """``value`` in every place of ``shape``."""
    return graph.node("Expand", _filling(op, graph), graph.long(op["shape"]))


@translates("fill_like", moves=True)
def fill_like(op: Operation, graph: Graph) -> Operand:
    """``value`` in every place of another tensor's shape."""
    return graph.node("Expand", _filling(op, graph), graph.shape(op["ref_tensor"]))


def _filling(op: Operation, graph: Graph) -> Operand:
    value = op.get("value")
    return graph.floats(0) if value is None else graph.node("Reshape", value, graph.ints([]))


@translates("range_1d")
def range_1d(op: Operation, graph: Graph) -> Operand:
    """As ``numpy.arange``."""
    ends = (graph.node("Reshape", op[name], graph.ints([])) for name in ("start", "end", "step"))
    return graph.node("Range", *ends)


@translates("band_part", moves=True)
def band_part(op: Operation, graph: Graph) -> Operand:
    """The diagonals from ``lower`` below to ``upper`` above the middle, else zeros; all where it is negative."""
    import numpy as np

    rows, columns = op.sizes("x")[-2:]
    lower, upper = op.one("lower", -1), op.one("upper", -1)
    below = np.arange(rows)[:, None] - np.arange(columns)
    kept = ((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper))
    if op.kind.dtype == "bool":
        return graph.node("And", graph.constant(kept), op["x"])
    zero = np.zeros((), np.float32 if op.kind.is_float else np.int32)
    return graph.node("Where", graph.constant(kept), op["x"], graph.constant(zero))

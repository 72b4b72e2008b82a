"""Tensors from parameters."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand, Value
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

    lower, upper = op.one("lower", -1), op.one("upper", -1)
    rows, columns = (_counted(op["x"], axis, graph) for axis in (-2, -1))
    below = graph.node("Sub", graph.node("Unsqueeze", rows, graph.ints([1])), columns)
    kept: Operand = graph.constant(np.ones((1, 1), bool))
    if lower >= 0:
        kept = graph.node("And", kept, graph.node("LessOrEqual", below, graph.ints(lower)))
    if upper >= 0:
        kept = graph.node("And", kept, graph.node("GreaterOrEqual", below, graph.ints(-upper)))
    if op.kind.dtype == "bool":
        return graph.node("And", kept, op["x"])
    zero = np.zeros((), np.float32 if op.kind.is_float else np.int32)
    return graph.node("Where", kept, op["x"], graph.constant(zero))


def _counted(value: Value, axis: int, graph: Graph) -> str:
    """int64 ``[0, 1, …]``, as many as the axis is long."""
    size = graph.node("Gather", graph.shape(value), graph.ints(axis))
    return graph.node("Range", graph.ints(0), size, graph.ints(1))

"""Elements put where indices say."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates

REDUCTIONS = {"update": "none", "add": "add", "sub": "add", "mul": "mul", "div": "mul", "max": "max", "min": "min"}


@translates("scatter")
def scatter(op: Operation, graph: Graph) -> Operand:
    """``updates`` into ``data`` at a vector of ``indices`` along ``axis``."""
    reduction, updates = _mode(op, graph)
    rank = op["data"].rank
    axis = op.axis("axis", rank, 0)
    column = graph.node("Reshape", graph.long(op["indices"]), graph.ints([-1] + [1] * (rank - axis - 1)))
    places = graph.node("Expand", column, graph.shape(op["updates"]))
    return graph.node("ScatterElements", op["data"], places, updates, axis=axis, reduction=reduction)


@translates("scatter_along_axis")
def scatter_along_axis(op: Operation, graph: Graph) -> Operand:
    """As ``numpy.put_along_axis``."""
    reduction, updates = _mode(op, graph)
    axis = op.axis("axis", op["data"].rank, 0)
    return graph.node("ScatterElements", op["data"], op["indices"], updates, axis=axis, reduction=reduction)


@translates("scatter_nd")
def scatter_nd(op: Operation, graph: Graph) -> Operand:
    """Slices of ``updates`` into ``data`` by index vectors in the last axis of ``indices``."""
    reduction, updates = _mode(op, graph)
    return graph.node("ScatterND", op["data"], graph.long(op["indices"]), updates, reduction=reduction)


def _mode(op: Operation, graph: Graph) -> tuple[str, Operand]:
    """ONNX's reduction, and the updates as it takes them."""
    mode = op.one("mode", "add")
    if mode not in REDUCTIONS:
        raise op.fail(f"its mode {mode} is not known")
    updates: Operand = op["updates"]
    if mode == "sub":
        updates = graph.node("Neg", updates)
    if mode == "div":
        if not op["updates"].type.is_float:
            raise op.fail("integers are divided in it, which no ONNX runtime does there")
        updates = graph.node("Reciprocal", updates)
    return REDUCTIONS[mode], updates

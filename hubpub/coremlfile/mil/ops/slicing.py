"""Parts of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates

FAR = 2**62
"""Beyond every axis; ONNX cuts it to the axis."""


@translates("slice_by_index", moves=True)
def slice_by_index(op: Operation, graph: Graph) -> Operand:
    """``x[begin:end:stride]``; masks open an end, or take a single index and its axis away."""
    rank = op["x"].rank
    steps = op.ints("stride", [1] * rank)
    single = op.ints("squeeze_mask", [0] * rank)
    steps = [1 if alone else step for step, alone in zip(steps, single, strict=True)]
    starts, ends = bounds(op, steps, single, graph)
    axes = graph.ints(list(range(rank)))
    found = graph.node("Slice", op["x"], starts, ends, axes, graph.ints(steps))
    alone = [axis for axis in range(rank) if single[axis]]
    return graph.node("Squeeze", found, graph.ints(alone)) if alone else found


def bounds(op: Operation, steps: Sequence[int], single: Sequence[int], graph: Graph) -> tuple[str, str]:
    """ONNX's starts and ends, computed where ``begin`` or ``end`` are."""
    rank = len(steps)
    begin_mask, end_mask = op.ints("begin_mask", [0] * rank), op.ints("end_mask", [0] * rank)

    first = [0 if step > 0 else FAR for step in steps]
    last = [FAR if step > 0 else -FAR for step in steps]
    if op["begin"].constant and op["end"].constant:
        begin = [f if o else b for b, f, o in zip(op.ints("begin"), first, begin_mask, strict=True)]
        after = [b + 1 if b != -1 else FAR for b in begin]
        closed = [e if not m else f for e, f, m in zip(op.ints("end"), last, end_mask, strict=True)]
        return graph.ints(begin), graph.ints([a if s else c for a, c, s in zip(after, closed, single, strict=True)])
    starts = _where(begin_mask, graph.ints(first), graph.long(op["begin"]), graph)
    ends = _where(end_mask, graph.ints(last), graph.long(op["end"]), graph)
    if any(single):
        from_last = graph.node("Equal", starts, graph.ints(-1))
        following = graph.node("Where", from_last, graph.ints(FAR), graph.node("Add", starts, graph.ints(1)))
        ends = _where(single, following, ends, graph)
    return starts, ends


@translates("slice_by_size", moves=True)
def slice_by_size(op: Operation, graph: Graph) -> Operand:
    """``size`` elements from ``begin`` on, or all that are left where it is -1."""
    begin, size = graph.long(op["begin"]), graph.long(op["size"])
    counted = graph.node("Add", begin, graph.shape(op["x"]))
    starts = graph.node("Where", graph.node("Less", begin, graph.ints(0)), counted, begin)
    rest = graph.node("Less", size, graph.ints(0))
    ends = graph.node("Where", rest, graph.ints(FAR), graph.node("Add", starts, size))
    return graph.node("Slice", op["x"], starts, ends, graph.ints(list(range(op["x"].rank))))


@translates("slice_update", moves=True)
def slice_update(op: Operation, graph: Graph) -> Operand:
    """``x`` with ``update`` put where ``slice_by_index`` would have read."""
    rank = op["x"].rank
    steps, single = op.ints("stride", [1] * rank), op.ints("squeeze_mask", [0] * rank)
    steps = [1 if alone else step for step, alone in zip(steps, single, strict=True)]
    starts, ends = bounds(op, steps, single, graph)
    shape, minus_one = graph.shape(op["x"]), graph.ints([-1])
    # The slice of a tensor that holds the place of each element says where the update goes.
    count = graph.node("ReduceProd", shape, keepdims=0)
    places = graph.node("Reshape", graph.node("Range", graph.ints(0), count, graph.ints(1)), shape)
    where = graph.node("Slice", places, starts, ends, graph.ints(list(range(rank))), graph.ints(steps))
    flat, update = graph.node("Reshape", op["x"], minus_one), graph.node("Reshape", op["update"], minus_one)
    found = graph.node("ScatterElements", flat, graph.node("Reshape", where, minus_one), update)
    return graph.node("Reshape", found, shape)


@translates("crop", moves=True)
def crop(op: Operation, graph: Graph) -> Operand:
    """Without the borders of the last two axes."""
    (top, bottom), (left, right) = op.ints("crop_height"), op.ints("crop_width")
    ends = graph.ints([-bottom or FAR, -right or FAR])
    return graph.node("Slice", op["x"], graph.ints([top, left]), ends, graph.ints([-2, -1]))


@translates("sliding_windows", moves=True)
def sliding_windows(op: Operation, graph: Graph) -> Operand:
    """All windows of ``size`` along ``axis``, ``stride`` apart, on an axis of their own."""
    axis, size, stride = op.axis("axis", op["x"].rank, 0), op.one("size", 1), op.one("stride", 1)
    length = graph.node("Gather", graph.shape(op["x"]), graph.ints(axis))
    beyond = graph.node("Sub", length, graph.ints(size - 1))
    starts = graph.node("Range", graph.ints(0), beyond, graph.ints(stride))
    places = graph.node("Add", graph.node("Unsqueeze", starts, graph.ints([1])), graph.ints(list(range(size))))
    return graph.node("Gather", op["x"], places, axis=axis)


def _where(mask: Sequence[int], yes: str, no: str, graph: Graph) -> str:
    import numpy as np

    return graph.node("Where", graph.constant(np.array(mask, bool)), yes, no) if any(mask) else no

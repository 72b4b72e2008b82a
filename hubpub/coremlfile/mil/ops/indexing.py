"""Elements chosen by indices."""

from __future__ import annotations

import math

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates


@translates("gather", moves=True)
def gather(op: Operation, graph: Graph) -> Operand:
    """``x`` at ``indices`` along ``axis``; the first ``batch_dims`` axes of both belong together."""
    rank = op["x"].rank
    axis, batch = op.axis("axis", rank, 0), op.one("batch_dims", 0)
    if batch == 0:
        return graph.node("Gather", op["x"], op["indices"], axis=axis)
    # The axis beside the batch, both as one; then each item's indices begin where the item does.
    sizes, places = op.sizes("x"), op.sizes("indices")
    if axis < batch:
        raise op.fail(f"its axis {axis} is among its {batch} batch axes", "the model is damaged")
    between = list(range(batch, axis))
    perm = [*range(batch), axis, *between, *range(axis + 1, rank)]
    items, length = math.prod(sizes[:batch]), sizes[axis]
    moved = graph.node("Transpose", op["x"], perm=perm)
    flat = graph.node("Reshape", moved, graph.ints([items * length, *(sizes[each] for each in perm[batch + 1 :])]))
    found = graph.node("Gather", flat, _within(op, graph, places, batch, items, length), axis=0)
    inner = len(places) - batch
    # Now [*batch, *indices, *between, *after]; the indices belong where the axis was.
    first = batch + inner
    order = [
        *range(batch),
        *range(first, first + len(between)),
        *range(batch, first),
        *range(first + len(between), first + rank - batch - 1),
    ]
    return graph.node("Transpose", found, perm=order)


def _within(op: Operation, graph: Graph, places: tuple[int, ...], batch: int, items: int, length: int) -> str:
    """Indices into the flat batch."""
    import numpy as np

    given = graph.long(op["indices"])
    counted = graph.node("Where", graph.node("Less", given, graph.ints(0)), graph.ints(length), graph.ints(0))
    starts = (np.arange(items, dtype=np.int64) * length).reshape(*places[:batch], *[1] * (len(places) - batch))
    return graph.node("Add", graph.node("Add", given, counted), graph.constant(starts))


@translates("gather_along_axis", moves=True)
def gather_along_axis(op: Operation, graph: Graph) -> Operand:
    """As ``numpy.take_along_axis``."""
    return graph.node("GatherElements", op["x"], op["indices"], axis=op.axis("axis", op["x"].rank, 0))


@translates("gather_nd", moves=True)
def gather_nd(op: Operation, graph: Graph) -> Operand:
    """Slices of ``x`` by index vectors in the last axis of ``indices``."""
    return graph.node("GatherND", op["x"], graph.long(op["indices"]), batch_dims=op.one("batch_dims", 0))


@translates("one_hot", moves=True)
def one_hot(op: Operation, graph: Graph) -> Operand:
    """``on_value`` where the new axis counts to the index, else ``off_value``."""
    rank = op["indices"].rank
    axis = op.one("axis", -1) % (rank + 1)
    depth = graph.node("Reshape", graph.long(op["one_hot_vector_size"]), graph.ints([]))
    classes = graph.node("Range", graph.ints(0), depth, graph.ints(1))
    classes = graph.node("Unsqueeze", classes, graph.ints(list(range(1, rank - axis + 1))))
    indices = graph.node("Unsqueeze", graph.long(op["indices"]), graph.ints([axis]))
    on: Operand = op.get("on_value") or _number(op, 1, graph)
    off: Operand = op.get("off_value") or _number(op, 0, graph)
    return graph.node("Where", graph.node("Equal", indices, classes), on, off)


def _number(op: Operation, number: int, graph: Graph) -> str:
    import numpy as np

    return graph.constant(np.array(number, np.float32 if op.kind.is_float else np.int32))


@translates("non_zero")
def non_zero(op: Operation, graph: Graph) -> Operand:
    """int32 ``[n, rank]``: where ``x`` is not zero."""
    return graph.to(graph.node("Transpose", graph.node("NonZero", op["x"]), perm=[1, 0]), "INT32")

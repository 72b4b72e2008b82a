"""Several tensors from one, one from several, and borders around one."""

from __future__ import annotations

from collections.abc import Sequence

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@translates("concat", moves=True)
def concat(op: Operation, graph: Graph) -> Operand:
    """Along ``axis``, one after the other or in turn."""
    values = op.many("values")
    if not values:
        raise op.fail("it has no `values`", "the model is damaged")
    rank = values[0].rank
    if rank == 0:  # scalars make a vector
        return _stacked(op, 0, graph)
    axis = op.axis("axis", rank, 0)
    if not op.one("interleave", False):
        return graph.node("Concat", *values, axis=axis)
    stacked = _stacked(op, axis + 1, graph)
    shape = [0 if each < axis else -1 for each in range(axis + 1)]
    after = graph.node("Slice", graph.shape(values[0]), graph.ints([axis + 1]), graph.ints([rank]))
    return graph.node("Reshape", stacked, graph.node("Concat", graph.ints(shape), after, axis=0))


@translates("stack", moves=True)
def stack(op: Operation, graph: Graph) -> Operand:
    """On a new axis."""
    return _stacked(op, op.one("axis", 0) % (op.many("values")[0].rank + 1), graph)


def _stacked(op: Operation, axis: int, graph: Graph) -> str:
    parts = [graph.node("Unsqueeze", each, graph.ints([axis])) for each in op.many("values")]
    return graph.node("Concat", *parts, axis=axis)


@translates("split", moves=True)
def split(op: Operation, graph: Graph) -> Sequence[Operand]:
    """Along ``axis``, into equal parts or parts of ``split_sizes``."""
    axis, count = op.axis("axis", op["x"].rank, 0), len(op.outputs)
    sizes = op.get("split_sizes")
    if sizes is None:
        return graph.node_of("Split", count, op["x"], axis=axis, num_outputs=count)
    return graph.node_of("Split", count, op["x"], graph.long(sizes), axis=axis)


@translates("pad", moves=True)
def pad(op: Operation, graph: Graph) -> Operand:
    """The last axes by ``pad`` ``[before, after, before, after, …]``."""
    mode = op.one("mode", "constant")
    if mode not in MODES:
        raise op.fail(f"its mode {mode} is not known")
    count, rank = op.sizes("pad")[0] // 2, op["x"].rank
    pairs = graph.node("Reshape", graph.long(op["pad"]), graph.ints([count, 2]))
    amounts = graph.node("Reshape", graph.node("Transpose", pairs, perm=[1, 0]), graph.ints([-1]))
    filling: Operand = ""
    if mode == "constant" and (value := op.get("constant_val")) is not None:
        filling = graph.node("Reshape", value, graph.ints([]))
    return graph.node("Pad", op["x"], amounts, filling, graph.ints(list(range(rank - count, rank))), mode=MODES[mode])

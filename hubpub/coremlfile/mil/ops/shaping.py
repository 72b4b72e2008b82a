"""Other shapes of the same elements."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates


@translates("identity", moves=True)
def identity(op: Operation, graph: Graph) -> Operand:
    """``x``."""
    return op["x"]


@translates("reshape", moves=True)
def reshape(op: Operation, graph: Graph) -> Operand:
    """To ``shape``, in which 0 keeps an axis and -1 takes what is left."""
    return graph.node("Reshape", op["x"], graph.long(op["shape"]))


@translates("reshape_like", moves=True)
def reshape_like(op: Operation, graph: Graph) -> Operand:
    """To a shape put together from parts of other tensors' shapes."""
    parts = []
    references = op.many("ref_tensors")
    bounds = [op.many(name) for name in ("begins", "ends", "end_masks")]
    for reference, *bound in zip(references, *bounds, strict=True):
        first, beyond, all_ = (int(each.array().item()) for each in bound)
        stop = reference.rank if all_ else beyond
        parts.append(graph.node("Slice", graph.shape(reference), graph.ints([first]), graph.ints([stop])))
    return graph.node("Reshape", op["x"], graph.node("Concat", *parts, axis=0))


@translates("expand_dims", moves=True)
def expand_dims(op: Operation, graph: Graph) -> Operand:
    """Axes of size 1 at ``axes`` of the result."""
    return graph.node("Unsqueeze", op["x"], graph.ints(op.ints("axes")))


@translates("squeeze", moves=True)
def squeeze(op: Operation, graph: Graph) -> Operand:
    """Without those of ``axes`` that have size 1, or without all that have."""
    rank, shape = op["x"].rank, op["x"].type.shape
    axes = [axis % rank for axis in op.ints("axes", range(rank))]
    return graph.node("Squeeze", op["x"], graph.ints([axis for axis in axes if shape[axis] == 1]))


@translates("transpose", moves=True)
def transpose(op: Operation, graph: Graph) -> Operand:
    """Axes in the order ``perm``."""
    rank = op["x"].rank
    return graph.node("Transpose", op["x"], perm=[axis % rank for axis in op.ints("perm")]) if rank else op["x"]


@translates("flatten2d", moves=True)
def flatten2d(op: Operation, graph: Graph) -> Operand:
    """Two axes: what is before ``axis``, and the rest."""
    return graph.node("Flatten", op["x"], axis=op.one("axis", 1))


@translates("tile", moves=True)
def tile(op: Operation, graph: Graph) -> Operand:
    """Each axis ``reps`` times over."""
    return graph.node("Tile", op["x"], graph.long(op["reps"]))


@translates("reverse", moves=True)
def reverse(op: Operation, graph: Graph) -> Operand:
    """Backwards along ``axes``, or along all."""
    axes = op.ints("axes", range(op["x"].rank))
    count = len(axes)
    ends = graph.ints([-(2**62)] * count)
    return graph.node("Slice", op["x"], graph.ints([-1] * count), ends, graph.ints(axes), graph.ints([-1] * count))


@translates("reverse_sequence", moves=True)
def reverse_sequence(op: Operation, graph: Graph) -> Operand:
    """The first ``lengths[i]`` elements of item ``i`` backwards."""
    rank = op["x"].rank
    time, batch = op.axis("seq_axis", rank, 0), op.axis("batch_axis", rank, 0)
    if time == batch:
        raise op.fail("its `seq_axis` and `batch_axis` are the same", "the model is damaged")
    perm = [time, batch, *(axis for axis in range(rank) if axis not in (time, batch))]
    moved = graph.node("Transpose", op["x"], perm=perm)
    found = graph.node("ReverseSequence", moved, graph.long(op["lengths"]), time_axis=0, batch_axis=1)
    return graph.node("Transpose", found, perm=[perm.index(axis) for axis in range(rank)])


@translates("shape")
def shape(op: Operation, graph: Graph) -> Operand:
    """int32 ``[rank]``."""
    return graph.to(graph.shape(op["x"]), "INT32")

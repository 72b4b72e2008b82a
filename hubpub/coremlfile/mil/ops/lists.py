"""Lists of tensors of one shape, held as one tensor whose first axis is the list."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates


@translates("make_list", moves=True)
def make_list(op: Operation, graph: Graph) -> Operand:
    """``init_length`` elements of zeros."""
    import numpy as np

    element = op.kind.shape[1:]
    if None in element:
        raise op.fail("the shape of its elements is known only when it runs", "convert the model with fixed shapes")
    length: Operand = graph.ints([1])
    if (given := op.get("init_length")) is not None:
        length = graph.node("Reshape", graph.long(given), graph.ints([1]))
    shape = graph.node("Concat", length, graph.ints([size or 0 for size in element]), axis=0)
    kind = np.float32 if op.kind.is_float else bool if op.kind.dtype == "bool" else np.int32
    return graph.node("Expand", graph.constant(np.zeros((), kind)), shape)


@translates("list_length")
def list_length(op: Operation, graph: Graph) -> Operand:
    """int32 scalar."""
    length = graph.node("Gather", graph.node("Shape", op["ls"]), graph.ints(0))
    return graph.to(length, "INT32")


@translates("list_read", moves=True)
def list_read(op: Operation, graph: Graph) -> Operand:
    """The element at ``index``."""
    return graph.node("Gather", op["ls"], graph.node("Reshape", op["index"], graph.ints([])), axis=0)


@translates("list_gather", moves=True)
def list_gather(op: Operation, graph: Graph) -> Operand:
    """The elements at ``indices``, on a new first axis."""
    return graph.node("Gather", op["ls"], op["indices"], axis=0)


@translates("list_write", moves=True)
def list_write(op: Operation, graph: Graph) -> Operand:
    """With ``value`` at ``index``; the list grows where that is beyond its end."""
    index = graph.node("Reshape", graph.long(op["index"]), graph.ints([1]))
    return _written(op, index, graph.node("Unsqueeze", op["value"], graph.ints([0])), graph)


@translates("list_scatter", moves=True)
def list_scatter(op: Operation, graph: Graph) -> Operand:
    """With ``value[i]`` at ``indices[i]``; the list grows where that is beyond its end."""
    return _written(op, graph.long(op["indices"]), op["value"], graph)


def _written(op: Operation, places: str, values: Operand, graph: Graph) -> str:
    """``places`` is int64 ``[n]``, ``values`` ``[n, *element]``."""
    length = graph.node("Slice", graph.node("Shape", op["ls"]), graph.ints([0]), graph.ints([1]))
    needed = graph.node("Add", graph.node("ReduceMax", places), graph.ints([1]))
    more = graph.node("Max", graph.node("Sub", needed, length), graph.ints([0]))
    axes = [0, *(0 for _ in op["ls"].type.shape[1:])]
    amounts = graph.node("Concat", graph.ints(axes), more, graph.ints(axes[1:]), axis=0)
    if op["ls"].type.dtype == "bool":  # which ONNX does not pad
        grown = graph.to(graph.node("Pad", graph.to(op["ls"], "INT32"), amounts), "BOOL")
    else:
        grown = graph.node("Pad", op["ls"], amounts)
    return graph.node("ScatterND", grown, graph.node("Unsqueeze", places, graph.ints([1])), values)

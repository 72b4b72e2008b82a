"""Matrix products."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand, Value
from hubpub.coremlfile.mil.operation import Operation, translates


@translates("linear")
def linear(op: Operation, graph: Graph) -> Operand:
    """``x @ weight.T + bias``."""
    product = graph.node("MatMul", op["x"], transposed(op["weight"], graph))
    bias = op.get("bias")
    return product if bias is None else graph.node("Add", product, bias)


@translates("matmul")
def matmul(op: Operation, graph: Graph) -> Operand:
    """``x @ y``, each with its last two axes swapped where that is asked for."""
    x: Operand = transposed(op["x"], graph) if op.one("transpose_x", False) else op["x"]
    y: Operand = transposed(op["y"], graph) if op.one("transpose_y", False) else op["y"]
    return graph.node("MatMul", x, y)


@translates("einsum")
def einsum(op: Operation, graph: Graph) -> Operand:
    """Einstein's summation of ``values``."""
    return graph.node("Einsum", *op.many("values"), equation=op.one("equation", "").replace(" ", ""))


def transposed(value: Value, graph: Graph) -> str:
    """With the last two axes swapped."""
    if value.rank < 2:
        return graph.name(value)
    axes = list(range(value.rank))
    axes[-2:] = axes[-1], axes[-2]
    return graph.node("Transpose", value, perm=axes)

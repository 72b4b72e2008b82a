"""Order."""

from __future__ import annotations

from collections.abc import Sequence

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates


@translates("topk", moves=True)
def topk(op: Operation, graph: Graph) -> Sequence[Operand]:
    """The ``k`` greatest or least along ``axis``, in order, and where they were."""
    values, places = _sorted(op, op.one("k", 1), graph)
    return [values] if len(op.outputs) == 1 else [values, places]


@translates("argsort")
def argsort(op: Operation, graph: Graph) -> Operand:
    """Where the elements were, in order along ``axis``."""
    return _sorted(op, -1, graph)[1]


def _sorted(op: Operation, count: int, graph: Graph) -> tuple[str, str]:
    axis = op.axis("axis", op["x"].rank, -1)
    number = graph.ints([count])
    if count == -1:
        number = graph.node("Slice", graph.shape(op["x"]), graph.ints([axis]), graph.ints([axis + 1]))
    largest = int(not op.one("ascending", False))
    values, places = graph.node_of("TopK", 2, op["x"], number, axis=axis, largest=largest)
    return values, graph.to(places, "INT32")


@translates("cumsum")
def cumsum(op: Operation, graph: Graph) -> Operand:
    """Running sums along ``axis``."""
    axis = graph.ints(op.axis("axis", op["x"].rank, 0))
    ways = {"exclusive": int(op.one("exclusive", False)), "reverse": int(op.one("reverse", False))}
    return graph.node("CumSum", op["x"], axis, **ways)

"""Normalizations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@translates("batch_norm")
def batch_norm(op: Operation, graph: Graph) -> Operand:
    """With the statistics given, over the second axis."""
    channels = op.sizes("mean")[0]
    gamma, beta = _scale(op, channels, graph)
    return graph.node(
        "BatchNormalization", op["x"], gamma, beta, op["mean"], op["variance"], epsilon=op.one("epsilon", 1e-5)
    )


@translates("instance_norm")
def instance_norm(op: Operation, graph: Graph) -> Operand:
    """Each channel of each item by its own mean and variance."""
    channels = op["x"].type.shape[1]
    if channels is None:
        raise op.fail("the number of channels is known only when it runs", "convert the model with fixed shapes")
    gamma, beta = _scale(op, channels, graph)
    return graph.node("InstanceNormalization", op["x"], gamma, beta, epsilon=op.one("epsilon", 1e-5))


@translates("layer_norm")
def layer_norm(op: Operation, graph: Graph) -> Operand:
    """Over any axes; ``gamma`` and ``beta`` have the sizes of these axes, in the order of the axes of ``x``."""
    rank = op["x"].rank
    axes = sorted(axis % rank for axis in op.ints("axes", range(rank)))
    over = graph.ints(axes)
    centred = graph.node("Sub", op["x"], graph.node("ReduceMean", op["x"], over))
    variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), over)
    deviation = graph.node("Sqrt", graph.node("Add", variance, _epsilon(op, graph, 1e-5)))
    found = graph.node("Div", centred, deviation)
    others = [axis for axis in range(rank) if axis not in axes and axis > axes[0]]
    for parameter, arithmetic in (("gamma", "Mul"), ("beta", "Add")):
        if (value := op.get(parameter)) is not None:
            shaped = (
                graph.node("Unsqueeze", value, graph.ints([each - axes[0] for each in others])) if others else value
            )
            found = graph.node(arithmetic, found, shaped)
    return found


@translates("l2_norm")
def l2_norm(op: Operation, graph: Graph) -> Operand:
    """``x / sqrt(sum(x²) + epsilon)`` over the last three axes."""
    total = graph.node("ReduceSumSquare", op["x"], graph.ints([-3, -2, -1]))
    return graph.node("Div", op["x"], graph.node("Sqrt", graph.node("Add", total, _epsilon(op, graph, 1e-6))))


@translates("local_response_norm")
def local_response_norm(op: Operation, graph: Graph) -> Operand:
    """Over neighbouring channels."""
    given = {"alpha": op.one("alpha", 1e-4), "beta": op.one("beta", 0.75), "bias": op.one("k", 1.0)}
    return graph.node("LRN", op["x"], size=op.one("size", 1), **given)


def _epsilon(op: Operation, graph: Graph, default: float) -> str:
    return graph.floats(op.one("epsilon", default))


def _scale(op: Operation, channels: int, graph: Graph) -> tuple[Operand, Operand]:
    """``gamma`` and ``beta``, ones and zeros where they are left out."""
    return op.get("gamma") or graph.constant(_full(channels, 1)), op.get("beta") or graph.constant(_full(channels, 0))


def _full(count: int, number: float) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.full(count, number, np.float32)

"""Pools over one to three axes."""

from __future__ import annotations

from typing import Any

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates
from hubpub.coremlfile.mil.ops._windows import padding


@translates("max_pool", moves=True)
def max_pool(op: Operation, graph: Graph) -> Operand:
    """The greatest of each window; what is padded does not count."""
    return graph.node("MaxPool", op["x"], **_windows(op))


@translates("avg_pool")
def avg_pool(op: Operation, graph: Graph) -> Operand:
    """The mean of each window; zeros that are padded count unless ``exclude_padding_from_average``."""
    counts = not op.one("exclude_padding_from_average", False)
    return graph.node("AveragePool", op["x"], count_include_pad=int(counts), **_windows(op))


@translates("l2_pool")
def l2_pool(op: Operation, graph: Graph) -> Operand:
    """The root of the sum of squares of each window."""
    return graph.node("LpPool", op["x"], p=2, **_windows(op))


def _windows(op: Operation) -> dict[str, Any]:
    kernel = op.ints("kernel_sizes")
    strides = op.ints("strides", [1] * len(kernel))
    ceil = int(op.one("ceil_mode", False))
    return {"kernel_shape": kernel, "strides": strides, "ceil_mode": ceil, **padding(op, kernel, strides)}

"""Reductions over axes."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates

REDUCE = {
    "reduce_l1_norm": "ReduceL1",
    "reduce_l2_norm": "ReduceL2",
    "reduce_log_sum": "ReduceLogSum",
    "reduce_log_sum_exp": "ReduceLogSumExp",
    "reduce_max": "ReduceMax",
    "reduce_mean": "ReduceMean",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_sum": "ReduceSum",
    "reduce_sum_square": "ReduceSumSquare",
}


@translates(*REDUCE)
def reduce(op: Operation, graph: Graph) -> Operand:
    """Over ``axes``, or over all."""
    axes = op.array("axes")
    over = "" if axes is None else graph.ints(op.ints("axes"))
    return graph.node(REDUCE[op.type], op["x"], over, keepdims=int(op.one("keep_dims", False)))


@translates("reduce_argmax", "reduce_argmin")
def reduce_arg(op: Operation, graph: Graph) -> Operand:
    """The first place of the greatest or least along ``axis``."""
    name = "ArgMax" if op.type == "reduce_argmax" else "ArgMin"
    axis, keep = op.axis("axis", op["x"].rank, -1), int(op.one("keep_dims", False))
    return graph.to(graph.node(name, op["x"], axis=axis, keepdims=keep), "INT32")

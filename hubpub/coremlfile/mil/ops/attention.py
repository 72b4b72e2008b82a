"""Attention as one operation."""

from __future__ import annotations

import math

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates
from hubpub.coremlfile.mil.ops.linear import transposed


@translates("scaled_dot_product_attention")
def scaled_dot_product_attention(op: Operation, graph: Graph) -> Operand:
    """``softmax(q kᵀ / sqrt(d) + mask) v``; a mask of booleans says where to look."""
    width = op["query"].type.shape[-1]
    if width is None:
        raise op.fail("the width of its heads is known only when it runs", "convert the model with fixed shapes")
    scores = graph.node("MatMul", op["query"], transposed(op["key"], graph))
    scores = graph.node("Div", scores, graph.floats(math.sqrt(width)))
    mask = op.get("attn_mask")
    if mask is not None and mask.type.dtype == "bool":
        scores = graph.node("Where", mask, scores, graph.floats(-math.inf))
    elif mask is not None:
        scores = graph.node("Add", scores, mask)
    return graph.node("MatMul", graph.node("Softmax", scores, axis=-1), op["value"])

"""Branches and loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hubpub.coremlfile.mil.block import run_block
from hubpub.coremlfile.mil.graph import Graph, Operand, Value, compute_type
from hubpub.coremlfile.mil.operation import Operation, translates
from hubpub.coremlfile.mil.types import TensorType

if TYPE_CHECKING:
    import onnx


@translates("cond", moves=True)
def cond(op: Operation, graph: Graph) -> Sequence[Operand]:
    """The outputs of the first block where ``pred`` is true, else those of the second."""
    import onnx

    bodies = []
    for block in op.blocks:
        body = graph.nested()
        found = run_block(block, (), body)
        outputs = [
            _declared(body.node("Identity", value), kind) for value, (_, kind) in zip(found, op.outputs, strict=True)
        ]
        bodies.append(onnx.helper.make_graph(body.nodes, body.fresh(), [], outputs))
    pred = graph.node("Reshape", op["pred"], graph.ints([]))
    return graph.node_of("If", len(op.outputs), pred, then_branch=bodies[0], else_branch=bodies[1])


@translates("while_loop", moves=True)
def while_loop(op: Operation, graph: Graph) -> Sequence[Operand]:
    """``loop_vars`` through the second block as long as the first says so."""
    import onnx

    condition, step = op.blocks
    start = [graph.name(each) for each in op.many("loop_vars")]
    kinds = [kind for _, kind in op.outputs]
    (first,) = run_block(condition, [Value(k, name=n) for k, n in zip(kinds, start, strict=True)], graph)
    body = graph.nested()
    names = [body.fresh() for _ in start]
    found = run_block(step, [Value(k, name=n) for k, n in zip(kinds, names, strict=True)], body)
    after = [body.node("Identity", each) for each in found]
    (again,) = run_block(condition, [Value(k, name=n) for k, n in zip(kinds, after, strict=True)], body)
    going = body.node("Reshape", again, body.ints([]))
    taken = [
        onnx.helper.make_tensor_value_info(body.fresh(), onnx.TensorProto.INT64, []),
        onnx.helper.make_tensor_value_info(body.fresh(), onnx.TensorProto.BOOL, []),
        *(_declared(name, kind) for name, kind in zip(names, kinds, strict=True)),
    ]
    made = [
        onnx.helper.make_tensor_value_info(going, onnx.TensorProto.BOOL, []),
        *(_declared(name, kind) for name, kind in zip(after, kinds, strict=True)),
    ]
    looped = onnx.helper.make_graph(body.nodes, body.fresh(), taken, made)
    start_condition = graph.node("Reshape", first, graph.ints([]))
    return graph.node_of("Loop", len(start), "", start_condition, *start, body=looped)


def _declared(name: str, kind: TensorType) -> onnx.ValueInfoProto:
    """With the axes left open: a loop may change them, and so may a branch."""
    import onnx

    number = getattr(onnx.TensorProto, compute_type(kind))
    return onnx.helper.make_tensor_value_info(name, number, [None] * len(kind.shape))

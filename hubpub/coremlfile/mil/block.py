"""A block of an ML program, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hubpub.coremlfile.mil.decompress import DECOMPRESS
from hubpub.coremlfile.mil.graph import Graph, Value
from hubpub.coremlfile.mil.operation import MOVES, TRANSLATIONS, Operation, describe
from hubpub.coremlfile.mil.types import tensor_type
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a program that contradicts itself makes of code that believes it."""


def run_block(
    block: Any,
    arguments: Sequence[Value],
    graph: Graph,
    made: Callable[[str, Graph], None] = lambda name, graph: None,
) -> list[Value]:
    """Translate a protobuf ``Block`` into ``graph``.

    Args:
        block: the message.
        arguments: what its inputs stand for.
        graph: where the nodes go; names of the block do not show outside it.
        made: told the name of each value of this block that an operation has made, and the graph that holds it.

    Returns:
        What the block gives out.

    Raises:
        CoremlFileError: it is not a valid program, or does what cannot be translated.
    """
    inner = graph.scope()
    for declared, value in zip(block.inputs, arguments, strict=True):
        inner.values[declared.name] = value
    for operation in block.operations:
        _run(operation, inner)
        for output in operation.outputs:
            made(output.name, inner)
    return [_known(name, inner, "the end of a block") for name in block.outputs]


def untranslated(block: Any) -> Iterator[str]:
    """The operations of a block, and of those in it, that have no translation, as errors name them."""
    for operation in block.operations:
        if operation.type != "const" and operation.type not in DECOMPRESS and operation.type not in TRANSLATIONS:
            yield describe(operation.type, [output.name for output in operation.outputs])
        for inner in operation.blocks:
            yield from untranslated(inner)


def _run(operation: Any, graph: Graph) -> None:
    where = describe(operation.type, [output.name for output in operation.outputs])
    if operation.type == "const":
        _constant(operation, where, graph)
        return
    outputs = [(output.name, tensor_type(output.type, where)) for output in operation.outputs]
    inputs = {name: _inputs(given, where, graph) for name, given in operation.inputs.items()}
    for name, given in operation.attributes.items():
        if name != "name" and name not in inputs and given.WhichOneof("value"):
            inputs[name] = [_literal(given, where, graph)]
    op = Operation(operation.type, inputs, outputs, operation.blocks)
    if operation.type in DECOMPRESS:
        _decompressed(op, graph)
        return
    try:
        found = TRANSLATIONS[op.type](op, graph)
    except _MALFORMED as error:
        raise op.fail(f"it does not fit together ({error})", "the model is damaged") from error
    made = [found] if isinstance(found, (str, Value)) else list(found)
    if len(made) != len(outputs):
        raise op.fail(f"it declares {len(outputs)} outputs and has {len(made)}", "the model is damaged")
    for (name, kind), operand in zip(outputs, made, strict=True):
        result = graph.name(operand)
        graph.values[name] = Value(kind, name=result if op.type in MOVES else graph.rounded(result, kind))


def _constant(operation: Any, where: str, graph: Graph) -> None:
    value = operation.attributes["val"]
    if value.type.WhichOneof("type") == "tensorType":  # a list of class labels, say, is nothing to compute with
        graph.values[operation.outputs[0].name] = _literal(value, where, graph)


def _literal(value: Any, where: str, graph: Graph) -> Value:
    def load() -> Array:
        return graph.read(value, where)

    return Value(tensor_type(value.type, where), load=load)


def _decompressed(op: Operation, graph: Graph) -> None:
    names = [name for name, values in op.inputs.items() if values]

    def load(place: int) -> Array:
        try:
            found = DECOMPRESS[op.type]({name: op[name].array() for name in names})[place]
        except _MALFORMED as error:
            raise op.fail(f"its parts do not fit together ({error})", "the model is damaged") from error
        if found.shape != op.outputs[place][1].shape:
            what = f"it declares {op.outputs[place][1]} and makes {list(found.shape)}"
            raise op.fail(what, "the model is damaged")
        return found

    for name in names:
        if not op[name].constant:
            raise op.fail(f"its `{name}` is computed, and must be constant", "the model is damaged")
    for place, (name, kind) in enumerate(op.outputs):
        graph.values[name] = Value(kind, load=partial(load, place))


def _inputs(given: Any, where: str, graph: Graph) -> list[Value]:
    return [
        _known(each.name, graph, where) if each.WhichOneof("binding") == "name" else _literal(each.value, where, graph)
        for each in given.arguments
    ]


def _known(name: str, graph: Graph, where: str) -> Value:
    if name not in graph.values:
        raise CoremlFileError(f"{name} is not made before it is used", where=where, fix="the model is damaged")
    return graph.values[name]

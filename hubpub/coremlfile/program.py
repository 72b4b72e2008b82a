"""Walking through an ML program, and whether it holds together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hubpub.coremlfile.ops import OPERATIONS
from hubpub.coremlfile.package import Package, Part
from hubpub.coremlfile.values import shape_of, tensor_type
from hubpub.errors import CoremlFileError, nearest

_MAX_DEPTH = 64
_AGAIN = "fetch or convert the package again"


def main_blocks(program: Any) -> Iterator[tuple[str, Any, Any]]:
    """The block that runs of each function: name, `Function`, `Block`; functions in the order of their names."""
    for name in sorted(program.functions):
        function = program.functions[name]
        if function.opset in function.block_specializations:
            yield name, function, function.block_specializations[function.opset]


def operations(block: Any) -> Iterator[Any]:
    """Every operation of a block, those of nested blocks right after the one that holds them."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from operations(inner)


def operation_values(operation: Any) -> Iterator[tuple[str, Any]]:
    """The `Value`s that an operation holds itself, attributes and inputs: the parameter's name and the message."""
    for name in sorted(operation.attributes):
        yield name, operation.attributes[name]
    for name in sorted(operation.inputs):
        for binding in operation.inputs[name].arguments:
            if binding.WhichOneof("binding") == "value":
                yield name, binding.value


def values(program: Any) -> Iterator[tuple[str, Any]]:
    """Every `Value` of every function's blocks, in order: a description (``weight_0.val``) and the message.

    Where there are several functions, the description begins with the function's name.
    """
    for name in sorted(program.functions):
        function = program.functions[name]
        for opset in sorted(function.block_specializations):
            for operation in operations(function.block_specializations[opset]):
                for parameter, value in operation_values(operation):
                    yield f"{prefix(program, name)}{label(operation)}.{parameter}", value


def prefix(program: Any, function: str) -> str:
    """What names of a function begin with so that they are unique in the program: nothing, if it is the only one."""
    return f"{function}/" if len(program.functions) > 1 else ""


def label(operation: Any) -> str:
    """What errors call an operation: the name of its first output."""
    return operation.outputs[0].name if operation.outputs else f"{operation.type} without outputs"


def check_program(package: Package, part: Part) -> None:
    """Check that a program can be carried: functions, operations, names and weights, each where it must be.

    Raises:
        CoremlFileError: the first thing that is wrong.
    """
    where = f"{package.path.name}: {part.label}"
    program = part.program
    if not program.functions:
        raise CoremlFileError("the program has no function", where=where, fix=_AGAIN)
    for name in sorted(program.functions):
        function = program.functions[name]
        if function.opset not in function.block_specializations:
            raise CoremlFileError(
                f"function {name!r} has no block for its own opset {function.opset!r}", where=where, fix=_AGAIN
            )
        for opset in sorted(function.block_specializations):
            known = {each.name for each in function.inputs}
            _check_block(function.block_specializations[opset], known, where, 0)
    for what, value in values(program):
        kind = value.WhichOneof("value")
        if kind == "blobFileValue":
            package.blob(value, what)
        elif kind is None:
            raise CoremlFileError(f"{what} has no value", where=where, fix=_AGAIN)
    if not part.spec.isUpdatable:
        _check_interface(part, where)
    if package.is_pipeline:
        _check_fed(package, part, where)


def _check_block(block: Any, outer: set[str], where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise CoremlFileError(f"blocks are nested deeper than {_MAX_DEPTH}", where=where)
    known = outer | {each.name for each in block.inputs}
    for operation in block.operations:
        at = f"{where}: {label(operation)}"
        if operation.type not in OPERATIONS:
            raise CoremlFileError(
                f"unknown operation {operation.type!r}{nearest(operation.type, OPERATIONS)}", where=at, fix=_AGAIN
            )
        for parameter in sorted(operation.inputs):
            for binding in operation.inputs[parameter].arguments:
                if binding.WhichOneof("binding") == "name" and binding.name not in known:
                    raise CoremlFileError(f"{parameter} is {binding.name!r}, which nothing gives", where=at, fix=_AGAIN)
        for inner in operation.blocks:
            _check_block(inner, known, where, depth + 1)
        for output in operation.outputs:
            if output.name in known and output.name not in outer:
                raise CoremlFileError(f"two operations give {output.name!r}", where=where, fix=_AGAIN)
            known.add(output.name)
        if operation.type == "const":
            if "val" not in operation.attributes or len(operation.outputs) != 1:
                raise CoremlFileError("is a const without a value", where=at, fix=_AGAIN)
            _check_const(operation, at)
    for name in block.outputs:
        if name not in known:
            raise CoremlFileError(f"the output {name!r} is given by nothing", where=where, fix=_AGAIN)


def _check_const(operation: Any, at: str) -> None:
    """Whether the value of a const is of the type that its output says."""
    value, output = operation.attributes["val"], operation.outputs[0]
    if output.type.WhichOneof("type") != "tensorType" or value.type.WhichOneof("type") != "tensorType":
        return
    said = tensor_type(output, "it", at), shape_of(output, "it", at)
    if (tensor_type(value, "its value", at), shape_of(value, "its value", at)) != said:
        raise CoremlFileError("its value has another type or shape than its output", where=at, fix=_AGAIN)


def _check_interface(part: Part, where: str) -> None:
    """Whether what the model describes is what its function takes and gives."""
    description = part.spec.description
    functions = {function.name for function in description.functions} or {"main"}
    if len(functions) > 1 or not functions <= set(part.program.functions) or description.functions:
        return  # of a package of several functions each has a description of its own
    for name, function, block in main_blocks(part.program):
        if name not in functions:
            continue
        takes, gives = {each.name for each in function.inputs}, set(block.outputs)
        states = {each.name for each in description.state}
        if not {each.name for each in description.input} <= takes or not takes <= states | {
            each.name for each in description.input
        }:
            raise CoremlFileError("its inputs are not those that it describes", where=where, fix=_AGAIN)
        if not {each.name for each in description.output} <= gives:
            raise CoremlFileError("its outputs are not those that it describes", where=where, fix=_AGAIN)


def _check_fed(package: Package, part: Part, where: str) -> None:
    """Whether a model of a pipeline gets all that it needs, from outside or from a model before it."""
    before = [package.spec.description.input, *(each.spec.description.output for each in package.parts[: part.index])]
    known = {feature.name for features in before for feature in features}
    for feature in part.spec.description.input:
        if feature.name not in known and not feature.type.isOptional:
            raise CoremlFileError(
                f"its input {feature.name!r} comes neither from outside nor from a model before it",
                where=where,
                fix=_AGAIN,
            )

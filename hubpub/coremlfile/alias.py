"""Tensors that are input and output of one model at once, which newer Core ML runtimes refuse, and a way out.

In a pipeline a model may hand on what it was given, so that the pipeline gives it too. The way out keeps the names of
the pipeline: the tensor goes from the earlier model to this one under a new name, and an identity gives the old one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hubpub.coremlfile.package import Package, Part
from hubpub.coremlfile.program import main_blocks, operations
from hubpub.errors import CoremlFileError


@dataclass(frozen=True)
class Alias:
    """The tensor ``name`` is input and output of ``part``."""

    part: Part
    name: str


def find_aliases(package: Package) -> list[Alias]:
    """All of them, by what the models describe and by what their functions give."""
    found: dict[tuple[int, str], Alias] = {}
    for part in package.programs:
        names = {each.name for each in part.spec.description.input} & {
            each.name for each in part.spec.description.output
        }
        for _, function, block in main_blocks(part.program):
            names |= {each.name for each in function.inputs} & set(block.outputs)
        for name in sorted(names):
            found[part.index, name] = Alias(part, name)
    return list(found.values())


def split_alias(package: Package, alias: Alias) -> None:
    """Edit ``package.spec`` so that the model's output is an identity of its input, which gets a name of its own.

    Raises:
        CoremlFileError: the tensor comes from outside, so its name cannot change, or the model has several functions.
    """
    name, part = alias.name, alias.part
    where = f"{package.path.name}: {part.label}"
    givers = [
        each
        for each in package.programs
        if each.index < part.index and name in {output.name for output in each.spec.description.output}
    ]
    if not givers:
        raise CoremlFileError(
            f"{name!r} is input and output at once and comes from outside, so no identity can part them",
            where=where,
            fix="convert it again with two names",
        )
    blocks = list(main_blocks(part.program))
    if len(blocks) != 1:
        raise CoremlFileError(f"{name!r} is input and output of a model of several functions", where=where)
    _, function, block = blocks[0]
    if name not in {each.name for each in function.inputs} or name not in block.outputs:
        raise CoremlFileError(f"{name!r} is described as input and output, and its function has it as one", where=where)
    inner = _free_name(f"{name}_in", package)
    for giver in givers:
        _rename(giver.spec.description.output, name, inner)
        for _, _, given in main_blocks(giver.program):
            _rename_in_block(given, name, inner)
    for reader in package.programs:
        if givers[0].index < reader.index <= part.index:  # whoever reads it further on reads what this model gives
            _rename(reader.spec.description.input, name, inner)
            for _, takes, read in main_blocks(reader.program):
                if name in {each.name for each in takes.inputs}:
                    _rename(takes.inputs, name, inner)
                    _rename_in_block(read, name, inner, outputs=False)
    identity = block.operations.add()
    identity.type = "identity"
    identity.inputs["x"].arguments.add().name = inner
    output = identity.outputs.add()
    output.CopyFrom(next(each for each in function.inputs if each.name == inner))
    output.name = name
    title = identity.attributes["name"]
    title.type.tensorType.dataType = 2
    title.immediateValue.tensor.strings.values.append(name)


def _free_name(wanted: str, package: Package) -> str:
    taken = set()
    for part in package.programs:
        description = part.spec.description
        taken |= {each.name for each in (*description.input, *description.output)}
        for _, function, block in main_blocks(part.program):
            taken |= {each.name for each in function.inputs}
            taken |= {output.name for operation in operations(block) for output in operation.outputs}
    while wanted in taken:
        wanted += "_"
    return wanted


def _rename(named: Any, old: str, new: str) -> None:
    for each in named:
        if each.name == old:
            each.name = new


def _rename_in_block(block: Any, old: str, new: str, *, outputs: bool = True) -> None:
    for operation in operations(block):
        _rename(operation.outputs, old, new)
        for parameter in operation.inputs:
            for binding in operation.inputs[parameter].arguments:
                if binding.WhichOneof("binding") == "name" and binding.name == old:
                    binding.name = new
        for inner in operation.blocks:
            inner.outputs[:] = [new if name == old else name for name in inner.outputs]
    if outputs:
        block.outputs[:] = [new if name == old else name for name in block.outputs]

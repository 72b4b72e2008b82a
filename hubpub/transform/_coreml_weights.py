"""The weights of an ML program that can be palettized, and the operations that take their place.

What is written is what coremltools' own palettization writes: up to iOS 17 ``constexpr_lut_to_dense`` of the first
kind, its operands attributes and its indices a flat uint8; from iOS 18 on the second kind, its operands inputs and its
indices of as many bits as they have. A scale per channel multiplies the tables on iOS 18, which does not run the other
order, and what was looked up from iOS 26 on. The last operation gives the name that the constant gave, so nothing else
changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from hubpub.coremlfile import (
    BY_NAME,
    BlobRef,
    Edit,
    ElementType,
    Package,
    Part,
    Payload,
    label,
    main_blocks,
    operations,
    prefix,
)
from hubpub.transform._luts import Form, Luts, indices_of

FIRST_KIND = ("CoreML6", "CoreML7")
"""Opsets of iOS 16 and 17."""
SCALED_TABLES = "CoreML8"
"""Opset of iOS 18."""

_FLOATS = ("fp16", "fp32")
_FIRST_BITS = (1, 2, 4, 6, 8)


@dataclass(frozen=True)
class Weight:
    """One constant of an ML program that lies in a weight file.

    Attributes:
        part: the model that holds it.
        opset: of its function.
        operation: the ``const``.
        name: of what it gives.
        unique: its name in the program, with that of its function where there are several.
        kind: element type.
        shape: its shape.
        file: its weight file, as the program calls it.
        ref: its bytes.
        axis: of the output channels, as its consumers see them; None: they disagree.
    """

    part: Part
    opset: str
    operation: Any
    name: str
    unique: str
    kind: ElementType
    shape: tuple[int, ...]
    file: str
    ref: BlobRef
    axis: int | None

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.ref.nbytes * 8 // self.kind.bits

    def content(self, form: Form) -> tuple[object, ...]:
        """The same for weights that are the same blobs when they are palettized."""
        return (self.ref, self.opset, self.shape if form.axis is not None else None)

    @property
    def where(self) -> str:
        """Model and name, for tables and errors."""
        return f"{self.part.label}: {self.unique}"


def weights_of(package: Package, part: Part) -> Iterator[Weight]:
    """Every floating-point constant of a weight file, in the order of the program; no part of a compressed weight."""
    for function_name, function, block in main_blocks(part.program):
        consumers = _consumers(block)
        scalars = {
            label(each): each.attributes["val"]
            for each in operations(block)
            if each.type == "const" and not each.attributes["val"].type.tensorType.rank
        }
        for operation in operations(block):
            if operation.type != "const" or operation.attributes["val"].WhichOneof("value") != "blobFileValue":
                continue
            name, value = operation.outputs[0].name, operation.attributes["val"]
            if any(each.type.startswith("constexpr_") for each, _ in consumers.get(name, [])):
                continue
            kind, shape, ref = package.blob(value, name)
            if kind.name in _FLOATS:
                axis = _channel_axis(package, consumers.get(name, []), name, len(shape), scalars)
                file = value.blobFileValue.fileName
                unique = prefix(part.program, function_name) + name
                yield Weight(part, function.opset, operation, name, unique, kind, shape, file, ref, axis)


def why_not(
    weight: Weight, min_elements: int, include: tuple[str, ...], exclude: tuple[str, ...], form: Form
) -> str | None:
    """Why a weight stays as it is; None if it is palettized."""
    if include and not any(fnmatchcase(weight.name, pattern) for pattern in include):
        return "not included"
    if any(fnmatchcase(weight.name, pattern) for pattern in exclude):
        return "excluded by name"
    if weight.count < min_elements:
        return f"fewer than {min_elements} elements"
    if len(weight.shape) < 2:
        return "a vector"
    if form.group or form.scaled:
        if weight.axis is None or weight.axis >= len(weight.shape):
            return "its consumers have different channel axes"
        if form.group and weight.shape[weight.axis] % form.group:
            return f"its {weight.shape[weight.axis]} channels are no multiple of {form.group}"
    return None


def problem_of(opset: str, form: Form) -> str | None:
    """Why a program of ``opset`` cannot have lookup tables of ``form``; None if it can."""
    if opset in FIRST_KIND:
        if form.group or form.scaled:
            return "tables per group of channels and scales per channel are there from iOS 18 on"
        if form.bits not in _FIRST_BITS:
            return f"{form.bits} bits are there from iOS 18 on"
    elif opset == "CoreML5":
        return "lookup tables are there from iOS 16 on"
    return None


def palettize_weight(edit: Edit, weight: Weight, form: Form, luts: Luts) -> Any | None:
    """Let ``luts`` take the place of ``weight``.

    Returns:
        An operation that has to come before the one that gives the weight, if there is one.
    """
    source = _Source(weight, form, luts)
    operation, output = weight.operation, weight.operation.outputs[0]
    key = (*weight.content(form), form)
    first = weight.opset in FIRST_KIND
    count = weight.count
    kind = BY_NAME["uint8"] if first or form.bits == 8 else BY_NAME[f"uint{form.bits}"]
    shape = ((count * form.bits + 7) // 8,) if first else weight.shape
    indices = Payload(("indices", *key), kind, shape, source.indices)
    made = type(operation)()
    made.type = "constexpr_lut_to_dense"
    if "name" in operation.attributes:
        made.attributes["name"].CopyFrom(operation.attributes["name"])
    made.outputs.add().CopyFrom(output)
    before = None
    if first:
        tables = Payload(("lut", *key), weight.kind, (1 << form.bits,), source.tables)
        made.attributes["indices"].CopyFrom(edit.value(weight.file, indices))
        made.attributes["lut"].CopyFrom(edit.value(weight.file, tables))
        made.attributes["shape"].CopyFrom(_shape_value(type(made.attributes["lut"]), weight.shape))
    else:
        lut_shape = [1] * len(weight.shape) + [1 << form.bits, 1]
        scaled_tables = form.scaled and weight.opset == SCALED_TABLES
        if form.axis is not None and (form.group or scaled_tables):
            lut_shape[form.axis] = weight.shape[form.axis] if form.scaled else form.groups(weight.shape)
        tables = Payload(("lut", *key), weight.kind, tuple(lut_shape), source.tables)
        if scaled_tables:
            before = _operation(weight, "constexpr_blockwise_shift_scale", tables.shape)
            _give(before, "data", edit.value(weight.file, tables))
            _give(before, "scale", edit.value(weight.file, source.scale((1, 1))))
            made.inputs["lut"].arguments.add().name = before.outputs[0].name
        else:
            _give(made, "lut", edit.value(weight.file, tables))
        _give(made, "indices", edit.value(weight.file, indices))
        if form.scaled and not scaled_tables:
            before = _operation(weight, made.type, weight.shape)
            for parameter in made.inputs:
                before.inputs[parameter].CopyFrom(made.inputs[parameter])
            made.inputs.clear()
            made.type = "constexpr_blockwise_shift_scale"
            made.inputs["data"].arguments.add().name = before.outputs[0].name
            _give(made, "scale", edit.value(weight.file, source.scale(())))
    operation.CopyFrom(made)
    return before


def _operation(weight: Weight, kind: str, shape: tuple[int, ...]) -> Any:
    """An operation without inputs that gives ``shape`` under a name of its own."""
    made = type(weight.operation)()
    made.type = kind
    given = made.outputs.add()
    given.CopyFrom(weight.operation.outputs[0])
    given.name = f"{weight.name}_lut"
    given.type.tensorType.rank = len(shape)
    del given.type.tensorType.dimensions[:]
    for size in shape:
        given.type.tensorType.dimensions.add().constant.size = size
    if "name" in weight.operation.attributes:
        made.attributes["name"].CopyFrom(weight.operation.attributes["name"])
        made.attributes["name"].immediateValue.tensor.strings.values[:] = [given.name]
    return made


def _give(operation: Any, parameter: str, value: Any) -> None:
    operation.inputs[parameter].arguments.add().value.CopyFrom(value)


def sizes_of(weight: Weight, form: Form) -> list[tuple[str, int, int]]:
    """The blobs that take the place of a weight, in their order: what, elements, bytes."""
    item = weight.kind.bits // 8
    channels = weight.shape[weight.axis or 0]
    scaled_tables = form.scaled and weight.opset == SCALED_TABLES
    tables = (1 << form.bits) * (channels if scaled_tables else form.groups(weight.shape))
    packed = (weight.count * form.bits + 7) // 8
    blobs = [
        ("indices", packed if weight.opset in FIRST_KIND else weight.count, packed),
        ("lut", tables, tables * item),
    ]
    scale = ("scale", channels, channels * item)
    if scaled_tables:
        return [blobs[1], scale, blobs[0]]
    return [*blobs, scale] if form.scaled else blobs


@dataclass(frozen=True)
class _Source:
    """Makes the bytes of one palettized weight when they are written."""

    weight: Weight
    form: Form
    luts: Luts

    def tables(self) -> bytes:
        tables, scales = self.luts.tables, self.luts.scales
        each = len(scales) if scales is not None and self.weight.opset == SCALED_TABLES else 1
        return bytes(tables.repeat(each, axis=0).tobytes())

    def scale(self, after: tuple[int, ...]) -> Payload:
        """One for each channel, shaped as the weight and then ``after``."""
        weight, scales = self.weight, self.luts.scales
        shape = (size if axis == self.form.axis else 1 for axis, size in enumerate(weight.shape))
        content = b"" if scales is None else scales.tobytes()
        return Payload(("scale", *weight.content(self.form), self.form), weight.kind, (*shape, *after), lambda: content)

    def indices(self) -> bytes:
        return indices_of(self.weight.ref.read(), self.weight.kind, self.weight.shape, self.form, self.luts)


def _shape_value(message: Any, shape: tuple[int, ...]) -> Any:
    value = message()
    value.type.tensorType.dataType = BY_NAME["uint32"].code
    value.type.tensorType.rank = 1
    value.type.tensorType.dimensions.add().constant.size = len(shape)
    value.immediateValue.tensor.bytes.values = struct.pack(f"<{len(shape)}I", *shape)
    return value


def _consumers(block: Any) -> dict[str, list[tuple[Any, str]]]:
    """By name, the operations that read it and the parameter as which they do."""
    found: dict[str, list[tuple[Any, str]]] = {}
    for operation in operations(block):
        for parameter in operation.inputs:
            for binding in operation.inputs[parameter].arguments:
                if binding.WhichOneof("binding") == "name":
                    found.setdefault(binding.name, []).append((operation, parameter))
    return found


def _channel_axis(
    package: Package, consumers: list[tuple[Any, str]], name: str, rank: int, scalars: dict[str, Any]
) -> int | None:
    """Axis of the output channels of a weight; None where its consumers disagree."""
    axes = set()
    for operation, parameter in consumers:
        axis = 0
        if operation.type == "conv_transpose":
            axis = 1
        elif operation.type == "matmul":
            flag = _flag(package, operation, "transpose_y" if parameter == "y" else "transpose_x", scalars)
            axis = rank - 2 if flag == (parameter == "y") else rank - 1
        axes.add(axis)
    return axes.pop() if len(axes) == 1 else None


def _flag(package: Package, operation: Any, parameter: str, scalars: dict[str, Any]) -> bool:
    """A boolean parameter of an operation; False where it is left out."""
    for binding in operation.inputs[parameter].arguments if parameter in operation.inputs else ():
        value = binding.value if binding.WhichOneof("binding") == "value" else scalars.get(binding.name)
        if value is not None:
            return bool(package.array(value, f"{label(operation)}.{parameter}"))
    return False

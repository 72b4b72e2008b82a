"""Graphs inside one another, their constants and who uses these, and helpers for nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from hubpub.errors import StepError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from hubpub.onnxfile import OnnxFile

    Array = np.ndarray[Any, np.dtype[Any]]

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
"""Numbers of TensorProto.DataType."""

MICROSOFT = "com.microsoft"
STANDARD = ("", "ai.onnx")
RECURRENT = ("LSTM", "GRU", "RNN")
MOVES = ("Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Identity", "Split", "Constant")
"""Operations that move elements and change none."""

_MIN_OPSET = 11


@dataclass(eq=False)
class Scope:
    """A graph, the model's or one inside a node; ``nodes`` as they were when it was read."""

    proto: onnx.GraphProto
    parent: Scope | None
    nodes: list[onnx.NodeProto]
    constants: dict[str, Constant] = field(default_factory=dict)
    makers: dict[str, int] = field(default_factory=dict)
    """Index of the node that makes a value."""
    inputs: set[str] = field(default_factory=set)
    head: list[onnx.NodeProto] = field(default_factory=list)
    before: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    instead: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)

    def owner(self, name: str) -> Scope | None:
        """The graph whose value a node of this one means by a name."""
        scope: Scope | None = self
        while scope and name not in scope.inputs and name not in scope.makers and name not in scope.constants:
            scope = scope.parent
        return scope


@dataclass(eq=False)
class Constant:
    """An initializer, or the tensor of a Constant node."""

    name: str
    tensor: onnx.TensorProto
    scope: Scope
    maker: int | None
    """Index of the Constant node; None for an initializer."""
    overridable: bool = False
    """It is an input of the model too, so a caller may give another."""
    replaced: bool = False
    """Somebody has stored it in another form; it goes when nobody uses it any more."""
    gone: bool = False
    """It went."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.dims)

    @property
    def size(self) -> int:
        """Elements."""
        size = 1
        for dim in self.tensor.dims:
            size *= dim
        return size


@dataclass(frozen=True)
class Use:
    """An input of a node that is a constant, by way of nodes that only turn or pass it on."""

    scope: Scope
    index: int
    position: int
    constant: Constant
    transposed: bool
    """Between the two the axes of a matrix are exchanged."""

    @property
    def node(self) -> onnx.NodeProto:
        """The node."""
        return self.scope.nodes[self.index]


Reference = tuple[Scope, int, int]
"""A graph, a node of it and which input of it; -1 and which, for an output of the graph."""


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """A node's attribute, or ``default``."""
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def has_input(node: onnx.NodeProto, position: int) -> bool:
    """Whether an optional input is there."""
    return bool(input_name(node, position))


def needs_domain(model: onnx.ModelProto, domain: str, version: int) -> None:
    """Let a model say that it uses operations of ``domain``."""
    if all(entry.domain != domain for entry in model.opset_import):
        model.opset_import.add(domain=domain, version=version)


def excluded(names: Iterable[str], globs: Iterable[str]) -> str:
    """The first glob that one of the names matches, or nothing."""
    names = list(names)
    return next((glob for glob in globs for name in names if name and fnmatchcase(name, glob)), "")


def input_name(node: onnx.NodeProto, position: int) -> str:
    return node.input[position] if position < len(node.input) else ""


def opset_of(model: onnx.ModelProto, where: str) -> int:
    import onnx

    opset = next((o.version for o in model.opset_import if o.domain in STANDARD), 0)
    newest = onnx.defs.onnx_opset_version()
    if not _MIN_OPSET <= opset <= newest:
        raise StepError(
            f"has opset {opset}, {_MIN_OPSET} to {newest} can be quantized",
            where=where,
            fix="export it with opset 17, or upgrade onnx",
        )
    return opset


def inner_graphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute_ in node.attribute:
            if attribute_.HasField("g"):
                yield attribute_.g
            yield from attribute_.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for inner in inner_graphs(graph.node):
        yield from all_graphs(inner)


def names_used(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
    for value in graph.output:
        yield value.name


def rewrite(scope: Scope) -> None:
    import onnx

    if not (scope.head or scope.before or scope.instead):
        return
    nodes = list(scope.head)
    for index, node in enumerate(scope.nodes):
        nodes += scope.before.get(index, [])
        if index in scope.instead:
            nodes += scope.instead[index]
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
    del scope.proto.node[:]
    scope.proto.node.extend(nodes)


def moved_constants(file: OnnxFile, opset: int, scope: Scope, name: str) -> tuple[Array, list[Constant]] | None:
    """What a value is if it comes of constants by operations that only move their elements; and these constants."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    nodes: list[onnx.NodeProto] = []
    sources: dict[str, Constant] = {}
    seen: set[str] = set()

    def visit(at: Scope, value: str) -> bool:
        owner = at.owner(value)
        if not value or value in seen:
            return True
        if owner is None or value in owner.inputs:
            return False
        seen.add(value)
        if constant := owner.constants.get(value):
            sources[value] = constant
            return True
        node = owner.nodes[owner.makers[value]]
        if node.domain not in STANDARD or node.op_type not in MOVES or not all(visit(owner, i) for i in node.input):
            return False
        nodes.append(node)
        return True

    if not visit(scope, name) or not nodes:
        return None
    tensors = [numpy_helper.from_array(file.array(c.tensor), value) for value, c in sources.items()]
    graph = helper.make_graph(nodes, "moved", [], [helper.make_empty_tensor_value_info(name)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    values: Any = ReferenceEvaluator(model).run(None, {})
    return values[0], list(sources.values())

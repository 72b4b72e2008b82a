"""A model's graph as values and operations, across its subgraphs, with the element type of every value known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from hubpub.errors import StepError

if TYPE_CHECKING:
    import onnx

    from hubpub.onnxfile import OnnxFile

FLOAT, STRING, BOOL, FLOAT16, DOUBLE, BFLOAT16 = 1, 8, 9, 10, 11, 16
"""Numbers of TensorProto.DataType."""

INTEGERS = {2, 3, 4, 5, 6, 7, 12, 13, 21, 22}
_STANDARD = ("", "ai.onnx")
_MIN_OPSET = 11


class Kind(IntEnum):
    """What a value is computed from; an operation's output has the highest kind of its inputs."""

    CONST = 0
    MASK = 1  # of truth values, or bounded
    COUNT = 2  # of integers and constants
    DATA = 3


@dataclass(eq=False)
class Value:
    """What a graph calls by a name; ``type`` is an element type, 0 when unknown or not a tensor."""

    name: str
    scope: Scope
    type: int
    producer: Op | None = None
    constant: onnx.TensorProto | None = None
    """An initializer that nobody can override, or the tensor of a Constant node; of a sparse one its values."""
    sparse: bool = False
    users: list[tuple[Op, int]] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    """Outputs of the If or loop whose subgraph this value is an output of."""
    is_output: bool = False
    """Of the model."""

    kind: Kind = Kind.DATA
    tainted: int = 0
    """What has gone into it by plain arithmetic: 2 = a count, 1 = an input of the model."""
    decides: int = 0
    """What comes of it by plain arithmetic: 2 = an integer or a Range, 1 = a truth value."""
    large: str = ""
    """A constant beyond float16 that went into it."""
    extreme: bool = False
    """The largest float32 went into it, by which masks mean infinity."""
    half: bool = False
    """It is float16 where it is produced."""
    emitted: str = ""
    """Its name in the new model."""

    @property
    def floaty(self) -> bool:
        """Whether it has fractions."""
        return self.type in (FLOAT, DOUBLE, BFLOAT16)


@dataclass(eq=False)
class Op:
    """A node. A missing optional input or output is None."""

    node: onnx.NodeProto
    scope: Scope
    inputs: list[Value | None]
    outputs: list[Value | None] = field(default_factory=list)
    subgraphs: list[Scope] = field(default_factory=list)
    half_inputs: frozenset[int] = frozenset()
    """Positions that may be float16; all the outputs of ``half_outputs`` then are."""
    half_outputs: frozenset[int] = frozenset()
    known: bool = True
    """It is a standard operation, and all its types are known."""
    reason: str = ""
    """Why it stays float32."""
    half: bool = False

    @property
    def type(self) -> str:
        """The operation, with its domain unless it is a standard one."""
        domain = self.node.domain
        return self.node.op_type if domain in _STANDARD else f"{domain}.{self.node.op_type}"

    @property
    def floats(self) -> list[Value]:
        """The inputs that have fractions."""
        return [value for value in self.inputs if value and value.floaty]

    def attribute(self, name: str) -> Any:
        """An attribute's value, or None."""
        from onnx import helper

        return next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), None)


@dataclass(eq=False)
class Scope:
    """A graph: the model's, or one inside a node."""

    graph: onnx.GraphProto
    parent: Scope | None = None
    looped: bool = False
    """It is, or is in, the body of a Loop or Scan."""
    values: dict[str, Value] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def find(self, name: str) -> Value:
        """The value that a node of this graph means by a name."""
        scope: Scope | None = self
        while scope:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        raise StepError(f"value {name!r} is used before it is made", where=f"graph {self.graph.name!r}")


@dataclass
class Program:
    """A whole model."""

    file: OnnxFile
    main: Scope
    opset: int

    def scopes(self, scope: Scope | None = None) -> Iterator[Scope]:
        """All graphs, the outer before the inner."""
        scope = scope or self.main
        yield scope
        for op in scope.ops:
            for inner in op.subgraphs:
                yield from self.scopes(inner)

    def ops(self, scope: Scope | None = None) -> Iterator[Op]:
        """All operations in order of execution: those in subgraphs before the one that they are in."""
        for op in (scope or self.main).ops:
            for inner in op.subgraphs:
                yield from self.ops(inner)
            yield op


def read(file: OnnxFile, where: str) -> Program:
    """Make the program of a model, functions inlined.

    ``file.model`` may be replaced; values and operations refer to its parts.

    Raises:
        StepError: the model is of a kind that cannot be converted.
    """
    import onnx
    from onnx import inliner, shape_inference

    if file.model.training_info:
        raise StepError("holds a training graph", where=where, fix="export the model for inference")
    if file.model.functions:
        file.model = inliner.inline_local_functions(file.model)
    model = file.model
    opset = next((o.version for o in model.opset_import if o.domain in _STANDARD), 0)
    newest = onnx.defs.onnx_opset_version()
    if model.opset_import and not _MIN_OPSET <= opset <= newest:
        raise StepError(
            f"has opset {opset}, {_MIN_OPSET} to {newest} can be converted",
            where=where,
            fix="export it with opset 17, or upgrade onnx",
        )
    if model.ir_version < 4:  # initializers had to be inputs too, and were constants all the same
        names = {tensor.name for tensor in model.graph.initializer}
        kept = [value for value in model.graph.input if value.name not in names]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.ir_version = 4
    try:
        inferred = shape_inference.infer_shapes(model)
    except Exception as error:
        raise StepError(f"its types do not fit together: {error}", where=where) from None
    main = Scope(model.graph)
    _fill(main, inferred.graph, opset)
    for value in main.outputs:
        value.is_output = True
    program = Program(file, main, opset)
    for scope in program.scopes():
        for value in scope.values.values():
            if value.type == FLOAT16:
                raise StepError(
                    f"holds float16 already ({value.name!r})",
                    where=where,
                    fix="start from the float32 model, or leave the step out",
                )
    return program


def _fill(scope: Scope, inferred: onnx.GraphProto, opset: int) -> None:
    graph = scope.graph
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in (*inferred.value_info, *inferred.output, *inferred.input)
        if info.type.HasField("tensor_type")
    }

    def define(name: str, type_: int = 0, **more: Any) -> Value:
        value = Value(name, scope, type_ or types.get(name, 0), emitted=name, **more)
        scope.values[name] = value
        return value

    for info in graph.input:
        scope.inputs.append(define(info.name))
    for tensor in graph.initializer:
        if tensor.name not in scope.values:
            define(tensor.name, tensor.data_type, constant=tensor, kind=Kind.CONST)
    for sparse in graph.sparse_initializer:
        values = sparse.values
        define(values.name, values.data_type, kind=Kind.CONST, constant=values, sparse=True)
    for node, twin in zip(graph.node, inferred.node, strict=True):
        op = Op(node, scope, [scope.find(name) if name else None for name in node.input])
        looped = scope.looped or node.op_type != "If"
        for attribute, twin_attribute in zip(node.attribute, twin.attribute, strict=True):
            inner_graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            twins = [twin_attribute.g] if twin_attribute.HasField("g") else list(twin_attribute.graphs)
            for inner_graph, inner_twin in zip(inner_graphs, twins, strict=True):
                inner = Scope(inner_graph, scope, looped)
                _fill(inner, inner_twin, opset)
                op.subgraphs.append(inner)
        op.outputs = [define(name, producer=op) if name else None for name in node.output]
        for position, value in enumerate(op.inputs):
            if value:
                value.users.append((op, position))
        _settle(op, opset)
        scope.ops.append(op)
    for info in graph.output:
        scope.outputs.append(scope.find(info.name))


def _settle(op: Op, opset: int) -> None:
    """Find out what ONNX says about an operation's types, and by it those that inference left open."""
    node = op.node
    if node.op_type == "Constant" and op.outputs and (value := op.outputs[0]):
        value.kind = Kind.CONST
        value.constant = _constant(node)
        value.type = value.constant.data_type if value.constant else value.type
        value.sparse = any(attribute.name == "sparse_value" for attribute in node.attribute)
    if node.op_type == "If" and node.domain in _STANDARD:
        for index, output in enumerate(op.outputs):
            for branch in op.subgraphs:
                if output and not output.type:
                    output.type = branch.outputs[index].type
    formal = _formal(node.op_type, opset) if node.domain in _STANDARD else None
    if formal is None:
        op.known = False
        return
    inputs, outputs, heterogeneous = formal
    pairs = [*_bound(op.inputs, inputs), *_bound(op.outputs, outputs)]
    found = {rule: value.type for value, rule in pairs if value.type and len(rule[1]) > 1}
    for value, rule in pairs:
        if not value.type and not heterogeneous:
            value.type = found.get(rule, 0)
    op.known = heterogeneous or all(value.type for value, _ in pairs)
    takes = [bool(v and v.type == FLOAT and FLOAT16 in rule[1]) for v, rule in _each(op.inputs, inputs)]
    gives = [bool(v and v.type == FLOAT and FLOAT16 in rule[1]) for v, rule in _each(op.outputs, outputs)]
    fixed = {"Resize": {1, 2}, "Upsample": {1}}.get(node.op_type, set())  # regions and scales set the output's shape
    op.half_inputs = frozenset(i for i, may in enumerate(takes) if may and i not in fixed)
    op.half_outputs = frozenset(i for i, may in enumerate(gives) if may)


Rule = tuple[str, frozenset[int]]
"""Name of a type variable, and the element types that it may stand for."""


def _each(values: Sequence[Value | None], rules: Sequence[Rule]) -> Iterator[tuple[Value | None, Rule]]:
    for index, value in enumerate(values):
        yield value, rules[min(index, len(rules) - 1)] if rules else ("", frozenset())


def _bound(values: Sequence[Value | None], rules: Sequence[Rule]) -> Iterator[tuple[Value, Rule]]:
    return ((value, rule) for value, rule in _each(values, rules) if value)


@cache
def _formal(op_type: str, opset: int) -> tuple[list[Rule], list[Rule], bool] | None:
    """What ONNX says of the inputs and outputs of an operation; whether one variable may stand for several types."""
    import onnx

    try:
        schema = onnx.defs.get_schema(op_type, max_inclusive_version=opset, domain="")
    except onnx.defs.SchemaError:
        return None
    numbers = {f"tensor({name.lower()})": number for name, number in onnx.TensorProto.DataType.items()}
    numbers["tensor(float)"] = FLOAT
    variables = {
        c.type_param_str: frozenset(numbers.get(t, 0) for t in c.allowed_type_strs) for c in schema.type_constraints
    }

    def rules(parameters: Any) -> list[Rule]:
        return [(p.type_str, variables.get(p.type_str, frozenset({numbers.get(p.type_str, 0)}))) for p in parameters]

    heterogeneous = any(not p.is_homogeneous for p in (*schema.inputs, *schema.outputs))
    return rules(schema.inputs), rules(schema.outputs), heterogeneous


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node; one given as a float becomes one. None: strings."""
    from onnx import helper

    tensor: onnx.TensorProto
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = attribute.t
            return tensor
        if attribute.name == "sparse_value":
            tensor = attribute.sparse_tensor.values
            return tensor
        if attribute.name in ("value_float", "value_floats"):
            values = list(attribute.floats) if attribute.name == "value_floats" else [attribute.f]
            dims = [len(values)] if attribute.name == "value_floats" else []
            tensor = helper.make_tensor("", FLOAT, dims, values)
            attribute.CopyFrom(helper.make_attribute("value", tensor))
            tensor = attribute.t
            return tensor
        if attribute.name in ("value_int", "value_ints"):
            values = list(attribute.ints) if attribute.name == "value_ints" else [attribute.i]
            return helper.make_tensor("", 7, [len(values)] if attribute.name == "value_ints" else [], values)
    return None

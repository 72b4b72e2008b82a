"""Write the decisions into the graph: types, converted constants, and Casts where the types meet."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hubpub.errors import StepError
from hubpub.transform._fp16_graph import BFLOAT16, FLOAT, FLOAT16, STRING, Kind, Op, Program, Scope, Value
from hubpub.transform._fp16_rules import Rules
from hubpub.transform._fp16_values import MAX_HALF, Report, convert

if TYPE_CHECKING:
    import onnx

_TWO_COPIES = 64 << 10
"""Bytes of float32 up to which a constant that is needed in both types is stored in both, each exact."""

_SUFFIX = {True: "fp16", False: "fp32"}


class Rewriter:
    """Turns the graph of a program into what `Rules` decided; ``casts`` counts the Casts by direction."""

    def __init__(self, program: Program, rules: Rules, report: Report) -> None:
        self.casts: Counter[str] = Counter()
        self._program = program
        self._file = program.file
        self._rules = rules
        self._report = report
        self._names = {name for scope in program.scopes() for name in scope.values}
        self._nodes: dict[Scope, list[onnx.NodeProto]] = {}
        self._other: dict[tuple[Scope, Value], str] = {}
        """The name, in a graph and those inside it, of a value in the type that it is not produced in."""
        self._bounds: tuple[str, str] | None = None

    def run(self) -> None:
        """Rewrite the model in place."""
        for scope in self._program.scopes():
            for value in list(scope.values.values()):
                self._place(value)
        main = self._program.main
        for value in main.outputs:
            self._name_output(value)
        self._graph(main)
        for info, value in zip(main.graph.output, main.outputs, strict=True):
            if value.type == FLOAT and self._rules.output_half(value):
                info.type.tensor_type.elem_type = FLOAT16

    # -------------------------------------------------------------------------------------------- constants, ends

    def _place(self, value: Value) -> None:
        """Store a constant in the type, or the types, in which it is needed; an input in that of its kind."""
        tensor, scope = value.constant, value.scope
        if value.type != FLOAT:
            return
        if value in scope.inputs:
            if value.half:
                for info in scope.graph.input:
                    if info.name == value.name:
                        info.type.tensor_type.elem_type = FLOAT16
                for default in scope.graph.initializer:
                    if default.name == value.name:
                        convert(self._file, default, value.name, self._report)
            return
        wanted = self._rules.wants(value) if tensor is not None else set()
        if tensor is None or True not in wanted:
            return
        twice = (self._nbytes(tensor) <= _TWO_COPIES and not value.sparse) or value.is_output
        if wanted == {True} or not twice:
            convert(self._file, tensor, value.name, self._report)
            value.half = True
            return
        name = self._other[scope, value] = self._new_name(value.name, half=True)
        if value.producer is None:
            copy = scope.graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = name
            convert(self._file, copy, value.name, self._report)

    @staticmethod
    def _nbytes(tensor: onnx.TensorProto) -> int:
        size = 4
        for dim in tensor.dims:
            size *= dim
        return size

    def _name_output(self, value: Value) -> None:
        """An output keeps its name: where the type changes, what is produced gets another, and a Cast the old one."""
        half = self._rules.output_half(value)
        if value.type == FLOAT and value.half != half and value.emitted == value.name and value.producer:
            self._other[value.scope, value] = value.name
            value.emitted = self._new_name(value.name, half=value.half)

    def _new_name(self, name: str, *, half: bool) -> str:
        name = stem = f"{name}_{_SUFFIX[half]}"
        number = 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    # ------------------------------------------------------------------------------------------------------ nodes

    def _graph(self, scope: Scope) -> None:
        self._nodes[scope] = nodes = []
        for op in scope.ops:
            node = self._node(op)
            nodes.append(node)
            for value in op.outputs:
                if value and self._other.get((scope, value)) == value.name:  # an output of the model
                    self._cast(scope, value.emitted, value.name, half=not value.half)
            constant = op.outputs[0] if op.type == "Constant" and op.outputs else None
            if constant and (scope, constant) in self._other:
                nodes.append(self._second_constant(node, constant, self._other[scope, constant]))
        results = (
            [self._fetch(value, scope, self._result_half(value)) for value in scope.outputs] if scope.parent else []
        )
        for info, name, value in zip(scope.graph.output, results, scope.outputs, strict=False):
            info.name = name
            if value.type == FLOAT and info.type.HasField("tensor_type"):
                info.type.tensor_type.elem_type = FLOAT16 if self._result_half(value) else FLOAT
        del scope.graph.node[:]
        scope.graph.node.extend(nodes)
        for info in scope.graph.value_info:
            if described := scope.values.get(info.name):
                info.name = described.emitted
                if described.half and info.type.HasField("tensor_type"):
                    info.type.tensor_type.elem_type = FLOAT16

    def _node(self, op: Op) -> onnx.NodeProto:
        import onnx
        from onnx import helper

        node = onnx.NodeProto()
        inputs = [
            self._fetch(value, op.scope, self._rules.takes(op, position)) if value else ""
            for position, value in enumerate(op.inputs)
        ]
        for inner in op.subgraphs:
            self._graph(inner)
        node.CopyFrom(op.node)
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(value.emitted if value else "" for value in op.outputs)
        output = op.outputs[0] if op.outputs else None
        if output and output.half and op.type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to":
                    attribute.i = FLOAT16
        elif output and output.half and op.type == "ConstantOfShape":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
            if tensor is None:
                zero = helper.make_attribute("value", helper.make_tensor("", FLOAT, [1], [0.0]))
                node.attribute.append(zero)
                tensor = node.attribute[-1].t
            convert(self._file, tensor, output.name, self._report)
        return node

    def _second_constant(self, node: onnx.NodeProto, value: Value, name: str) -> onnx.NodeProto:
        import onnx

        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[0] = name
        copy.name = f"{node.name}_{_SUFFIX[True]}" if node.name else ""
        tensor = next(attribute.t for attribute in copy.attribute if attribute.name == "value")
        convert(self._file, tensor, value.name, self._report)
        return copy

    # ------------------------------------------------------------------------------------------------------ casts

    @staticmethod
    def _result_half(value: Value) -> bool:
        return any(result.half for result in value.results)

    def _fetch(self, value: Value, scope: Scope, half: bool | None) -> str:
        """The name of a value, in the type that is wanted (None: any), in a graph; a Cast is made if need be."""
        if value.type != FLOAT or half is None or half == value.half:
            return value.emitted
        origin = value.producer.inputs[0] if value.producer and value.producer.type == "Cast" else None
        if origin and origin.type == FLOAT:  # a Cast from float32 to float32
            return self._fetch(origin, scope, half)
        at: Scope | None = scope
        while at:
            if (at, value) in self._other:
                return self._other[at, value]
            at = at.parent
        while scope.looped and scope.parent and scope is not value.scope:  # once, not in every round
            scope = scope.parent
        name = self._other[scope, value] = self._new_name(value.name, half=half)
        self._cast(scope, self._source(value, scope, half), name, half=half)
        return name

    def _source(self, value: Value, scope: Scope, half: bool) -> str:
        """What to cast: the value, what it was itself cast from, or, if it may overflow, the value bounded."""
        producer = value.producer
        origin = producer.inputs[0] if producer and producer.type == "Cast" else None
        if origin and origin.type not in (0, FLOAT, BFLOAT16, STRING):
            return origin.emitted
        if half and value.kind <= Kind.COUNT and (value.large or value.extreme):
            return self._bounded(value, scope)
        return value.emitted

    def _bounded(self, value: Value, scope: Scope) -> str:
        from onnx import helper

        if value.large and self._report.overflow == "refuse":
            raise StepError(
                f"constant {value.large!r} is beyond {MAX_HALF:.0f}, the largest that fp16 holds, and gets into "
                f"{value.name!r}, which meets float16",
                where=self._report.where,
                fix="set overflow: clip or allow",
            )
        if value.large and self._report.overflow == "allow":
            return value.emitted
        if self._bounds is None:
            names = [self._new_name(f"{end}_of", half=True) for end in ("least", "largest")]
            for name, bound in zip(names, (-MAX_HALF, MAX_HALF), strict=True):
                self._program.main.graph.initializer.append(helper.make_tensor(name, FLOAT, [], [bound]))
            self._bounds = names[0], names[1]
        name = self._new_name(f"{value.name}_within", half=True)
        node = helper.make_node("Clip", [value.emitted, *self._bounds], [name], name=name)
        self._nodes[scope].append(node)
        return name

    def _cast(self, scope: Scope, source: str, name: str, *, half: bool) -> None:
        from onnx import helper

        to = FLOAT16 if half else FLOAT
        node = helper.make_node("Cast", [source], [name], name=f"{name}/cast", to=to)
        self._nodes[scope].append(node)
        self.casts[_SUFFIX[half]] += 1

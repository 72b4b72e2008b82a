"""The weights of a model: what is constant, who uses it, and edits that keep every graph of the model in order."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import TYPE_CHECKING, Any

from hubpub.errors import StepError
from hubpub.transform._weight_graph import (
    BFLOAT16,
    FLOAT,
    FLOAT16,
    MICROSOFT,
    MOVES,
    RECURRENT,
    STANDARD,
    Constant,
    Reference,
    Scope,
    Use,
    all_graphs,
    attribute,
    excluded,
    has_input,
    inner_graphs,
    input_name,
    moved_constants,
    names_used,
    needs_domain,
    opset_of,
    rewrite,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from hubpub.onnxfile import OnnxFile
    from hubpub.transform._scratch import Scratch

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "BFLOAT16",
    "FLOAT",
    "FLOAT16",
    "MICROSOFT",
    "RECURRENT",
    "Constant",
    "Reference",
    "Scope",
    "Use",
    "Weights",
    "attribute",
    "excluded",
    "has_input",
    "needs_domain",
]

_QUANTIZED = ("Quantize", "Dequantize", "DynamicQuantize", "QLinear", "QGemm", "QAttention", "QMoE", "QOrdered")
_QUANTIZED_TOO = {
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "ConvInteger",
    "MatMulNBits",
    "GatherBlockQuantized",
    "MatMulBnb4",
}


class Weights:
    """A model to be edited: functions are inlined, constants are known by their users.

    Args:
        file: the model; ``file.model`` may be replaced.
        scratch: where new tensors of some size go until the model is written.
        where: the file, for errors.

    Raises:
        StepError: the model is of a kind that cannot be quantized.
    """

    def __init__(self, file: OnnxFile, scratch: Scratch, where: str) -> None:
        from onnx import inliner

        self.file = file
        self.where = where
        self._scratch = scratch
        if file.model.training_info:
            raise StepError("holds a training graph", where=where, fix="export the model for inference")
        if file.model.functions:
            file.model = inliner.inline_local_functions(file.model)
        self.opset = opset_of(file.model, where)
        if file.model.ir_version < 4:  # initializers had to be inputs too, and were constants all the same
            names = {tensor.name for tensor in file.model.graph.initializer}
            kept = [value for value in file.model.graph.input if value.name not in names]
            del file.model.graph.input[:]
            file.model.graph.input.extend(kept)
            file.model.ir_version = 4
        self.scopes: list[Scope] = []
        self._names: set[str] = set()
        self._added: set[str] = set()
        self._node_names: set[str] = set()
        self._read(file.model.graph, None)
        self._references: dict[tuple[Scope, str], set[Reference]] = {}
        for scope in self.scopes:
            for index, node in enumerate(scope.nodes):
                for position, name in enumerate(node.input):
                    self._refer(scope, name, (scope, index, position))
            for position, value in enumerate(scope.proto.output):
                self._refer(scope, value.name, (scope, -1, position))

    def fold_recurrent(self) -> None:
        """Make constants of the matrices of recurrences that are computed from constants alone.

        PyTorch has the gates in another order than ONNX; unless it folds them, it exports Slice, Concat and Unsqueeze.
        """
        for scope in self.scopes:
            for index, node in enumerate(scope.nodes):
                if node.op_type not in RECURRENT or node.domain not in STANDARD:
                    continue
                for position in (1, 2):
                    name = input_name(node, position)
                    if self.use(scope, index, position) is None and (
                        made := moved_constants(self.file, self.opset, scope, name)
                    ):
                        values, sources = made
                        node.input[position] = self.add(scope, f"{name}_folded", values)
                        folded = Constant(node.input[position], scope.proto.initializer[-1], scope, None)
                        scope.constants[folded.name] = folded
                        self._refer(scope, folded.name, (scope, index, position))
                        for source in sources:
                            source.replaced = True

    def _refer(self, scope: Scope, name: str, reference: Reference) -> None:
        if name and (owner := scope.owner(name)):
            self._references.setdefault((owner, name), set()).add(reference)

    def _read(self, graph: onnx.GraphProto, parent: Scope | None) -> None:
        scope = Scope(graph, parent, list(graph.node))
        self.scopes.append(scope)
        scope.inputs = {value.name for value in graph.input}
        for tensor in graph.initializer:
            scope.constants[tensor.name] = Constant(tensor.name, tensor, scope, None, tensor.name in scope.inputs)
        scope.inputs |= {sparse.values.name for sparse in graph.sparse_initializer}
        for index, node in enumerate(scope.nodes):
            for name in node.output:
                if name:
                    scope.makers[name] = index
            if node.op_type == "Constant" and node.domain in STANDARD and node.output:
                for attribute in node.attribute:
                    if attribute.name == "value":
                        scope.constants[node.output[0]] = Constant(node.output[0], attribute.t, scope, index)
            self._node_names.add(node.name)
        self._names |= {*scope.inputs, *scope.makers, *scope.constants}
        for inner in inner_graphs(scope.nodes):
            self._read(inner, scope)

    # -------------------------------------------------------------------------------------------------- looking

    def uses(self) -> Iterator[Use]:
        """Every input of a node of ONNX's own that is a constant, in the order of the graphs and their nodes."""
        for scope in self.scopes:
            for index, node in enumerate(scope.nodes):
                if node.domain in STANDARD:
                    for position in range(len(node.input)):
                        if use := self.use(scope, index, position):
                            yield use

    def use(self, scope: Scope, index: int, position: int) -> Use | None:
        """What constant, if any, an input of a node is."""
        name, transposed, at = input_name(scope.nodes[index], position), False, scope
        while name and (owner := at.owner(name)):
            if constant := owner.constants.get(name):
                return Use(scope, index, position, constant, transposed)
            if name in owner.inputs:
                return None
            maker = owner.nodes[owner.makers[name]]
            if maker.domain not in STANDARD or maker.op_type not in ("Identity", "Transpose"):
                return None
            if maker.op_type == "Transpose":
                if list(attribute(maker, "perm") or (1, 0)) != [1, 0]:
                    return None
                transposed = not transposed
            name, at = maker.input[0], owner
        return None

    def constants(self) -> Iterator[Constant]:
        """All constants, in the order of the graphs."""
        return (constant for scope in self.scopes for constant in scope.constants.values())

    def unmatched(self, globs: Iterable[str]) -> list[str]:
        """Those that no constant and no node is called by: mistyped, or of another model."""
        names = {constant.name for constant in self.constants()}
        names |= {node.name for scope in self.scopes for node in scope.nodes if node.name}
        return [each for each in globs if not any(map(re.compile(fnmatch.translate(each)).match, names))]

    def all_in(self, constant: Constant, taken: Set[Reference]) -> bool:
        """Whether nobody but the inputs ``taken`` uses a constant, directly or turned."""
        return not constant.overridable and self._all_in(constant.scope, constant.name, taken)

    def _all_in(self, scope: Scope, name: str, taken: Set[Reference]) -> bool:
        for at, index, position in self._references.get((scope, name), set()):
            if (at, index, position) in taken:
                continue
            node = at.nodes[index] if index >= 0 else None
            if node is None or node.domain not in STANDARD or node.op_type not in ("Identity", "Transpose"):
                return False
            if not self._all_in(at, node.output[0], taken):
                return False
        return True

    def users(self, constant: Constant) -> list[str]:
        """The operations that use a constant, by name."""
        found = self._references.get((constant.scope, constant.name), set())
        return sorted({at.nodes[index].op_type if index >= 0 else "output" for at, index, _ in found})

    def domains(self, constant: Constant) -> list[str]:
        """Domains, other than ONNX's own, of the operations that use a constant, directly or turned."""
        return sorted(self._domains(constant.scope, constant.name))

    def _domains(self, scope: Scope, name: str) -> set[str]:
        found = set()
        for at, index, _ in self._references.get((scope, name), set()):
            node = at.nodes[index] if index >= 0 else None
            if node is not None and node.domain not in STANDARD:
                found.add(node.domain)
            elif node is not None and node.op_type in ("Identity", "Transpose"):
                found |= self._domains(at, node.output[0])
        return found

    def values(self, constant: Constant) -> Array:
        """A constant's values as float32."""
        import numpy as np

        return np.ascontiguousarray(self.file.array(constant.tensor), np.float32).reshape(constant.dims)

    def reach(self, constant: Constant) -> float:
        """The largest magnitude of a constant's values, 0 of none; not finite if one of them is not."""
        values = self.values(constant)
        least, most = float(values.min(initial=0)), float(values.max(initial=0))
        return max(-least, most)  # of values with a NaN among them both are NaN

    def finite(self, constant: Constant) -> bool:
        """Whether a constant holds neither NaN nor infinity."""
        return math.isfinite(self.reach(constant))

    def nbytes(self, constant: Constant) -> int:
        """Bytes of a constant."""
        from hubpub.onnxfile import raw_nbytes

        return raw_nbytes(constant.tensor, self.where)

    def quantized_ops(self) -> Counter[str]:
        """Operations that say that the model is quantized already, by name."""
        return Counter(
            node.op_type
            for scope in self.scopes
            for node in scope.nodes
            if node.op_type in _QUANTIZED_TOO or node.op_type.startswith(_QUANTIZED)
        )

    def refuse_quantized(self, *, rest: bool) -> None:
        """Refuse a model that is quantized already.

        Args:
            rest: whether the step can be told to quantize what is left.

        Raises:
            StepError: it is.
        """
        if found := self.quantized_ops():
            ops = ", ".join(f"{count} {op}" for op, count in sorted(found.items()))
            raise StepError(
                f"is quantized already ({ops})",
                where=self.where,
                fix="start from the float model"
                + (", or set quantized: rest to quantize what is still float" if rest else ""),
            )

    # -------------------------------------------------------------------------------------------------- editing

    def new_name(self, stem: str) -> str:
        """A name that nothing in the model has yet."""
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def add(self, scope: Scope, stem: str, values: Array, data_type: int = 0, dims: Iterable[int] = ()) -> str:
        """Add an initializer to a graph and return its name.

        Args:
            scope: the graph.
            stem: what to call it, if that is free.
            values: its values, or its raw bytes.
            data_type: element type if it is not that of ``values``.
            dims: shape, in that case.
        """
        from onnx import helper

        tensor = scope.proto.initializer.add()
        tensor.name = self.new_name(stem)
        tensor.data_type = data_type or helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.dims.extend(dims if data_type else values.shape)
        self._added.add(tensor.name)
        self._scratch.store(self.file, tensor, values)
        return str(tensor.name)

    def node(self, op: str, inputs: list[str], outputs: list[str], stem: str, **attributes: Any) -> onnx.NodeProto:
        """Make a node, called ``stem`` if no other node is."""
        from onnx import helper

        name, number = stem, 1
        while name in self._node_names:
            number += 1
            name = f"{stem}_{number}"
        self._node_names.add(name)
        return helper.make_node(op, inputs, outputs, name=name, **attributes)

    def declare(self, scope: Scope, names: Iterable[str], data_type: int) -> None:
        """Say what type values are that an operation makes which ONNX does not know; else inference ends there."""
        from onnx import helper

        told = {info.name for info in (*scope.proto.value_info, *scope.proto.output)}
        for name in names:
            if name and name not in told:
                scope.proto.value_info.append(helper.make_tensor_value_info(name, data_type, None))

    def replace(self, use: Use) -> str:
        """The name of a node that is about to be replaced, or its output's; it is free for another node."""
        self._node_names.discard(use.node.name)
        return str(use.node.name or use.node.output[0])

    def take_out(self, constant: Constant, nodes: list[onnx.NodeProto]) -> None:
        """Let ``nodes``, which come first in its graph, make a constant instead; with none it is no more."""
        constant.gone = True
        if constant.maker is None:
            constant.scope.head.extend(nodes)
        else:
            constant.scope.instead[constant.maker] = nodes

    def drop_unused(self) -> None:
        """Write the edits into the graphs, and take out replaced constants that nobody uses any more."""
        for scope in self.scopes:
            taken = {c.name for c in scope.constants.values() if c.gone}
            for index in reversed([i for i, tensor in enumerate(scope.proto.initializer) if tensor.name in taken]):
                del scope.proto.initializer[index]
        for scope in reversed(self.scopes):  # the inner before the outer, whose nodes hold them
            rewrite(scope)
        for scope, proto in zip(self.scopes, all_graphs(self.file.model.graph), strict=True):
            scope.proto = proto  # the outer one holds a copy now
        while self._drop_once():
            pass

    def _drop_once(self) -> bool:
        used = {name for scope in self.scopes for name in names_used(scope.proto)}
        unused = self._added - used
        dropped = False
        for scope in self.scopes:
            replaced = {c.name for c in scope.constants.values() if c.replaced} - used
            dead = [
                index
                for index, node in enumerate(scope.proto.node)
                if not used & set(node.output)
                and (
                    (node.op_type == "Constant" and node.output[0] in replaced)
                    or (node.op_type in MOVES and self._moves_replaced(scope, node))
                )
            ]
            for index in reversed(dead):
                del scope.proto.node[index]
            gone = [i for i, tensor in enumerate(scope.proto.initializer) if tensor.name in replaced | unused]
            for index in reversed(gone):
                del scope.proto.initializer[index]
            for name in replaced:
                scope.constants[name].gone = True
            dropped = dropped or bool(dead or gone)
        return dropped

    @classmethod
    def _moves_replaced(cls, scope: Scope, node: onnx.NodeProto) -> bool:
        """Whether what a node moves was taken from a constant that has been stored in another form."""
        for name in node.input:
            owner = scope.owner(name) if name else None
            if owner is None or name in owner.inputs:
                continue
            if constant := owner.constants.get(name):
                if constant.replaced or constant.gone:
                    return True
            elif (maker := owner.nodes[owner.makers[name]]).op_type in MOVES and cls._moves_replaced(owner, maker):
                return True
        return False

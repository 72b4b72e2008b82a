"""Write QuantizeLinear and DequantizeLinear around the products of a graph, in the form that onnxruntime fuses.

Only inputs are quantized, unsigned; weights are int8 with a scale per output channel; the product's output stays
float32. Of that onnxruntime makes MatMulIntegerToFloat for every product (217 of 217 in a FastConformer), where signed
activations, or quantized outputs, leave many of them in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.errors import StepError
from hubpub.transform._weights import has_input

if TYPE_CHECKING:
    import onnx

    from hubpub.transform._int8_layers import Layer
    from hubpub.transform._weights import Constant, Reference, Scope, Weights

    Array = np.ndarray[Any, np.dtype[Any]]

MIN_OPSET = 13
"""From which on DequantizeLinear has scales per channel."""


class QdqWriter:
    """Edits of a model; the nodes for one value, or one weight, are made once."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._made: dict[tuple[object, ...], str] = {}

    def divided(self, scope: Scope, index: int, value: str, divisors: Array) -> str:
        """The value with each index of its last axis divided, before the node ``index``; its name."""
        key = (scope, value, "divided", divisors.tobytes())
        if key not in self._made:
            name = self._made[key] = self._weights.new_name(f"{value}_smoothed")
            factors = (1 / divisors.astype(np.float64)).astype(np.float32)
            constant = self._weights.add(scope, f"{value}_smoothing", factors)
            self._before(scope, index, "Mul", [value, constant], name)
        return self._made[key]

    def activation(self, scope: Scope, index: int, value: str, scale: Array, zero: Array) -> str:
        """The value quantized per tensor and back, before the node ``index``; its name."""
        key = (scope, value, scale.tobytes(), zero.tobytes())
        if key not in self._made:
            name = self._made[key] = self._weights.new_name(f"{value}_dequantized")
            integers = self._weights.new_name(f"{value}_quantized")
            constants = [
                self._weights.add(scope, f"{value}_scale", np.asarray(scale, np.float32).reshape(())),
                self._weights.add(scope, f"{value}_zero_point", zero.reshape(())),
            ]
            self._before(scope, index, "QuantizeLinear", [value, *constants], integers)
            self._before(scope, index, "DequantizeLinear", [integers, *constants], name)
        return self._made[key]

    def weight(
        self, scope: Scope, index: int, weight: Constant, form: str, integers: Array, scale: Array, axis: int = 1
    ) -> tuple[str, str]:
        """A weight as int8 with scales along an axis, dequantized before a node; its name, and that of its integers.

        Args:
            scope: the graph of the node.
            index: the node.
            weight: what is replaced; it goes when nobody uses it any more.
            form: what tells this form of the weight from others.
            integers: int8.
            scale: ``[channels]`` or ``[]``.
            axis: of the channels.
        """
        key = (scope, weight, form)
        if key not in self._made:
            name = self._made[key] = self._weights.new_name(f"{weight.name}_dequantized")
            stored = [
                self._weights.add(scope, f"{weight.name}_quantized", integers),
                self._weights.add(scope, f"{weight.name}_scale", scale.astype(np.float32)),
                self._weights.add(scope, f"{weight.name}_zero_point", np.zeros(scale.shape, integers.dtype)),
            ]
            self._made[*key, "integers"] = stored[0]
            weight.replaced = True
            attributes = {"axis": axis} if scale.ndim else {}
            self._before(scope, index, "DequantizeLinear", stored, name, **attributes)
        return self._made[key], self._made[*key, "integers"]

    def floats(self, scope: Scope, weight: Constant, form: str, values: Array) -> str:
        """A weight with other values; its name."""
        key = (scope, weight, form)
        if key not in self._made:
            self._made[key] = self._weights.add(scope, f"{weight.name}_smoothed", np.ascontiguousarray(values))
            weight.replaced = True
        return self._made[key]

    def result(self, scope: Scope, value: str, readers: set[Reference], scale: Array, zero: Array) -> None:
        """Quantize a value where it is made, for all ``readers``; an output of the model keeps its name.

        Call it before `activation` for the same value and grid, which then takes what was made here.
        """
        key = (scope, value, scale.tobytes(), zero.tobytes())
        if key in self._made:
            return
        maker = scope.makers[value]
        made = scope.nodes[maker]
        source, name = value, self._weights.new_name(f"{value}_dequantized")
        if any(index < 0 and at is scope for at, index, _ in readers):
            source, name = self._weights.new_name(f"{value}_float"), value
            made.output[list(made.output).index(value)] = source
        self._made[key] = name
        integers = self._weights.new_name(f"{value}_quantized")
        constants = [
            self._weights.add(scope, f"{value}_scale", np.asarray(scale, np.float32).reshape(())),
            self._weights.add(scope, f"{value}_zero_point", zero.reshape(())),
        ]
        after = [
            node("QuantizeLinear", [source, *constants], integers),
            node("DequantizeLinear", [integers, *constants], name),
        ]
        if maker + 1 < len(scope.nodes):
            scope.before[maker + 1] = [*after, *scope.before.get(maker + 1, [])]
        else:
            scope.instead[maker] = [made, *after]
        for at, index, position in readers:
            if index >= 0:
                at.nodes[index].input[position] = name

    def _before(self, scope: Scope, index: int, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        scope.before.setdefault(index, []).append(node(op, inputs, output, **attributes))


def readers_of(weights: Weights) -> dict[tuple[Scope, str], set[Reference]]:
    """Who reads each value of each graph, from inside that graph and from those within."""
    found: dict[tuple[Scope, str], set[Reference]] = {}

    def read(scope: Scope, name: str, reference: Reference) -> None:
        if name and (owner := scope.owner(name)):
            found.setdefault((owner, name), set()).add(reference)

    for scope in weights.scopes:
        for index, each in enumerate(scope.nodes):
            for position, name in enumerate(each.input):
                read(scope, name, (scope, index, position))
        for position, value in enumerate(scope.proto.output):
            read(scope, value.name, (scope, -1, position))
    return found


def replace_product(weights: Weights, layer: Layer, left: str, right: str) -> None:
    """Let a layer be a MatMul of two values, and an Add if it was a Gemm with a bias."""
    old = layer.use.node
    if old.op_type == "MatMul":
        old.input[0], old.input[1] = left, right
        return
    output, bias = old.output[0], old.input[2] if has_input(old, 2) else ""
    product = weights.new_name(f"{output}_product") if bias else output
    nodes = [node("MatMul", [left, right], product)]
    if bias:
        nodes.append(node("Add", [product, bias], output))
    layer.use.scope.instead[layer.use.index] = nodes


def check_opset(weights: Weights) -> None:
    """Refuse a model whose opset has no scales per channel.

    Raises:
        StepError: its opset is too old.
    """
    if weights.opset < MIN_OPSET:
        raise StepError(
            f"has opset {weights.opset}, scales per channel take {MIN_OPSET}",
            where=weights.where,
            fix="export it with opset 17, or use dynamic_int8",
        )


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """A node named after its output."""
    from onnx import helper

    return helper.make_node(op, inputs, [output], name=output, **attributes)

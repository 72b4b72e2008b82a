"""Write QuantizeLinear and DequantizeLinear around the products of a graph, in the form that onnxruntime fuses.

Only inputs are quantized, unsigned; weights are int8 with a scale per output channel; the product's output stays
float32. Of that onnxruntime makes MatMulIntegerToFloat for every product (217 of 217 in a FastConformer), where signed
activations, or quantized outputs, leave many of them in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.errors import StepError

if TYPE_CHECKING:
    import onnx

    from hubpub.transform._weights import Constant, Scope, Weights

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

    def _before(self, scope: Scope, index: int, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        scope.before.setdefault(index, []).append(node(op, inputs, output, **attributes))


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

"""Let what makes a value make it divided, so that smoothing costs nothing when the model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hubpub.transform._qdq import readers_of
from hubpub.transform._weights import Constant, Reference, Weights, attribute, has_input

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from hubpub.transform._int8_layers import Layer

    Array = np.ndarray[Any, np.dtype[Any]]

Edit = Callable[[], None]
_SAME = ("Identity", "Relu", "LeakyRelu")  # a positive factor passes through
_STANDARD = ("", "ai.onnx")


class Folder:
    """Folds factors of a value's last axis into the constants that it is made of.

    ``columns`` is where factors of the columns of quantized layers end up, by layer.
    """

    def __init__(self, weights: Weights, layers: list[Layer]) -> None:
        self.columns: dict[Layer, Array] = {}
        self._weights = weights
        self._main = weights.scopes[0]
        self._layers: Mapping[int, Layer] = {layer.use.index: layer for layer in layers}
        self._sharers: dict[Constant, int] = {}
        for layer in layers:
            self._sharers[layer.weight] = self._sharers.get(layer.weight, 0) + 1
        self._readers = readers_of(weights)
        self._folded: dict[str, Array] = {}

    def fold(self, value: str, factors: Array, readers: set[Reference]) -> str:
        """Multiply each index of the last axis of a value of the main graph by a factor, where it is made.

        Args:
            value: its name.
            factors: positive, ``[K]``, float64.
            readers: who may get it so; if somebody else reads it too, nothing is done.

        Returns:
            The operation whose constant took the factors; nothing if there is none that can.
        """
        edits: list[Edit] = []
        found = self._plan(value, factors, readers, edits)
        if found:
            for edit in edits:
                edit()
        return found

    def offset(self, layer: Layer, values: Array) -> bool:
        """Add ``[N]`` to a layer's output where a bias is added to it anyway; whether there was one."""
        main, output = self._main, layer.use.node.output[0]
        readers = self._readers.get((main, output), set())
        if layer.use.node.op_type != "MatMul" or len(readers) != 1:
            return False
        ((scope, index, position),) = readers
        if index < 0 or scope is not main or main.nodes[index].op_type != "Add":
            return False
        node = main.nodes[index]
        name = node.input[1 - position]
        constant = self._constant(name)
        bias = self._folded.get(name)
        if bias is None and constant is not None and constant.tensor.data_type == 1 and not constant.overridable:
            bias = self._weights.values(constant)
            constant.replaced = True
        if bias is None or bias.shape != values.shape:
            return False
        node.input[1 - position] = self._weights.add(main, f"{name}_corrected", (bias + values).astype("float32"))
        return True

    def _plan(self, value: str, factors: Array, readers: set[Reference], edits: list[Edit]) -> str:
        main = self._main
        if self._readers.get((main, value), set()) - readers or value not in main.makers:
            return ""
        index = main.makers[value]
        node = main.nodes[index]
        if node.domain not in _STANDARD or not node.output or node.output[0] != value:
            return ""
        op = node.op_type

        def beyond(position: int) -> str:
            return self._plan(node.input[position], factors, {(main, index, position)}, edits)

        if op == "LayerNormalization" and attribute(node, "axis", -1) == -1:
            done = self._scale(index, 1, factors, edits, whole=True) and (
                not has_input(node, 2) or self._scale(index, 2, factors, edits, whole=True)
            )
            return op if done else ""
        if op in _SAME:
            return beyond(0)
        if op in ("Mul", "Div"):
            for position in (1, 0) if op == "Mul" else (1,):
                if self._scale(index, position, factors if op == "Mul" else 1 / factors, edits, whole=True):
                    return op
            return ""
        if op in ("Add", "Sub"):
            for position in (1, 0):
                planned = len(edits)
                if self._scale(index, position, factors, edits) and (found := beyond(1 - position)):
                    return found
                del edits[planned:]
            return ""
        if op in ("MatMul", "Gemm"):
            return op if self._product(index, node, factors, edits) else ""
        return ""

    def _scale(self, index: int, position: int, factors: Array, edits: list[Edit], *, whole: bool = False) -> bool:
        """Plan to multiply a constant; a single value is spread out unless it has to be ``whole``."""
        node = self._main.nodes[index]
        constant = self._constant(node.input[position])
        if constant is None or constant.tensor.data_type != 1 or constant.overridable or len(constant.dims) > 1:
            return False
        if constant.size != len(factors) and (whole or constant.size != 1):
            return False

        def edit() -> None:
            values = (self._weights.values(constant).astype("float64") * factors).astype("float32")
            name = node.input[position] = self._weights.add(self._main, f"{constant.name}_smoothed", values)
            self._folded[name] = values
            constant.replaced = True

        edits.append(edit)
        return True

    def _constant(self, name: str) -> Constant | None:
        owner = self._main.owner(name) if name else None
        return owner.constants.get(name) if owner else None

    def _product(self, index: int, node: onnx.NodeProto, factors: Array, edits: list[Edit]) -> bool:
        layer = self._layers.get(index)
        if layer is None or self._sharers[layer.weight] > 1 or layer.columns != len(factors):
            return False
        if node.op_type == "Gemm" and has_input(node, 2) and not self._scale(index, 2, factors, edits):
            return False
        edits.append(lambda: self.columns.__setitem__(layer, factors))
        return True

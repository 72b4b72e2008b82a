"""The matrix products of a model that may run in integers, grouped by what they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubpub.transform._weights import FLOAT, Constant, Use, Weights, attribute, excluded, has_input

if TYPE_CHECKING:
    import numpy as np

    from hubpub.transform._ledger import Ledger

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(eq=False)
class Layer:
    """A MatMul or Gemm of the main graph with a constant matrix on its right.

    Attributes:
        use: the node, and the matrix as it lies.
        input: the value on the left.
        transposed: the product takes the matrix ``[N, K]`` turned.
        alpha: factor of the product (Gemm).
    """

    use: Use
    input: str
    transposed: bool
    alpha: float

    @property
    def name(self) -> str:
        """What a reader calls it: the node's name, or its output's."""
        return str(self.use.node.name or self.use.node.output[0])

    @property
    def weight(self) -> Constant:
        """The matrix."""
        return self.use.constant

    @property
    def width(self) -> int:
        """K, the last axis of the input."""
        return self.weight.dims[1 if self.transposed else 0]

    @property
    def columns(self) -> int:
        """N, the last axis of the output."""
        return self.weight.dims[0 if self.transposed else 1]

    def matrix(self, weights: Weights) -> Array:
        """The matrix ``[K, N]``, float32, alpha in it; the caller's own."""
        import numpy as np

        values = weights.values(self.weight)
        matrix = np.require(values.T if self.transposed else values, np.float32, ["C", "W"])
        return matrix if self.alpha == 1 else matrix * np.float32(self.alpha)


@dataclass(eq=False)
class Group:
    """Layers that share an input or a matrix, and so must share the divisors of their inputs."""

    layers: list[Layer]

    @property
    def inputs(self) -> list[str]:
        """The distinct inputs, in order."""
        return list(dict.fromkeys(layer.input for layer in self.layers))

    @property
    def width(self) -> int:
        """K."""
        return self.layers[0].width

    @property
    def weights(self) -> dict[tuple[Constant, bool, float], Layer]:
        """The distinct matrices, each with the first layer that uses it."""
        found: dict[tuple[Constant, bool, float], Layer] = {}
        for layer in self.layers:
            found.setdefault((layer.weight, layer.transposed, layer.alpha), layer)
        return found


def find_layers(weights: Weights, ledger: Ledger, exclude: Iterable[str], min_elements: int) -> list[Layer]:
    """The layers that can be quantized; why other constant matrices of products cannot goes to ``ledger``."""
    exclude = tuple(exclude)
    found = []
    for use in weights.uses():
        if use.node.op_type not in ("MatMul", "Gemm") or use.position > 1:
            continue
        if use.constant.size < min_elements or use.constant.tensor.data_type not in (1, 10, 11, 16):
            continue
        if reason := _why_not(weights, use, exclude):
            ledger.skip(use.constant, reason)
            continue
        gemm = use.node.op_type == "Gemm"
        transposed = use.transposed != bool(gemm and attribute(use.node, "transB", 0))
        found.append(
            Layer(use, use.node.input[0], transposed, float(attribute(use.node, "alpha", 1.0)) if gemm else 1.0)
        )
    return found


def _why_not(weights: Weights, use: Use, exclude: tuple[str, ...]) -> str:
    node, constant = use.node, use.constant
    if use.position == 0:
        return f"on the left of a {node.op_type}"
    if use.scope.parent is not None:
        return "inside a subgraph (If, Loop or Scan), where nothing is calibrated"
    if constant.overridable:
        return "an input of the model too, so a caller may give another"
    if constant.tensor.data_type != FLOAT:
        return "not float32"
    if len(constant.dims) != 2:
        return f"of rank {len(constant.dims)}, not one matrix"
    if weights.use(use.scope, use.index, 0):
        return "in a product of two constants"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "of a Gemm with transA"
    if node.op_type == "Gemm" and has_input(node, 2) and attribute(node, "beta", 1.0) != 1:
        return "of a Gemm with beta"
    if glob := excluded((node.name, constant.name), exclude):
        return f"excluded by {glob!r}"
    return "" if weights.finite(constant) else "not finite (NaN or infinity)"


def group(layers: Iterable[Layer]) -> list[Group]:
    """Join the layers that share an input or a matrix; in the order of the graph."""
    groups: list[Group] = []
    by_key: dict[object, Group] = {}
    for layer in layers:
        keys: list[object] = [layer.input, layer.weight]
        met = list(dict.fromkeys(by_key[key] for key in keys if key in by_key))
        home = met[0] if met else Group([])
        if not met:
            groups.append(home)
        for other in met[1:]:
            home.layers += other.layers
            groups.remove(other)
            by_key.update({key: home for key, owner in by_key.items() if owner is other})
        home.layers.append(layer)
        by_key.update(dict.fromkeys(keys, home))
    return groups

"""Products whose inputs stay float32 and whose weights take 8 bits: what a calibrated step makes of excluded layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.transform._compensated import round_compensated
from hubpub.transform._int8_values import snr_db
from hubpub.transform._weight_graph import MICROSOFT, has_input, needs_domain
from hubpub.transform.calibration.observe import observe
from hubpub.transform.calibration.probes import Rows

if TYPE_CHECKING:
    from hubpub.transform._int8_layers import Layer
    from hubpub.transform._ledger import Ledger
    from hubpub.transform._weights import Weights
    from hubpub.transform.base import Windows

_BLOCK = 128
_LEAST_BLOCK = 16  # that MatMulNBits takes
_ROWS = 4096
"""Rows of each input in all, by which weights are rounded; fewer where they would take too much disk."""
_ROW_BYTES = 192 << 20
_ROW_SHARE = 0.2
"""Rows take at most this share of the model's bytes, or `_ROW_BYTES` if that is more."""


def see_inputs(
    weights: Weights,
    layers: Sequence[Layer],
    windows: Windows,
    folder: Path,
    threads: int,
    progress: Callable[[int], None],
) -> Callable[[Layer], Any]:
    """Run the windows once; gives the rows ``[R, K]`` of a layer's input that were sampled, from ``folder``."""
    inputs = {layer.input: layer.width for layer in layers}
    size = sum(weights.nbytes(constant) for constant in weights.constants())
    total = min(_ROWS, max(_ROW_BYTES, int(_ROW_SHARE * size)) // (4 * sum(inputs.values())))
    probes = {name: Rows(name, width, max(total // len(windows), 1)) for name, width in inputs.items()}
    seen = observe(weights.file, windows, list(probes.values()), folder, threads=threads, progress=progress)
    return lambda layer: seen.rows(probes[layer.input])


class FloatInputs:
    """Edits of a model: MatMulNBits in the place of products."""

    def __init__(self, weights: Weights, ledger: Ledger) -> None:
        self._weights, self._ledger = weights, ledger
        self._made: dict[tuple[object, ...], tuple[str, str]] = {}

    def replace(self, layer: Layer, rows: Callable[[Layer], Any]) -> None:
        """Round a layer's matrix, by the inputs that it was seen with, and let the layer take it so.

        A matrix that several layers use is rounded by the inputs of the first.
        """
        packed, scales = self._stored(layer, rows)
        scope, old = layer.use.scope, layer.use.node
        output, stem = old.output[0], self._weights.replace(layer.use)
        bias = old.input[2] if old.op_type == "Gemm" and has_input(old, 2) else ""
        made = self._weights.new_name(f"{output}_product") if bias else output
        shape = {"K": layer.width, "N": layer.columns, "bits": 8, "block_size": _block(layer.width)}
        inputs = [layer.input, packed, scales]
        nodes = [self._weights.node("MatMulNBits", inputs, [made], stem, domain=MICROSOFT, **shape)]
        self._weights.declare(scope, [made], layer.weight.tensor.data_type)
        if bias:
            nodes.append(self._weights.node("Add", [made, bias], [output], f"{stem}_bias"))
        scope.instead[layer.use.index] = nodes
        needs_domain(self._weights.file.model, MICROSOFT, 1)

    def _stored(self, layer: Layer, rows: Callable[[Layer], Any]) -> tuple[str, str]:
        key = (layer.weight, layer.transposed, layer.alpha)
        if key not in self._made:
            weight, scope = layer.weight, layer.use.scope
            block = _block(layer.width)
            blocks = round_compensated(layer.matrix(self._weights), rows(layer), block)
            self._ledger.reasons.pop(weight, None)
            self._ledger.enter(
                weight,
                op=layer.use.node.op_type,
                node=layer.name,
                method=f"8 bits in blocks of {block}, compensated, inputs float32",
                sizes=(self._weights.nbytes(weight), blocks.integers.nbytes + blocks.scales.nbytes),
                snr=snr_db(blocks.signal, blocks.error),
                scales=blocks.scales,
            )
            self._made[key] = (
                self._weights.add(scope, f"{weight.name}_packed", blocks.integers),
                self._weights.add(scope, f"{weight.name}_scale", blocks.scales),
            )
            weight.replaced = True
        return self._made[key]


def _block(width: int) -> int:
    """Weights that share a scale: a power of two, no more than the matrix has rows if that can be."""
    return min(_BLOCK, max(_LEAST_BLOCK, 1 << (width - 1).bit_length()))

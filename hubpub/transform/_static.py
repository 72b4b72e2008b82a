"""The run of `hubpub.transform.static_int8` over a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.transform import _int8_values as i8
from hubpub.transform._channel_means import ChannelMeans, mean_error
from hubpub.transform._int8_layers import Layer, find_layers
from hubpub.transform._integers import nothing_to_do, state_folder, window_progress
from hubpub.transform._ledger import Ledger
from hubpub.transform._qdq import QdqWriter, check_opset, readers_of, replace_product
from hubpub.transform._smooth import grid_of
from hubpub.transform._weights import FLOAT, Use, Weights, excluded, has_input
from hubpub.transform.calibration import Range, Ranges, calibrate, observe
from hubpub.transform.exclude import named

if TYPE_CHECKING:
    import onnx

    from hubpub.transform._calibrated_int8 import Call
    from hubpub.transform.base import Facts
    from hubpub.transform.static_int8 import StaticInt8

    Array = np.ndarray[Any, np.dtype[Any]]

_INT32 = (1 << 31) - 1


@dataclass(eq=False)
class Convolution:
    """A Conv or ConvTranspose of the main graph with a constant kernel.

    Attributes:
        use: the node and its kernel.
        input: what it convolves.
        output: its own, or that of the Relu that alone reads it.
        bias: the constant bias, None for none.
        stored: only its kernel is in integers; it is computed in float32.
    """

    use: Use
    input: str
    output: str
    bias: Use | None
    stored: bool

    @property
    def node(self) -> onnx.NodeProto:
        """The node."""
        return self.use.node

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return str(self.node.name or self.node.output[0])

    @property
    def axis(self) -> int:
        """Of the kernel's output channels."""
        return 0 if self.node.op_type == "Conv" else 1


class Static:
    """One run over a model."""

    def __init__(self, weights: Weights, params: StaticInt8, call: Call) -> None:
        self._weights, self._params, self._call = weights, params, call
        passes = 1 + (params.method != "minmax") + params.correct_means
        self._progress = window_progress(weights, len(call.windows) * passes, call.progress)
        self._ledger = Ledger()
        self._readers = readers_of(weights)
        self._writer = QdqWriter(weights)
        self._integers: dict[str, str] = {}
        self._means: dict[str, Array] = {}

    def run(self) -> tuple[Ledger, Mapping[str, str], Facts]:
        """Calibrate and rewrite."""
        params, weights = self._params, self._weights
        check_opset(weights)
        layers, convolutions = self._find(self._ledger, named(params.exclude))
        if not layers and not convolutions:
            raise nothing_to_do(self._ledger, weights)
        calibrated = (layers, convolutions) if self._call.shared is None else self._find(Ledger(), self._call.shared)
        values = [layer.input for layer in calibrated[0]]
        values += [name for conv in calibrated[1] if not conv.stored for name in (conv.input, conv.output)]
        with state_folder(self._call.resume, self._call.target) as folder:
            ranges = calibrate(
                weights.file,
                self._call.windows,
                values,
                folder,
                params.method,
                percentile=params.percentile,
                symmetric=not params.asymmetric,
                threads=params.threads,
                progress=self._progress,
            )
            if params.correct_means:
                self._means = self._observe_means(calibrated[1], folder / "means")
        for conv in convolutions:
            self._output(conv, ranges)
        # In the order of the graph, since what is quantized before one node is there for those behind it.
        found: list[Layer | Convolution] = [*layers, *convolutions]
        for each in sorted(found, key=lambda each: each.use.index):
            if isinstance(each, Layer):
                self._product(each, ranges)
            elif each.stored:
                self._stored(each)
            else:
                self._convolution(each, ranges)
        seen = {"windows": len(self._call.windows), "values": len(ranges), "method": params.method}
        return self._ledger, self._integers, {"calibration": {**seen}}

    def _observe_means(self, convolutions: list[Convolution], folder: Path) -> dict[str, Array]:
        """Mean of each channel of what is convolved, by name."""
        names = dict.fromkeys(conv.input for conv in convolutions if conv.bias is not None and conv.axis == 0)
        probes = [ChannelMeans(name) for name in names]
        if not probes:
            return {}
        options: dict[str, Any] = {"threads": self._params.threads, "progress": self._progress}
        seen = observe(self._weights.file, self._call.windows, probes, folder, **options)
        return {probe.value: seen[probe]["total"] / seen[probe]["windows"] for probe in probes}

    # ------------------------------------------------------------------------------------------------- choosing

    def _find(self, ledger: Ledger, exclude: tuple[str, ...]) -> tuple[list[Layer], list[Convolution]]:
        layers = find_layers(self._weights, ledger, exclude, self._params.min_elements)
        wanted = [layer for layer in layers if layer.use.node.op_type in self._params.op_types]
        return wanted, self._find_convolutions(ledger, exclude)

    def _find_convolutions(self, ledger: Ledger, exclude: tuple[str, ...]) -> list[Convolution]:
        found = []
        for use in self._weights.uses():
            if use.node.op_type not in ("Conv", "ConvTranspose") or use.position != 1:
                continue
            if use.constant.size < self._params.min_elements or use.node.op_type not in self._params.op_types:
                continue
            if reason := self._why_not(use, exclude):
                ledger.skip(use.constant, reason)
                continue
            bias = self._weights.use(use.scope, use.index, 2) if has_input(use.node, 2) else None
            stored = bool(excluded((use.node.name, use.constant.name), self._params.only_store))
            found.append(Convolution(use, use.node.input[0], self._result(use), bias, stored))
        return found

    def _why_not(self, use: Use, exclude: tuple[str, ...]) -> str:
        if use.scope.parent is not None:
            return "inside a subgraph (If, Loop or Scan), where nothing is calibrated"
        if use.constant.overridable:
            return "an input of the model too, so a caller may give another"
        if use.constant.tensor.data_type != FLOAT:
            return "not float32"
        if use.transposed:
            return f"transposed for a {use.node.op_type}"
        if glob := excluded((use.node.name, use.constant.name), exclude):
            return f"excluded by {glob!r}"
        bias = self._weights.use(use.scope, use.index, 2) if has_input(use.node, 2) else None
        if has_input(use.node, 2) and (
            bias is None or bias.constant.overridable or bias.constant.tensor.data_type != FLOAT
        ):
            return f"of a {use.node.op_type} with a computed bias, or one that a caller may give"
        finite = self._weights.finite(use.constant) and (bias is None or self._weights.finite(bias.constant))
        return "" if finite else "not finite (NaN or infinity)"

    def _result(self, use: Use) -> str:
        """The convolution's output, or that of a Relu if that alone reads it: one kernel computes both."""
        output = str(use.node.output[0])
        readers = self._readers.get((use.scope, output), set())
        if len(readers) == 1:
            ((scope, index, _),) = readers
            if index >= 0 and scope is use.scope and scope.nodes[index].op_type == "Relu":
                return str(scope.nodes[index].output[0])
        return output

    # ------------------------------------------------------------------------------------------------- rewriting

    def _grid(self, r: Range) -> tuple[Array, Array]:
        return grid_of(r.low, r.high, asymmetric=self._params.asymmetric)

    def _product(self, layer: Layer, ranges: Ranges) -> None:
        scope, index = layer.use.scope, layer.use.index
        scale, zero = self._grid(ranges[layer.input])
        matrix = layer.matrix(self._weights)
        plain, none = i8.scale_of(*i8.extremes(matrix, 1), i8.INT8)
        steps = i8.pair_safe_scale(matrix, plain) if self._params.target == "x86" else plain
        integers = i8.quantize(matrix, steps, none, i8.INT8, 1)
        left = self._writer.activation(scope, index, layer.input, scale, zero)
        form = f"{layer.transposed} {layer.alpha}"
        known = layer.weight.replaced
        right, self._integers[layer.name] = self._writer.weight(scope, index, layer.weight, form, integers, steps)
        replace_product(self._weights, layer, left, right)
        if not known:
            rescaled = int(np.count_nonzero(steps > plain))
            self._enter(layer.use, layer.name, matrix, (integers, steps, none, 1), scale, ranges[layer.input], rescaled)

    def _convolution(self, conv: Convolution, ranges: Ranges) -> None:
        scope, index, axis = conv.use.scope, conv.use.index, conv.axis
        scale, zero = self._grid(ranges[conv.input])
        kernel = self._weights.values(conv.use.constant)
        plain, none = i8.scale_of(*i8.extremes(kernel, axis), i8.INT8)
        steps = np.maximum(plain, self._any_pair(kernel, axis)) if self._params.target == "x86" else plain
        if conv.bias is not None and axis == 0:  # int32 must hold it, in steps of both
            bias = np.abs(self._weights.values(conv.bias.constant).astype(np.float64))
            steps = np.maximum(steps, (bias / (_INT32 / 2) / float(scale)).astype(np.float32))
        integers = i8.quantize(kernel, steps, none, i8.INT8, axis)
        node = conv.node
        known = conv.use.constant.replaced
        left = self._writer.activation(scope, index, conv.input, scale, zero)
        right, self._integers[conv.name] = self._writer.weight(
            scope, index, conv.use.constant, f"kernel {steps.tobytes().hex()}", integers, steps, axis
        )
        node.input[0], node.input[1] = left, right
        if conv.bias is not None and axis == 0:
            both = (steps.astype(np.float64) * float(scale)).astype(np.float32)
            bias = self._corrected_bias(conv, i8.dequantize(integers, steps, none, axis) - kernel)
            values = np.clip(np.rint(bias / both), -_INT32, _INT32).astype(np.int32)
            node.input[2] = self._writer.weight(
                scope, index, conv.bias.constant, f"bias {both.tobytes().hex()}", values, both, 0
            )[0]
        if not known:
            rescaled = int(np.count_nonzero(steps > plain))
            made = (integers, steps, none, axis)
            self._enter(conv.use, conv.name, kernel, made, scale, ranges[conv.input], rescaled)
            self._note_correction(conv)

    def _stored(self, conv: Convolution) -> None:
        """Keep the kernel at 8 bits and compute in float32."""
        kernel = self._weights.values(conv.use.constant)
        steps, none = i8.scale_of(*i8.extremes(kernel, conv.axis), i8.INT8)
        integers = i8.quantize(kernel, steps, none, i8.INT8, conv.axis)
        error = i8.dequantize(integers, steps, none, conv.axis) - kernel
        known = conv.use.constant.replaced
        scope, index = conv.use.scope, conv.use.index
        conv.node.input[1], _ = self._writer.weight(
            scope, index, conv.use.constant, "kernel", integers, steps, conv.axis
        )
        if conv.bias is not None and conv.input in self._means:
            bias = self._corrected_bias(conv, error).astype(np.float32)
            conv.node.input[2] = self._writer.floats(scope, conv.bias.constant, f"bias {conv.name}", bias)
        if not known:
            power, noise = (float(np.square(each, dtype=np.float64).sum()) for each in (kernel, error))
            self._ledger.enter(
                conv.use.constant,
                op=conv.node.op_type,
                node=conv.name,
                method="stored int8",
                sizes=(self._weights.nbytes(conv.use.constant), integers.nbytes + steps.nbytes),
                snr=i8.snr_db(power, noise),
                scales=steps,
            )
            self._note_correction(conv)

    def _corrected_bias(self, conv: Convolution, error: Array) -> Array:
        """The bias, less what the kernel's error adds to the mean of each output, where that is known."""
        assert conv.bias is not None
        bias: Array = self._weights.values(conv.bias.constant).astype(np.float64)
        return bias - mean_error(error, self._means[conv.input]) if conv.input in self._means else bias

    def _note_correction(self, conv: Convolution) -> None:
        if self._params.correct_means:
            corrected = conv.bias is not None and conv.input in self._means and conv.axis == 0
            self._ledger.layers[-1]["mean_corrected"] = corrected

    @staticmethod
    def _any_pair(kernel: Array, axis: int) -> Array:
        """Scales at which no two weights of a channel, in whatever order, exceed what 16 bits hold."""
        rows = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
        reach = np.zeros(len(rows), np.float32)
        for side in (rows, -rows):
            top = -np.partition(-side, 1, axis=1)[:, :2] if rows.shape[1] > 1 else side
            reach = np.maximum(reach, np.maximum(top, 0).sum(1))
        # Rounding may add half a step to each of the two.
        return np.asarray(reach / (i8.PAIR_LIMIT - 1), np.float32)

    def _output(self, conv: Convolution, ranges: Ranges) -> None:
        """Quantize what a Conv gives, for all who read it."""
        if conv.node.op_type != "Conv" or conv.stored:
            return
        scope = conv.use.scope
        scale, zero = self._grid(ranges[conv.output])
        self._writer.result(scope, conv.output, self._readers.get((scope, conv.output), set()), scale, zero)

    def _enter(
        self,
        use: Use,
        name: str,
        values: Array,
        made: tuple[Array, Array, Array, int],
        scale: Array,
        r: Range,
        rescaled: int,
    ) -> None:
        integers, steps, none, axis = made
        error = i8.dequantize(integers, steps, none, axis) - values
        self._ledger.enter(
            use.constant,
            op=use.node.op_type,
            node=name,
            method=f"static int8, {self._params.method}",
            sizes=(self._weights.nbytes(use.constant), integers.nbytes + steps.nbytes),
            snr=i8.snr_db(
                float(np.square(values, dtype=np.float64).sum()), float(np.square(error, dtype=np.float64).sum())
            ),
            scales=np.concatenate([np.atleast_1d(scale), steps]),
        )
        self._ledger.layers[-1].update({"input_low": r.low, "input_high": r.high, "columns_rescaled": rescaled})

"""Rewrite a graph so that weights are stored at fewer bits: the nodes of `hubpub.transform.weight_only`."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubpub.errors import StepError
from hubpub.transform import _weight_graph as graphs
from hubpub.transform._ledger import Ledger
from hubpub.transform._weight_graph import (
    BFLOAT16,
    FLOAT,
    FLOAT16,
    MICROSOFT,
    RECURRENT,
    Constant,
    Use,
    attribute,
    has_input,
)
from hubpub.transform._weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from hubpub.transform._blocks import Blocks
    from hubpub.transform.weight_only import WeightOnly

    Array = np.ndarray[Any, np.dtype[Any]]

_UINT8, _INT8, _UINT4, _INT4 = 2, 3, 21, 22
_POSITIONS = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,), "Gather": (0,)} | dict.fromkeys(
    RECURRENT, (1, 2)
)
_BIAS_FROM = dict.fromkeys(("Gemm", "Conv", "ConvTranspose"), 2) | dict.fromkeys(RECURRENT, 3)
"""The input from which on an operation takes biases and states, which are added and little."""
_MAX_HALF = 65504.0
_PASSES_ON = ("Identity", "Transpose")
_BLOCKS_FROM = 21
"""The opset from which DequantizeLinear has blocks and 4 bits."""
_AXIS_FROM = 13
"""The opset from which it has an axis."""


@dataclass(frozen=True)
class View:
    """A weight as a tensor of which one axis counts the output channels and another is summed over.

    ``dims`` is a reshape of the weight's own; where it differs, a Reshape follows.
    """

    dims: tuple[int, ...]
    channel: int
    summed: int


class Storing:
    """One run over a model, of all constants or of those named ``only``."""

    def __init__(self, weights: Weights, params: WeightOnly, only: Set[str] | None = None) -> None:
        self._weights = weights
        self._params = params
        self._only = only
        self._ledger = Ledger()
        self._uses: dict[Constant, list[Use]] = {}

    def run(self) -> Ledger:
        """Rewrite what can be rewritten.

        Raises:
            StepError: the opset lacks what is asked for.
        """
        for use in self._weights.uses():
            self._uses.setdefault(use.constant, []).append(use)
        for constant in list(self._weights.constants()):
            if constant.tensor.data_type not in (FLOAT, FLOAT16, BFLOAT16):
                continue
            if constant.size < self._params.min_elements or not (self._only is None or constant.name in self._only):
                continue
            if reason := self._why_not(constant):
                self._ledger.skip(constant, reason)
            elif self._params.bits == 16:
                self._halve(constant)
            elif self._params.form == "matmulnbits" and (rows := self._packable(constant)):
                self._pack(constant, rows == "rows")
            else:
                self._dequantize(constant)
        return self._ledger

    # ------------------------------------------------------------------------------------------------- choosing

    def _real(self, constant: Constant) -> list[Use]:
        """Uses but for the nodes that only pass it on to others."""
        uses = self._uses.get(constant, [])
        ends = [use for use in uses if use.node.op_type not in _PASSES_ON]
        return ends or uses

    def _kind(self, use: Use) -> str:
        if use.position >= _BIAS_FROM.get(use.node.op_type, 1 << 30):
            return "bias"
        known = use.position in _POSITIONS.get(use.node.op_type, ())
        if use.node.op_type == "Gather":
            known = known and attribute(use.node, "axis", 0) == 0 and not use.transposed
        return use.node.op_type if known else "other"

    def _why_not(self, constant: Constant) -> str:
        if constant.overridable:
            return "an input of the model too, so a caller may give another"
        uses = self._real(constant)
        if not uses:
            return f"used by nothing that is known ({', '.join(self._weights.users(constant))})"
        if domains := self._weights.domains(constant):
            return f"used by an operation of {domains[0]}"
        names = [constant.name, *(use.node.name for use in uses)]
        if glob := graphs.excluded(names, self._params.exclude):
            return f"excluded by {glob!r}"
        kinds = {self._kind(use) for use in uses}
        if "bias" in kinds and self._params.bits != 16:
            return "a bias"
        if others := sorted(kinds - {"bias", *self._params.op_types}):
            return f"of a kind not asked for ({', '.join(others)})"
        if sum(dim > 1 for dim in constant.dims) < 2 and self._params.bits != 16:
            return "a vector"
        if constant.tensor.data_type != FLOAT and self._params.bits == 16:
            return "of 16 bits already"
        reach = self._weights.reach(constant)
        if not math.isfinite(reach):
            return "not finite (NaN or infinity)"
        if self._params.bits == 16 and reach > _MAX_HALF:
            return f"beyond {_MAX_HALF:.0f}, the largest that float16 holds"
        return ""

    def _view(self, constant: Constant) -> View:
        """How a weight's scales lie, by its first use."""
        dims, rank = constant.dims, len(constant.dims)
        use = self._real(constant)[0]
        kind = self._kind(use)
        if kind in ("MatMul", "Gemm") and rank >= 2:
            left = use.position == 0
            named = attribute(use.node, "transA" if left else "transB", 0) if kind == "Gemm" else 0
            turned = use.transposed != bool(named)
            channel, summed = (rank - 2, rank - 1) if left != turned else (rank - 1, rank - 2)
            return View(dims, channel, summed)
        if kind in RECURRENT:
            return View((dims[0] * dims[1], dims[2]), 0, 1)
        if kind == "ConvTranspose":
            if self._params.block_size:
                return View((dims[0], constant.size // dims[0]), 0, 1)
            return View(dims, 1, 0)
        lead = next(i for i, dim in enumerate(dims) if dim > 1)
        if lead == 0 and (rank == 2 or not self._params.block_size):
            return View(dims, 0, rank - 1)
        rows = 1
        for dim in dims[: lead + 1]:
            rows *= dim
        return View((rows, constant.size // rows), 0, 1)

    # ------------------------------------------------------------------------------------------------- 16 bits

    def _halve(self, constant: Constant) -> None:
        import numpy as np

        from hubpub.transform import _int8_values as ints

        values = self._weights.values(constant)
        half = values.astype(np.float16)
        error = float(np.square(half.astype(np.float32) - values, dtype=np.float64).sum())
        signal = float(np.square(values, dtype=np.float64).sum())
        self._enter(constant, "float16", half.nbytes, ints.snr_db(signal, error), half[:0])
        name = self._weights.add(constant.scope, f"{constant.name}_fp16", half)
        tables = [use for use in self._real(constant) if self._kind(use) == "Gather"]
        for use in tables:
            rows = self._weights.new_name(f"{use.node.output[0]}_fp16")
            use.scope.instead[use.index] = [
                self._weights.node("Gather", [name, use.node.input[1]], [rows], self._weights.replace(use), axis=0),
                self._weights.node("Cast", [rows], [use.node.output[0]], f"{use.node.output[0]}_cast", to=FLOAT),
            ]
        self._finish(
            constant, tables, [self._weights.node("Cast", [name], [constant.name], f"{constant.name}_cast", to=FLOAT)]
        )

    # -------------------------------------------------------------------------------------------- DequantizeLinear

    def _dequantize(self, constant: Constant) -> None:
        """Integers, scales and a DequantizeLinear that gives the weight its name; tables are looked up as integers."""
        import numpy as np

        params, bits, block = self._params, self._params.bits, self._params.block_size
        if params.form == "matmulnbits":
            block = None if self._weights.opset < _BLOCKS_FROM else (block or 32 if bits == 4 else None)
            if bits == 4 and self._weights.opset < _BLOCKS_FROM:
                self._ledger.skip(constant, f"no MatMulNBits, and 4 bits otherwise take opset {_BLOCKS_FROM}")
                return
        if (block or bits == 4) and self._weights.opset < _BLOCKS_FROM:
            raise StepError(
                f"has opset {self._weights.opset}, and {'blocks' if block else '4 bits'} take opset {_BLOCKS_FROM} "
                "with form: dequantize",
                where=self._weights.where,
                fix="set form: matmulnbits, or bits: 8 without block_size, or export it with opset 21",
            )
        view = self._view(constant)
        tensor = self._weights.values(constant).reshape(view.dims)
        summed = view.summed if block else None
        lead = np.moveaxis(tensor, view.channel, 0) if summed is None else np.moveaxis(tensor, summed, -1)
        rows = lead.reshape(lead.shape[0], -1) if summed is None else lead.reshape(-1, lead.shape[-1])
        blocks = self._blocks(rows, block)
        flat = blocks.integers.reshape(len(rows), -1)[:, : rows.shape[1]].reshape(lead.shape)
        if summed is None:
            integers, scales, zeros = np.moveaxis(flat, 0, view.channel), blocks.scales[:, 0], blocks.zeros[:, 0]
        else:
            integers = np.moveaxis(flat, -1, summed)
            shape = (*lead.shape[:-1], blocks.scales.shape[1])
            scales = np.moveaxis(blocks.scales.reshape(shape), -1, summed)
            zeros = np.moveaxis(blocks.zeros.reshape(shape), -1, summed)
        unit = f"blocks of {block}" if block else "per channel"
        nbytes = -(-tensor.size * bits // 8) + scales.nbytes + (0 if params.symmetric else -(-zeros.size * bits // 8))
        self._enter(constant, f"DequantizeLinear {bits} bits, {unit}", nbytes, _snr(blocks), scales)
        quantized, scale, zero = self._store(constant, integers, scales, zeros)
        tables = []
        if bits == 8 and not block and view.channel == 0 and view.dims == constant.dims:
            tables = [use for use in self._real(constant) if self._kind(use) == "Gather"]
        for use in tables:
            self._look_up(use, quantized, scale, zero)
        axis = view.summed if block else view.channel
        self._finish(constant, tables, self._back(constant, view, (quantized, scale, zero), axis, block))

    def _blocks(self, rows: Array, block: int | None) -> Blocks:
        from hubpub.transform._blocks import quantize_blocks

        params = self._params
        return quantize_blocks(rows, params.bits, block, symmetric=params.symmetric, search=params.clip == "mse")

    def _store(self, constant: Constant, integers: Array, scales: Array, zeros: Array) -> tuple[str, str, str]:
        """Names of the integers, scales and zero points (none if symmetric), as DequantizeLinear takes them."""
        from hubpub.transform import _blocks

        bits, symmetric = self._params.bits, self._params.symmetric
        element = {(8, True): _INT8, (8, False): _UINT8, (4, True): _INT4, (4, False): _UINT4}[bits, symmetric]
        if element in (_INT4, _UINT4):
            self._weights.file.model.ir_version = max(self._weights.file.model.ir_version, 10)

        def add(suffix: str, values: Array) -> str:
            stored = _blocks.to_signed(values, bits) & ((1 << bits) - 1) if symmetric else values
            packed = _blocks.pack(stored.reshape(-1), bits)
            return self._weights.add(constant.scope, f"{constant.name}_{suffix}", packed, element, values.shape)

        quantized = add("quantized", integers)
        scale = self._weights.add(constant.scope, f"{constant.name}_scale", scales)
        return quantized, scale, "" if symmetric else add("zero_point", zeros)

    def _back(
        self, constant: Constant, view: View, names: tuple[str, str, str], axis: int, block: int | None
    ) -> list[onnx.NodeProto]:
        """Nodes that make the weight under its own name."""
        import numpy as np

        quantized, scale, zero = names
        node, last, steps = self._weights.node, quantized, []

        def step(op: str, inputs: list[str], **attributes: Any) -> None:
            nonlocal last
            last = self._weights.new_name(f"{constant.name}_{op.lower()}")
            steps.append(node(op, inputs, [last], last, **attributes))

        if self._weights.opset >= _AXIS_FROM:
            more = {"block_size": block} if block else {}
            step("DequantizeLinear", [quantized, scale, *([zero] if zero else [])], axis=axis, **more)
        else:  # no axis yet
            shape = [1] * len(view.dims)
            shape[axis] = -1
            shape_name = self._weights.add(constant.scope, f"{constant.name}_scale_shape", np.array(shape, np.int64))
            step("Cast", [quantized], to=FLOAT)
            floats = last
            if zero:
                step("Reshape", [zero, shape_name])
                step("Cast", [last], to=FLOAT)
                step("Sub", [floats, last])
                floats = last
            step("Reshape", [scale, shape_name])
            step("Mul", [floats, last])
        if view.dims != constant.dims:
            dims = self._weights.add(constant.scope, f"{constant.name}_shape", np.array(constant.dims, np.int64))
            step("Reshape", [last, dims])
        if constant.tensor.data_type != FLOAT:
            step("Cast", [last], to=constant.tensor.data_type)
        steps[-1].output[0] = constant.name
        return steps

    def _look_up(self, use: Use, quantized: str, scale: str, zero: str) -> None:
        """Look up rows of integers, and make floats of these only."""
        import numpy as np

        output, constant, node = use.node.output[0], use.constant, self._weights.node
        key, stem = self._weights.new_name(f"{constant.name}_rows"), self._weights.replace(use)
        shape = np.array([-1, *[1] * (len(constant.dims) - 1)], np.int64)
        shape_name = self._weights.add(constant.scope, f"{key}_shape", shape)
        nodes: list[onnx.NodeProto] = []

        def rows_of(what: str, suffix: str, *, cast: bool, per_row: bool) -> str:
            if per_row:
                turned = self._weights.new_name(f"{what}_rows")
                constant.scope.head.append(node("Reshape", [what, shape_name], [turned], turned))
                what = turned
            name = self._weights.new_name(f"{output}_{suffix}")
            nodes.append(node("Gather", [what, use.node.input[1]], [name], name, axis=0))
            if cast:
                nodes.append(node("Cast", [name], [self._weights.new_name(f"{name}_float")], f"{name}_cast", to=FLOAT))
            return str(nodes[-1].output[0])

        last = rows_of(quantized, "rows", cast=True, per_row=False)
        if zero:
            zeros = rows_of(zero, "zeros", cast=True, per_row=True)
            nodes.append(node("Sub", [last, zeros], [self._weights.new_name(f"{output}_steps")], f"{output}_sub"))
            last = nodes[-1].output[0]
        scales = rows_of(scale, "scales", cast=False, per_row=True)
        nodes.append(node("Mul", [last, scales], [output], stem))
        if constant.tensor.data_type != FLOAT:
            nodes[-1].output[0] = self._weights.new_name(f"{output}_float32")
            to = constant.tensor.data_type
            nodes.append(node("Cast", [nodes[-1].output[0]], [output], f"{output}_cast", to=to))
        use.scope.instead[use.index] = nodes

    def _finish(self, constant: Constant, rewritten: list[Use], nodes: list[onnx.NodeProto]) -> None:
        """Take a constant out, and put what makes it in its place if anybody still wants it whole."""
        whole = not self._weights.all_in(constant, {(use.scope, use.index, use.position) for use in rewritten})
        self._weights.take_out(constant, nodes if whole else [])

    # ------------------------------------------------------------------------------------------------- MatMulNBits

    def _packable(self, constant: Constant) -> str:
        """How onnxruntime's packed operations can take a weight: as it lies (rows), turned (columns), or not at all."""
        if len(constant.dims) != 2:
            return ""
        lies = set()
        for use in self._real(constant):
            kind, node = self._kind(use), use.node
            if kind == "Gather":
                lies.add("rows")
                continue
            if kind not in ("MatMul", "Gemm") or use.position != 1 or self._weights.use(use.scope, use.index, 0):
                return ""
            if kind == "Gemm":
                beta = attribute(node, "beta", 1.0) if has_input(node, 2) else 1.0
                if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1 or beta != 1:
                    return ""
            turned = use.transposed != bool(kind == "Gemm" and attribute(node, "transB", 0))
            lies.add("rows" if turned else "columns")
        kinds = {self._kind(use) == "Gather" for use in self._real(constant)}
        if len(kinds) > 1 and constant.dims[1] % (self._params.block_size or 32):
            return ""  # a table ends where its rows end, a product's weight at a whole block
        taken = {(use.scope, use.index, use.position) for use in self._real(constant)}
        return lies.pop() if len(lies) == 1 and self._weights.all_in(constant, taken) else ""

    def _pack(self, constant: Constant, as_it_lies: bool) -> None:
        import numpy as np

        from hubpub.transform import _blocks

        params, bits, add = self._params, self._params.bits, self._weights.add
        block = params.block_size or 32
        values = self._weights.values(constant)
        rows = values if as_it_lies else np.ascontiguousarray(values.T)
        count, columns = rows.shape
        blocks = self._blocks(rows, block)
        packed = _blocks.pack(blocks.integers, bits)
        zeros = None if params.symmetric else _blocks.pack(blocks.zeros, bits)
        scales = blocks.scales
        if constant.tensor.data_type == FLOAT16:
            scales = scales.astype(np.float16)
        elif constant.tensor.data_type == BFLOAT16:
            import ml_dtypes

            scales = scales.astype(ml_dtypes.bfloat16)
        nbytes = packed.nbytes + scales.nbytes + (zeros.nbytes if zeros is not None else 0)
        self._enter(constant, f"MatMulNBits {bits} bits, blocks of {block}", nbytes, _snr(blocks), scales)
        scope, uses = constant.scope, self._real(constant)
        tables = [use for use in uses if self._kind(use) == "Gather"]
        lookup = weight = ""
        if tables:
            flat = packed.reshape(count, -1)[:, : -(-columns * bits // 8)]
            lookup = add(scope, f"{constant.name}_rows", flat)
        if not tables:
            weight = add(scope, f"{constant.name}_packed", packed)
        elif len(tables) < len(uses):
            weight = self._weights.new_name(f"{constant.name}_packed")
            shape = add(scope, f"{constant.name}_packed_shape", np.array(packed.shape, np.int64))
            scope.head.append(self._weights.node("Reshape", [lookup, shape], [weight], weight))
        scale = add(scope, f"{constant.name}_scale", scales)
        zero = add(scope, f"{constant.name}_zero_point", zeros) if zeros is not None else ""
        for use in uses:
            if use in tables:
                attributes = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
                self._ours(use, "GatherBlockQuantized", [lookup, use.node.input[1], scale, zero], attributes)
            else:
                attributes = {"K": columns, "N": count, "bits": bits, "block_size": block}
                if params.activations == "int8":
                    attributes["accuracy_level"] = 4
                self._ours(use, "MatMulNBits", [use.node.input[0], weight, scale, zero], attributes)
        constant.replaced = True
        graphs.needs_domain(self._weights.file.model, MICROSOFT, 1)

    def _ours(self, use: Use, op: str, inputs: list[str], attributes: dict[str, int]) -> None:
        """Put one of onnxruntime's operations in the place of a node, and the bias of a Gemm behind it."""
        while not inputs[-1]:
            inputs.pop()
        output, stem = use.node.output[0], self._weights.replace(use)
        bias = use.node.input[2] if use.node.op_type == "Gemm" and has_input(use.node, 2) else ""
        made = self._weights.new_name(f"{output}_product") if bias else output
        nodes = [self._weights.node(op, inputs, [made], stem, domain=MICROSOFT, **attributes)]
        self._weights.declare(use.scope, [made], use.constant.tensor.data_type)
        if bias:
            nodes.append(self._weights.node("Add", [made, bias], [output], f"{stem}_bias"))
        use.scope.instead[use.index] = nodes

    # ---------------------------------------------------------------------------------------------------- shared

    def _enter(self, constant: Constant, method: str, nbytes: int, snr: float, scales: Array) -> None:
        use = self._real(constant)[0]
        sizes = (self._weights.nbytes(constant), nbytes)
        self._ledger.enter(
            constant, op=self._kind(use), node=use.node.name, method=method, sizes=sizes, snr=snr, scales=scales
        )


def _snr(blocks: Blocks) -> float:
    from hubpub.transform._int8_values import snr_db

    return snr_db(blocks.signal, blocks.error)

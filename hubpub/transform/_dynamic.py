"""Rewrite a graph to dynamic int8: the nodes of `hubpub.transform.dynamic_int8`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubpub.transform import _weight_graph as graphs
from hubpub.transform._ledger import Ledger
from hubpub.transform._weight_graph import FLOAT, MICROSOFT, Constant, Reference, Scope, Use, attribute, has_input
from hubpub.transform._weights import Weights

if TYPE_CHECKING:
    import numpy as np

    from hubpub.transform.dynamic_int8 import DynamicInt8

    Array = np.ndarray[Any, np.dtype[Any]]

_VALUES = 1 << 20  # of a weight, in columns, that are looked at in one go
_POSITIONS = {"MatMul": (1,), "Gemm": (1,), "Conv": (1,), "LSTM": (1, 2), "Gather": (0,)}


@dataclass(frozen=True)
class Stored:
    """The names of a weight's integers, scales and zero points, in its owner's graph."""

    values: str
    scale: str
    zero: str


class Dynamic:
    """One run over a model."""

    def __init__(self, weights: Weights, params: DynamicInt8) -> None:
        self._weights = weights
        self._params = params
        self._ledger = Ledger()
        self._tables: set[Constant] = set()
        """Constants that rows are looked up in, stored as they lie."""
        self._factors: set[Constant] = set()
        """Constants that something is multiplied with."""
        self._stored: dict[tuple[Constant, str], Stored] = {}
        self._made: dict[tuple[Scope, str], tuple[str, ...]] = {}
        """What was computed from a value or from a stored weight, so that it is computed once."""

    def run(self) -> Ledger:
        """Rewrite what can be rewritten."""
        if "LSTM" in self._params.op_types:
            self._weights.fold_recurrent()
        wanted = {(use.scope, use.index, use.position): use for use in self._weights.uses() if self._want(use)}
        self._drop_halves(wanted)
        self._factors = {use.constant for use in wanted.values() if use.node.op_type != "Gather"}
        for use in wanted.values():
            op = use.node.op_type
            if op in ("MatMul", "Gemm"):
                self._product(use)
            elif op == "Conv":
                self._conv(use)
            elif op == "Gather":
                self._gather(use)
            elif use.position == 1:
                self._lstm(use, wanted[use.scope, use.index, 2])
        return self._ledger

    # ------------------------------------------------------------------------------------------------- choosing

    def _want(self, use: Use) -> bool:
        node, constant = use.node, use.constant
        if node.op_type in ("MatMul", "Gemm") and use.position == 0:
            self._ledger.skip(constant, f"on the left of a {node.op_type}")
        if node.op_type not in self._params.op_types or use.position not in _POSITIONS[node.op_type]:
            return False
        if constant.size < self._params.min_elements:
            return False
        reason = self._why_not(use)
        if reason:
            self._ledger.skip(constant, reason)
        return not reason

    def _why_not(self, use: Use) -> str:
        node, constant = use.node, use.constant
        if constant.overridable:
            return "an input of the model too, so a caller may give another"
        if constant.tensor.data_type != FLOAT:
            return "not float32, which dynamic quantization starts from"
        if glob := graphs.excluded((node.name, constant.name), self._params.exclude):
            return f"excluded by {glob!r}"
        reason = self._why_not_form(use)
        return reason or ("" if self._weights.finite(constant) else "not finite (NaN or infinity)")

    def _why_not_form(self, use: Use) -> str:
        node, rank = use.node, len(use.constant.dims)
        if node.op_type in ("MatMul", "Gemm"):
            if rank != 2:
                return f"of rank {rank}, not one matrix"
            if self._weights.use(use.scope, use.index, 0):
                return "in a product of two constants"
            factors = attribute(node, "alpha", 1.0) != 1 or (has_input(node, 2) and attribute(node, "beta", 1.0) != 1)
            if node.op_type == "Gemm" and (attribute(node, "transA", 0) or factors):
                return "of a Gemm with transA, alpha or beta"
            return ""
        if use.transposed:
            return f"transposed for a {node.op_type}"
        if node.op_type == "LSTM" and attribute(node, "layout", 0):
            return "of an LSTM with layout 1, which DynamicQuantizeLSTM does not have"
        if node.op_type == "Gather" and (rank < 2 or attribute(node, "axis", 0) not in (0, -rank)):
            return "looked up along another axis than the first"
        if node.op_type == "Conv" and has_input(node, 2):
            bias = self._weights.use(use.scope, use.index, 2)
            if bias is None or bias.constant.overridable:
                return "of a Conv with a computed bias, or one that a caller may give"
        return ""

    def _drop_halves(self, wanted: dict[Reference, Use]) -> None:
        """Leave recurrences of which one matrix cannot be quantized, and tables that somebody needs as floats."""
        for reference, use in list(wanted.items()):
            if use.node.op_type == "LSTM" and (use.scope, use.index, 3 - use.position) not in wanted:
                self._ledger.skip(use.constant, "of an LSTM whose other matrix is left as it is")
                del wanted[reference]
        for reference, use in list(wanted.items()):
            if use.node.op_type == "Gather":
                if self._weights.all_in(use.constant, wanted.keys()):
                    self._tables.add(use.constant)
                else:
                    self._ledger.skip(use.constant, "a table that others use as it is")
                    del wanted[reference]

    # ----------------------------------------------------------------------------------------------- quantizing

    def _quantize(self, use: Use, columns: Array, method: str) -> tuple[Array, Array]:
        """Integers of matrices ``[…, K, N]`` whose columns have a scale each, and the scales ``[…, N]``."""
        import numpy as np

        from hubpub.transform import _int8_values as ints

        stack = columns.reshape(-1, *columns.shape[-2:])
        integers = np.empty(stack.shape, np.int8)
        scales = np.empty((len(stack), stack.shape[2]), np.float32)
        error = signal = 0.0
        for matrix, out, scale_out in zip(stack, integers, scales, strict=True):
            step = max(_VALUES // max(len(matrix), 1), 1)
            for start in range(0, matrix.shape[1], step):
                some = slice(start, start + step)
                part = np.ascontiguousarray(matrix[:, some])
                scale, zero = self._scale(part, use.constant in self._factors)
                out[:, some] = ints.quantize(part, scale, zero, ints.INT8, 1)
                scale_out[some] = scale
                error += float(ints.noise(part, scale, zero, ints.INT8, 1).sum())
                signal += float(np.square(part, dtype=np.float64).sum())
        self._ledger.enter(
            use.constant,
            op=use.node.op_type,
            node=use.node.name,
            method=method,
            sizes=(self._weights.nbytes(use.constant), integers.nbytes + scales.nbytes),
            snr=ints.snr_db(signal, error),
            scales=scales,
        )
        return integers.reshape(columns.shape), scales.reshape(*columns.shape[:-2], columns.shape[-1])

    def _scale(self, columns: Array, multiplied: bool) -> tuple[Array, Array]:
        from hubpub.transform import _int8_values as ints

        scale, zero = ints.scale_of(*ints.extremes(columns, 1), ints.INT8)
        if self._params.clip == "mse":
            scale = ints.best_clip(columns, ints.INT8, 1)
        if self._params.target == "x86" and multiplied:
            scale = ints.pair_safe_scale(columns, scale)
        return scale, zero

    def _store(self, use: Use, form: str, integers: Array, scale: Array, zero: Array | None) -> Stored:
        constant, add = use.constant, self._weights.add
        use.constant.replaced = True
        stored = self._stored[constant, form] = Stored(
            add(constant.scope, f"{constant.name}_quantized", integers),
            add(constant.scope, f"{constant.name}_scale", scale),
            "" if zero is None else add(constant.scope, f"{constant.name}_zero_point", zero),
        )
        return stored

    def _matrix(self, use: Use, transposed: bool) -> Stored:
        """A weight as int8 ``[K, N]`` with a scale per column; a table, whose rows these are, as ``[N, K]``."""
        import numpy as np

        form = "rows" if transposed else "columns"
        if (use.constant, form) not in self._stored:
            values = self._weights.values(use.constant)
            integers, scale = self._quantize(use, values.T if transposed else values, "int8 per column")
            as_it_lies = transposed and use.constant in self._tables
            zero = np.zeros((), np.int8)
            self._store(use, form, integers.T if as_it_lies else integers, scale, zero)
        stored = self._stored[use.constant, form]
        if transposed and use.constant in self._tables:
            return Stored(self._turned(use.constant.scope, stored.values), stored.scale, stored.zero)
        return stored

    # ---------------------------------------------------------------------------------------------------- nodes

    def _turned(self, scope: Scope, name: str) -> str:
        if (scope, name) not in self._made:
            turned = self._weights.new_name(f"{name}_transposed")
            scope.head.append(self._weights.node("Transpose", [name], [turned], turned, perm=[1, 0]))
            self._made[scope, name] = (turned,)
        return self._made[scope, name][0]

    def _activation(self, use: Use) -> tuple[str, ...]:
        """Names of the first input's integers, scale and zero point."""
        name, scope = use.node.input[0], use.scope
        if (scope, name) not in self._made:
            names = tuple(self._weights.new_name(f"{name}_{stem}") for stem in ("quantized", "scale", "zero_point"))
            node = self._weights.node("DynamicQuantizeLinear", [name], [*names], f"{name}_quantize")
            scope.before.setdefault(use.index, []).append(node)
            self._made[scope, name] = names
        return self._made[scope, name]

    def _scaled(self, use: Use, op: str, stored: Stored, bias: str, **attributes: Any) -> None:
        """Put an integer product, cast and multiplied with both scales, in the place of a node."""
        output, stem = use.node.output[0], self._weights.replace(use)
        values, scale, zero = self._activation(use)
        sums, floats, both = (self._weights.new_name(f"{output}_{s}") for s in ("integer", "float", "scales"))
        product = self._weights.new_name(f"{output}_product") if bias else output
        inputs = [values, stored.values, zero, stored.zero]
        nodes = [
            self._weights.node(op, inputs, [sums], stem, **attributes),
            self._weights.node("Cast", [sums], [floats], f"{stem}_cast", to=FLOAT),
            self._weights.node("Mul", [scale, stored.scale], [both], f"{stem}_scales"),
            self._weights.node("Mul", [floats, both], [product], f"{stem}_scale"),
        ]
        if bias:
            nodes.append(self._weights.node("Add", [product, bias], [output], f"{stem}_bias"))
        use.scope.instead[use.index] = nodes

    def _product(self, use: Use) -> None:
        gemm = use.node.op_type == "Gemm"
        transposed = use.transposed != bool(gemm and attribute(use.node, "transB", 0))
        bias = use.node.input[2] if gemm and has_input(use.node, 2) else ""
        self._scaled(use, "MatMulInteger", self._matrix(use, transposed), bias)

    def _conv(self, use: Use) -> None:
        import numpy as np
        from onnx import helper

        if (use.constant, "conv") not in self._stored:
            values = self._weights.values(use.constant)
            channels = values.shape[0]
            integers, scale = self._quantize(use, values.reshape(channels, -1).T, "int8 per output channel")
            shape = (channels, *[1] * (values.ndim - 2))
            self._store(use, "conv", integers.T.reshape(values.shape), scale.reshape(shape), np.zeros((), np.int8))
        bias = self._weights.use(use.scope, use.index, 2)
        if bias and (bias.constant.scope, bias.constant.name) not in self._made:
            shape = (-1, *[1] * (len(use.constant.dims) - 2))
            values = self._weights.values(bias.constant).reshape(shape)
            name = self._weights.add(bias.constant.scope, f"{bias.constant.name}_shaped", values)
            self._made[bias.constant.scope, bias.constant.name] = (name,)
            bias.constant.replaced = True
        shaped = self._made[bias.constant.scope, bias.constant.name][0] if bias else ""
        attributes = {a.name: helper.get_attribute_value(a) for a in use.node.attribute}
        self._scaled(use, "ConvInteger", self._stored[use.constant, "conv"], shaped, **attributes)

    def _gather(self, use: Use) -> None:
        """Look up rows of int8 and their scales; the weight becomes floats only there."""
        import numpy as np

        constant, node = use.constant, use.node
        flat = (constant.dims[0], constant.size // constant.dims[0])
        if (constant, "rows") not in self._stored:
            values = self._weights.values(constant).reshape(flat)
            integers, scale = self._quantize(use, values.T, "int8 per row")
            zero = np.zeros((), np.int8) if constant in self._factors else None
            self._store(use, "rows", integers.T.reshape(constant.dims), scale, zero)
        stored = self._stored[constant, "rows"]
        key = (constant.scope, f"{stored.scale} as rows")
        if key not in self._made:
            name = self._weights.new_name(f"{stored.scale}_rows")
            shape = np.array([constant.dims[0], *[1] * (len(constant.dims) - 1)], np.int64)
            shape_name = self._weights.add(constant.scope, f"{stored.scale}_shape", shape)
            constant.scope.head.append(self._weights.node("Reshape", [stored.scale, shape_name], [name], name))
            self._made[key] = (name,)
        output, stem = node.output[0], self._weights.replace(use)
        rows, floats, scales = (self._weights.new_name(f"{output}_{s}") for s in ("rows", "float", "scales"))
        use.scope.instead[use.index] = [
            self._weights.node("Gather", [stored.values, node.input[1]], [rows], stem, axis=0),
            self._weights.node("Gather", [self._made[key][0], node.input[1]], [scales], f"{stem}_scales", axis=0),
            self._weights.node("Cast", [rows], [floats], f"{stem}_cast", to=FLOAT),
            self._weights.node("Mul", [floats, scales], [output], f"{stem}_scale"),
        ]

    def _lstm(self, w: Use, r: Use) -> None:
        import numpy as np
        from onnx import helper

        names = []
        for use in (w, r):
            if (use.constant, "lstm") not in self._stored:
                values = self._weights.values(use.constant)
                integers, scale = self._quantize(use, values.swapaxes(1, 2), "int8 per gate and unit")
                self._store(use, "lstm", integers, scale, np.zeros(scale.shape, np.int8))
            names.append(self._stored[use.constant, "lstm"])
        node = w.node
        between = [node.input[i] if has_input(node, i) else "" for i in range(3, 8)]
        inputs = [node.input[0], names[0].values, names[1].values, *between]
        inputs += [name for stored in names for name in (stored.scale, stored.zero)]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "layout"}
        made = self._weights.node(
            "DynamicQuantizeLSTM", inputs, list(node.output), self._weights.replace(w), domain=MICROSOFT, **attributes
        )
        w.scope.instead[w.index] = [made]
        self._weights.declare(w.scope, node.output, FLOAT)
        graphs.needs_domain(self._weights.file.model, MICROSOFT, 1)

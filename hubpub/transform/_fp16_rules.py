"""Which operations stay float32, and why.

The rules, in the order in which they are asked:

*named* — the recipe names the node or its operation.
*custom* — it is not of ONNX's own domain, or a type is not known. Nothing is guessed.
*loop* — it is in the body of a Loop or Scan, where errors pile up, or is one.
*type* — ONNX defines it for no float16 (Range, Celu, NonMaxSuppression, DequantizeLinear before opset 19).
*sum* — it adds up or multiplies any number of values (ReduceSum, CumSum, ReduceL2, STFT, LRN …), past 65504 soon.
*state* — Bernoulli, RandomNormal and their like, quantization: what they give depends on the type.
*count* — float16 cannot count past 2048. A value computed from integers and constants alone (a Cast of a length or
  of a Shape, a sum over a mask, and plain arithmetic on them) stays float32 until it meets data or becomes
  bounded (Sin, Sigmoid, Sqrt …); where it divides data, so does the quotient. And where a value that a count has
  gone into by plain arithmetic ends in an integer, a comparison or a Range, all of the way stays float32; so does
  the way from the model's own input to an integer or a Range. A matrix product, convolution, normalization or
  look-up ends the way: what comes of it is data.
*power* — squares and exponentials (Pow, Mul(x, x), Exp) and sums with a constant that vanishes in float16 (an
  epsilon below 2^-14), all the way over linear operations to the root, logarithm, reciprocal or divisor that they
  are for: decomposed normalization, log-mel spectra, log-sum-exp.
*island* — it only moves values from float32 to float32, or makes them from constants for float32.

Softmax, LayerNormalization and their like go to float16: their kernels compute in float32 inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import TYPE_CHECKING

from hubpub.errors import StepError, nearest
from hubpub.transform._fp16_graph import BOOL, FLOAT, INTEGERS, STRING, Kind, Op, Program, Value
from hubpub.transform._fp16_values import EXTREME, MAX_HALF, MIN_NORMAL

if TYPE_CHECKING:
    from hubpub.onnxfile import OnnxFile


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SUMS = _names(
    "ReduceSum ReduceMean ReduceSumSquare ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceProd CumSum CumProd "
    "LpPool GlobalLpPool LpNormalization LRN MeanVarianceNormalization STFT DFT MelWeightMatrix Det "
    "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"
)
_STATE = _names(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial QuantizeLinear "
    "DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul BitCast EyeLike HannWindow HammingWindow "
    "BlackmanWindow CastLike MaxRoiPool RoiAlign AffineGrid"
)
_MOVES = _names(
    "Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Split Concat Expand Tile Gather GatherElements "
    "GatherND Pad Compress ReverseSequence CenterCropPad Trilu ScatterElements ScatterND Scatter "
    "DepthToSpace SpaceToDepth"
)
_LOOKUPS = _names("Gather GatherElements GatherND Compress")
_ARITHMETIC = _names(
    "Add Sub Mul Div Mod Pow Min Max Clip Abs Neg Sign Floor Ceil Round Sqrt Reciprocal Exp Log Where Sum Mean Relu "
    "Cast ReduceMax ReduceMin ReduceSum ReduceMean ReduceProd CumSum Range If"
)
_COMPARISONS = _names("Equal Less LessOrEqual Greater GreaterOrEqual")
_MATRIX = _names("MatMul Gemm Conv ConvTranspose Einsum LSTM GRU RNN")
_BOUNDED = _names("Sin Cos Tanh Sigmoid Softmax Erf Atan Softsign HardSigmoid Sign Hardmax Sqrt")
"""float16 holds what they give, if not exactly: the root of a count, too."""

_LINEAR = _MOVES | _names(
    "Add Sub Mul Div Neg Abs Max Min Clip Relu Cast Sum Mean ReduceSum ReduceMean ReduceMax ReduceMin "
    "MatMul Gemm Conv AveragePool GlobalAveragePool"
)
_ENDS_POWER = _names("Sqrt Log Reciprocal Pow")
_KEEPS_EPSILON = _names("Add Sub Sum Max Clip")
TYPELESS = _names("Shape Size")
"""Operations that take a value of either type and give neither."""

_NEITHER = TYPELESS | _names("Constant If")
"""Operations that have no type of their own: what they give is decided value by value."""


class Rules:
    """Decides about every operation of a program (``Op.half``, ``Op.reason``) and every value (``Value.half``)."""

    def __init__(self, program: Program, ops: Set[str], nodes: Set[str], half_interface: bool, where: str) -> None:
        self._program = program
        self._file: OnnxFile = program.file
        self._ops = list(program.ops())
        self._half_interface = half_interface
        self._check_names(ops, nodes, where)
        for op in self._ops:
            op.reason = self._at_once(op, ops, nodes)
            op.half = not op.reason and bool(op.half_inputs or op.half_outputs) and op.type not in _NEITHER

    def decide(self) -> None:
        """Ask the rules, and set the types that follow."""
        self._counts()
        self._decisions()
        self._powers()
        for value in self._program.main.inputs:
            value.half = self._half_interface and value.type == FLOAT and value.decides < 2
        self._followers()
        self._islands()
        for op in self._ops:
            for index, output in enumerate(op.outputs):
                if output and op.type not in _NEITHER:
                    output.half = op.half and index in op.half_outputs

    def _check_names(self, ops: Set[str], nodes: Set[str], where: str) -> None:
        import onnx

        there = {op.node.name for op in self._ops}
        for name in sorted(nodes - there):
            raise StepError(f"has no node {name!r}, which keep_fp32_nodes names{nearest(name, there)}", where=where)
        known = {op.type for op in self._ops} | {s.name for s in onnx.defs.get_all_schemas() if not s.domain}
        for name in sorted(ops - known):
            raise StepError(f"there is no operation {name!r} (keep_fp32_ops){nearest(name, known)}", where=where)

    def _at_once(self, op: Op, ops: Set[str], nodes: Set[str]) -> str:
        has_floats = any(value and value.type == FLOAT for value in (*op.inputs, *op.outputs))
        if (op.node.name and op.node.name in nodes) or op.type in ops:
            return "named"
        if not op.known:
            return "custom"
        if op.scope.looped or (op.subgraphs and op.type != "If"):
            return "loop"
        if op.type in _SUMS:
            return "sum"
        if op.type in _STATE:
            return "state"
        if op.type not in ("If", "Cast", "Constant", *TYPELESS) and has_floats:
            return "" if op.half_inputs or op.half_outputs else "type"
        return ""

    def _keep(self, op: Op, reason: str) -> None:
        if op.half:
            op.half, op.reason = False, reason

    # ---------------------------------------------------------------------------------------------------- count

    def _counts(self) -> None:
        for value in self._program.main.inputs:
            value.tainted = int(value.floaty)
        for scope in self._program.scopes():
            for value in scope.values.values():
                if value.constant is not None and value.floaty:
                    beyond = [size for number in self._small(value) if MAX_HALF < (size := abs(number)) < float("inf")]
                    value.extreme = EXTREME in beyond
                    value.large = value.name if set(beyond) - {EXTREME} else ""
        for op in self._ops:
            kind = self._kind(op)
            floats = op.floats
            counted = [value for value in floats if value.kind == Kind.COUNT]
            through = op.type in _ARITHMETIC | _MOVES
            tainted = max((value.tainted for value in floats), default=0) if through else 0
            for index, output in enumerate(op.outputs):
                if output and output.constant is None:
                    if op.type == "If":
                        branches = [branch.outputs[index] for branch in op.subgraphs]
                        for value in branches:
                            value.results.append(output)
                        output.kind = max(value.kind for value in branches)
                        output.tainted = max(value.tainted for value in branches)
                        _carry_large(branches, output)
                    else:
                        output.kind = kind
                        output.tainted = 2 if kind == Kind.COUNT else tainted
                        if kind <= Kind.COUNT and op.type not in _BOUNDED:
                            divisor = op.inputs[1] if op.type == "Div" else None
                            _carry_large([value for value in floats if value is not divisor], output)
            for branch in op.subgraphs if op.type != "If" else ():
                for value in branch.outputs:
                    value.results.extend(output for output in op.outputs if output)
            divides = op.type == "Div" and op.inputs[1] in counted
            alone = counted and max(value.kind for value in floats) == Kind.COUNT and not self._mixes(op)
            if divides or alone:
                self._keep(op, "count")

    def _kind(self, op: Op) -> Kind:
        floats = op.floats
        rest = [value for value in op.inputs if value and not value.floaty]
        fixed = all(value.kind == Kind.CONST for value in rest)
        highest = max((value.kind for value in floats), default=Kind.CONST)
        if not op.known or op.scope.looped or op.subgraphs or highest == Kind.DATA:
            return Kind.DATA
        if not floats:
            if (fixed and op.inputs) or op.type in ("Constant", "ConstantOfShape", "EyeLike"):
                return Kind.CONST
            if op.type == "Cast" and rest[0].type != STRING:
                return Kind.MASK if rest[0].type == BOOL else Kind.COUNT
            return Kind.DATA
        if highest == Kind.CONST:
            if fixed or op.type in _MOVES - _LOOKUPS:
                return Kind.CONST
            return Kind.MASK if op.type in ("Where", "OneHot") else Kind.DATA
        if self._mixes(op):
            return Kind.DATA
        if op.type in _BOUNDED:
            return Kind.MASK
        if op.type in _SUMS | _MATRIX:
            return Kind.COUNT
        return highest if op.type in _ARITHMETIC | _MOVES else Kind.DATA

    @staticmethod
    def _mixes(op: Op) -> bool:
        """Whether learned weights go in: a constant that is a matrix, not a vector, in a product."""
        weights = (value.constant for value in op.floats if value.constant is not None)
        return op.type in _MATRIX and any(sum(size > 1 for size in weight.dims) > 1 for weight in weights)

    def _decisions(self) -> None:
        for op in reversed(self._ops):
            decides = 0
            if op.type in _ARITHMETIC | _MOVES:
                after = (result for value in op.outputs if value for result in (value, *value.results))
                decides = max((value.decides for value in after), default=0)
            if op.type == "Range" or (op.type == "Cast" and op.outputs[0] and op.outputs[0].type in INTEGERS):
                decides = 2
            elif op.type in _COMPARISONS:
                decides = 1
            for value in op.floats:
                value.decides = max(value.decides, decides)
            tainted = max((value.tainted for value in op.floats), default=0)
            if self._counts_on(tainted, decides) and op.type != "If":
                self._keep(op, "count")

    @staticmethod
    def _counts_on(tainted: int, decides: int) -> bool:
        """A count that ends in anything discrete, or an input that ends in an integer."""
        return bool(tainted and decides and tainted + decides > 2)

    # ---------------------------------------------------------------------------------------------------- power

    def _powers(self) -> None:
        powers: set[Value] = set()
        for op in self._ops:
            floats = [value for value in op.floats if value.kind > Kind.CONST]
            linear = op.type in _LINEAR and floats and all(value in powers for value in floats)
            if linear or self._starts_power(op):
                powers.update(value for value in op.outputs if value and value.floaty)
        ending: set[Value] = set()
        for op in reversed(self._ops):
            if any(value in ending for value in op.outputs) and op.outputs[0] in powers:
                self._keep(op, "power")
                ending.update(value for value in op.floats if value in powers)
            value = op.inputs[1] if op.type == "Div" else op.inputs[0] if op.type in _ENDS_POWER else None
            if value in powers:
                self._keep(op, "power")
                ending.add(value)

    def _starts_power(self, op: Op) -> bool:
        if op.type == "Pow":
            return True
        if op.type == "Mul":
            return op.inputs[0] is op.inputs[1]
        if op.type in _KEEPS_EPSILON:
            return any(self._vanishes(value) for value in op.floats)
        return op.type == "Exp" or op.type in _SUMS & _names("ReduceSumSquare STFT DFT")

    def _vanishes(self, value: Value) -> bool:
        return any(0 < abs(number) < MIN_NORMAL for number in self._small(value))

    def _small(self, value: Value) -> Iterable[float]:
        """The values of a constant that is not a weight."""
        tensor = value.constant
        if tensor is None or self._file.payload(tensor):
            return ()
        return [float(number) for number in self._file.array(tensor).reshape(-1)]

    # ------------------------------------------------------------------------------------------- what follows

    def wants(self, value: Value) -> set[bool]:
        """The types that a value is needed in: True for float16, False for float32."""
        wanted = {half for op, position in value.users if (half := self.takes(op, position)) is not None}
        for result in value.results:
            wanted.add(result.half)
        if value.is_output:
            wanted.add(self.output_half(value))
        return wanted

    @staticmethod
    def takes(op: Op, position: int) -> bool | None:
        """Whether an operation takes an input as float16; None: as it comes."""
        if op.type in TYPELESS or op.type == "Cast":
            return None
        return op.half and position in op.half_inputs

    def output_half(self, value: Value) -> bool:
        """Whether an output of the model is float16: with that interface, unless it is a count."""
        if value.producer is None and value.constant is None:
            return value.half
        return self._half_interface and value.kind != Kind.COUNT

    def _followers(self) -> None:
        """Operations that are free to go either way do as their users need, the users first."""
        for op in reversed(self._ops):
            if op.type == "If":
                for output in op.outputs:
                    if output and output.type == FLOAT and not op.scope.looped and op.reason != "named":
                        counts = output.kind == Kind.COUNT or self._counts_on(output.tainted, output.decides)
                        output.half = True in self.wants(output) and not counts
                continue
            outputs = [value for value in op.outputs if value and value.type == FLOAT]
            cast = op.type == "Cast" and not any(value.type != FLOAT for value in op.floats)
            constant = bool(outputs) and all(value.kind == Kind.CONST for value in outputs)
            if outputs and not op.reason and op.type != "Constant" and (cast or constant):
                wanted = {half for value in outputs for half in self.wants(value)}
                op.half = wanted == {True}
                if not op.half:
                    op.reason = "count" if cast and outputs[0].kind == Kind.COUNT else "island"

    def _islands(self) -> None:
        """Moves between float32 and float32 stay so."""
        candidates = [op for op in self._ops if op.half and op.type in _MOVES and not op.scope.looped]
        inside = set(candidates)

        def full(value: Value) -> bool:
            if value.constant is not None or value.kind == Kind.CONST:
                return False
            producer = value.producer
            if producer is None or producer.type == "If":
                return not value.half
            return producer in inside or not (producer.half and value in _half_outputs(producer))

        def wanted_full(value: Value) -> bool:
            users = [(op, position) for op, position in value.users if op not in inside]
            ends = [result.half for result in value.results]
            ends += [self.output_half(value)] if value.is_output else []
            return not any(self.takes(op, position) for op, position in users) and not any(ends)

        while inside:
            keep = {
                op
                for op in inside
                if all(full(v) for v in op.floats if v.kind > Kind.CONST)
                and any(v.kind > Kind.CONST for v in op.floats)
                and all(wanted_full(v) for v in op.outputs if v)
            }
            if keep == inside:
                break
            inside = keep
        for op in candidates:
            if op in inside:
                self._keep(op, "island")


def _half_outputs(op: Op) -> list[Value | None]:
    return [value for index, value in enumerate(op.outputs) if index in op.half_outputs]


def _carry_large(values: list[Value], output: Value) -> None:
    output.large = next((value.large for value in values if value.large), "")
    output.extreme = any(value.extreme for value in values)

"""Arithmetic, comparisons and logic, element by element with NumPy's broadcasting."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand, compute_type
from hubpub.coremlfile.mil.operation import Operation, translates
from hubpub.coremlfile.mil.types import TensorType, from_text

UNARY = {
    "abs": "Abs",
    "acos": "Acos",
    "asin": "Asin",
    "atan": "Atan",
    "atanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "logical_not": "Not",
    "round": "Round",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}
BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "maximum": "Max",
    "minimum": "Min",
    "pow": "Pow",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "equal": "Equal",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
}


@translates(*UNARY)
def unary(op: Operation, graph: Graph) -> Operand:
    """What ONNX calls by another name."""
    return graph.node(UNARY[op.type], op["x"])


@translates(*BINARY)
def binary(op: Operation, graph: Graph) -> Operand:
    """What ONNX calls by another name."""
    return graph.node(BINARY[op.type], op["x"], op["y"])


@translates("not_equal")
def not_equal(op: Operation, graph: Graph) -> Operand:
    """``x != y``."""
    return graph.node("Not", graph.node("Equal", op["x"], op["y"]))


@translates("real_div")
def real_div(op: Operation, graph: Graph) -> Operand:
    """``x / y``; of integers the quotient is cut towards zero, because the result is declared as integer."""
    return graph.node("Div", op["x"], op["y"])


@translates("floor_div")
def floor_div(op: Operation, graph: Graph) -> Operand:
    """``floor(x / y)``, as Python's ``//``; ONNX cuts the quotient of integers towards zero."""
    x, y = op["x"], op["y"]
    if op.kind.is_float:
        rest = _floored_rest(op, graph)  # by the exact remainder: a quotient just below an integer is rounded up to it
        return graph.node("Round", graph.node("Div", graph.node("Sub", x, rest), y))
    return graph.node("Div", graph.node("Sub", x, graph.node("Mod", x, y)), y)


@translates("mod")
def mod(op: Operation, graph: Graph) -> Operand:
    """The remainder, of the sign of ``y``, as Python's ``%``."""
    return _floored_rest(op, graph) if op.kind.is_float else graph.node("Mod", op["x"], op["y"])


def _floored_rest(op: Operation, graph: Graph) -> str:
    x, y = op["x"], op["y"]
    rest = graph.node("Mod", x, y, fmod=1)
    zero = graph.floats(0)
    differs = graph.node("Xor", graph.node("Less", rest, zero), graph.node("Less", y, zero))
    wrong = graph.node("And", differs, graph.node("Not", graph.node("Equal", rest, zero)))
    return graph.node("Where", wrong, graph.node("Add", rest, y), rest)


@translates("square")
def square(op: Operation, graph: Graph) -> Operand:
    """``x * x``."""
    return graph.node("Mul", op["x"], op["x"])


@translates("exp2")
def exp2(op: Operation, graph: Graph) -> Operand:
    """``2 ** x``."""
    return graph.node("Pow", graph.floats(2), op["x"])


@translates("inverse")
def inverse(op: Operation, graph: Graph) -> Operand:
    """``1 / (x + epsilon)``."""
    return graph.node("Reciprocal", _shifted(op, graph, 1e-4))


@translates("rsqrt")
def rsqrt(op: Operation, graph: Graph) -> Operand:
    """``1 / sqrt(x + epsilon)``."""
    return graph.node("Reciprocal", graph.node("Sqrt", _shifted(op, graph, 1e-12)))


@translates("log")
def log(op: Operation, graph: Graph) -> Operand:
    """``log(x + epsilon)``."""
    return graph.node("Log", _shifted(op, graph, 1e-45))


def _shifted(op: Operation, graph: Graph, default: float) -> Operand:
    import numpy as np

    epsilon = op.array("epsilon")
    dtype = np.float16 if op["x"].type.dtype == "fp16" else np.float32
    number = np.array(default if epsilon is None else epsilon).astype(dtype).astype(np.float32)
    return graph.node("Add", op["x"], graph.constant(number)) if number else op["x"]


@translates("clip")
def clip(op: Operation, graph: Graph) -> Operand:
    """``min(max(x, alpha), beta)``."""
    return graph.node("Min", graph.node("Max", op["x"], op["alpha"]), op["beta"])


@translates("threshold")
def threshold(op: Operation, graph: Graph) -> Operand:
    """``max(x, alpha)``."""
    return graph.node("Max", op["x"], op["alpha"])


@translates("select")
def select(op: Operation, graph: Graph) -> Operand:
    """``a`` where ``cond`` is true, else ``b``."""
    return graph.node("Where", op["cond"], op["a"], op["b"])


@translates("cast")
def cast(op: Operation, graph: Graph) -> Operand:
    """To another type; a fraction is cut off towards zero. Integers of less than 32 bits wrap around."""
    source, target = op["x"].type, TensorType(from_text(op.one("dtype", op.kind.dtype)), op.kind.shape)
    if target.dtype != op.kind.dtype:
        raise op.fail(f"it casts to {target.dtype} and declares {op.kind.dtype}", "the model is damaged")
    if compute_type(source) == compute_type(target) and (target.is_float or target.dtype == "int32"):
        return op["x"]
    found = graph.to(op["x"], compute_type(target))
    if target.dtype in ("int32", "bool") or target.is_float:
        return found
    return graph.to(graph.to(found, target.dtype.upper()), "INT32")


@translates("quantize")
def quantize(op: Operation, graph: Graph) -> Operand:
    """``clip(round(input / scale) + zero_point)``, in int8 or uint8."""
    scaled = graph.node("Round", graph.node("Div", op["input"], _along(op, "scale", graph)))
    if op.get("zero_point") is not None:
        scaled = graph.node("Add", scaled, graph.to(_along(op, "zero_point", graph), "FLOAT"))
    low, high = (-128, 127) if op.kind.dtype == "int8" else (0, 255)
    return graph.to(graph.node("Clip", scaled, graph.floats(low), graph.floats(high)), "INT32")


@translates("dequantize")
def dequantize(op: Operation, graph: Graph) -> Operand:
    """``scale * (input - zero_point)``."""
    shifted: Operand = op["input"]
    if op.get("zero_point") is not None:
        shifted = graph.node("Sub", shifted, _along(op, "zero_point", graph))
    return graph.node("Mul", graph.to(shifted, "FLOAT"), _along(op, "scale", graph))


def _along(op: Operation, parameter: str, graph: Graph) -> str:
    """A scalar, or a vector along ``axis``."""
    values, rank = op.array(parameter), op["input"].rank
    if values is None:
        raise op.fail(f"it has no `{parameter}`", "the model is damaged")
    if values.ndim == 0:
        return graph.constant(values)
    axis = op.axis("axis", rank, 0)
    return graph.constant(values.reshape([-1 if each == axis else 1 for each in range(rank)]))

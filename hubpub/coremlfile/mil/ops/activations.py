"""Activations; the formulas are those of coremltools' definitions."""

from __future__ import annotations

from hubpub.coremlfile.mil.graph import Graph, Operand
from hubpub.coremlfile.mil.operation import Operation, translates


@translates("relu", moves=True)
def relu(op: Operation, graph: Graph) -> Operand:
    """``max(x, 0)``."""
    return graph.node("Relu", op["x"])


@translates("relu6", moves=True)
def relu6(op: Operation, graph: Graph) -> Operand:
    """``min(max(x, 0), 6)``."""
    return graph.node("Clip", op["x"], graph.floats(0), graph.floats(6))


@translates("clamped_relu")
def clamped_relu(op: Operation, graph: Graph) -> Operand:
    """``min(max(x, 0), beta) + min(min(x, 0) * alpha, beta)``."""
    zero, beta = graph.floats(0), op["beta"]
    upper = graph.node("Min", graph.node("Max", op["x"], zero), beta)
    lower = graph.node("Min", graph.node("Mul", graph.node("Min", op["x"], zero), op["alpha"]), beta)
    return graph.node("Add", upper, lower)


@translates("elu")
def elu(op: Operation, graph: Graph) -> Operand:
    """``x`` or ``alpha * (exp(x) - 1)``."""
    return graph.node("Elu", op["x"], alpha=op.one("alpha", 1.0))


@translates("gelu")
def gelu(op: Operation, graph: Graph) -> Operand:
    """``x * Φ(x)``, exact or in one of two approximations (Hendrycks and Gimpel, 2016)."""
    mode, x = op.one("mode", "EXACT"), op["x"]
    if mode == "SIGMOID_APPROXIMATION":
        return graph.node("Mul", x, graph.node("Sigmoid", graph.node("Mul", x, graph.floats(1.702))))
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise op.fail(f"its mode {mode} is not known")
    return graph.node("Gelu", x, approximate="none" if mode == "EXACT" else "tanh")


@translates("leaky_relu")
def leaky_relu(op: Operation, graph: Graph) -> Operand:
    """``x`` or ``alpha * x``."""
    return graph.node("LeakyRelu", op["x"], alpha=op.one("alpha", 0.01))


@translates("prelu")
def prelu(op: Operation, graph: Graph) -> Operand:
    """``x`` or ``alpha * x``, an alpha for each channel."""
    return graph.node("PRelu", op["x"], _by_channel(op, "alpha", graph))


@translates("linear_activation")
def linear_activation(op: Operation, graph: Graph) -> Operand:
    """``alpha * x + beta``."""
    return graph.node("Add", graph.node("Mul", op["x"], op["alpha"]), op["beta"])


@translates("sigmoid")
def sigmoid(op: Operation, graph: Graph) -> Operand:
    """``1 / (1 + exp(-x))``."""
    return graph.node("Sigmoid", op["x"])


@translates("sigmoid_hard")
def sigmoid_hard(op: Operation, graph: Graph) -> Operand:
    """``min(max(alpha * x + beta, 0), 1)``."""
    return graph.node("HardSigmoid", op["x"], alpha=op.one("alpha", 0.2), beta=op.one("beta", 0.5))


@translates("silu")
def silu(op: Operation, graph: Graph) -> Operand:
    """``x * sigmoid(x)``."""
    return graph.node("Mul", op["x"], graph.node("Sigmoid", op["x"]))


@translates("scaled_tanh")
def scaled_tanh(op: Operation, graph: Graph) -> Operand:
    """``alpha * tanh(beta * x)``."""
    return graph.node("Mul", op["alpha"], graph.node("Tanh", graph.node("Mul", op["x"], op["beta"])))


@translates("softplus")
def softplus(op: Operation, graph: Graph) -> Operand:
    """``log(1 + exp(x))``."""
    return graph.node("Softplus", op["x"])


@translates("softplus_parametric")
def softplus_parametric(op: Operation, graph: Graph) -> Operand:
    """``alpha * log(1 + exp(beta * x))``, an alpha and a beta for each channel."""
    inner = graph.node("Mul", op["x"], _by_channel(op, "beta", graph))
    return graph.node("Mul", _by_channel(op, "alpha", graph), graph.node("Softplus", inner))


@translates("softsign")
def softsign(op: Operation, graph: Graph) -> Operand:
    """``x / (1 + abs(x))``."""
    return graph.node("Softsign", op["x"])


@translates("thresholded_relu", moves=True)
def thresholded_relu(op: Operation, graph: Graph) -> Operand:
    """``x`` where it is at least ``alpha``, else 0; ONNX's own leaves out the equal."""
    return graph.node("Where", graph.node("Less", op["x"], op["alpha"]), graph.floats(0), op["x"])


@translates("softmax")
def softmax(op: Operation, graph: Graph) -> Operand:
    """Along ``axis``."""
    return graph.node("Softmax", op["x"], axis=op.axis("axis", op["x"].rank, -1))


def _by_channel(op: Operation, parameter: str, graph: Graph) -> str:
    """A vector over the second axis, or a scalar, shaped so that it broadcasts."""
    values = op.array(parameter)
    if values is None:
        raise op.fail(f"it has no `{parameter}`", "the model is damaged")
    return graph.constant(values.reshape([-1] + [1] * (op["x"].rank - 2)) if values.size > 1 else values.reshape(()))

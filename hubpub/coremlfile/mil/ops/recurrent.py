"""Recurrent layers.

Core ML differs from ONNX in the order of the gates; and a layer in the direction ``reverse`` gives its sequence in the
order in which it went through it, the last step of the input first, while a bidirectional one keeps both in the order
of the input. So say coremltools' own tests on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hubpub.coremlfile.mil.graph import Graph, Operand, Value
from hubpub.coremlfile.mil.operation import Operation, translates

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

ACTIVATIONS = {
    "hard_sigmoid": "HardSigmoid",
    "linear": "Affine",
    "relu": "Relu",
    "scaled_tanh": "Tanh",  # with both of its factors 1
    "sigmoid": "Sigmoid",
    "sigmoid_hard": "HardSigmoid",
    "tanh": "Tanh",
}
"""ONNX's name of an activation; it has the parameters that both formats take as their defaults."""

_ALPHA = {"HardSigmoid": 0.2, "Affine": 1.0}
_BETA = {"HardSigmoid": 0.5, "Affine": 0.0}


@translates("lstm")
def lstm(op: Operation, graph: Graph) -> Sequence[Operand]:
    """Gates in the order input, forget, output, cell; ONNX's is input, output, forget, cell."""
    if op.get("clip") is not None:
        raise op.fail("its cell is clipped, which no ONNX runtime does", "convert the model without `clip`")
    order = (0, 2, 1, 3)
    back = op.one("direction", "forward") == "bidirectional"
    weights = _directions(op, "weight_ih", order, back, graph), _directions(op, "weight_hh", order, back, graph)
    gates = [op.one(f"{each}activation", usual) for each, usual in _GATES]
    peepholes: Operand = ""
    if op.get("peephole") is not None:
        peepholes = _directions(op, "peephole", (0, 2, 1), back, graph)
    found = graph.node_of(
        "LSTM",
        3,
        _sequence(op, graph),
        *weights,
        _biases(op, order, back, graph),
        "",
        _state(op["initial_h"], back, graph),
        _state(op["initial_c"], back, graph),
        peepholes,
        **_attributes(op, back, gates * (2 if back else 1)),
    )
    last = [_joined(each, back, graph) for each in found[1:]]
    return [_steps(op, found[0], last[0], graph), *last]


_GATES = (("recurrent_", "sigmoid"), ("cell_", "tanh"), ("", "tanh"))


@translates("gru")
def gru(op: Operation, graph: Graph) -> Sequence[Operand]:
    """Gates in the order reset, output, update; ONNX's is update, reset, output. The reset comes before the product."""
    order = (2, 0, 1)
    gates = [op.one("recurrent_activation", "sigmoid"), op.one("activation", "tanh")]
    found = graph.node_of("GRU", 2, *_plain(op, order, graph), linear_before_reset=0, **_attributes(op, False, gates))
    last = _joined(found[1], False, graph)
    return [_steps(op, found[0], last, graph), last]


@translates("rnn")
def rnn(op: Operation, graph: Graph) -> Sequence[Operand]:
    """``h = activation(W x + R h + b)``."""
    gates = [op.one("activation", "tanh")]
    found = graph.node_of("RNN", 2, *_plain(op, (0,), graph), **_attributes(op, False, gates))
    last = _joined(found[1], False, graph)
    return [_steps(op, found[0], last, graph), last]


def _plain(op: Operation, order: Sequence[int], graph: Graph) -> list[Operand]:
    """The inputs of a layer of one direction."""
    weights = [_directions(op, name, order, False, graph) for name in ("weight_ih", "weight_hh")]
    state = _state(op["initial_h"], False, graph)
    return [_sequence(op, graph), *weights, _biases(op, order, False, graph), "", state]


def _attributes(op: Operation, back: bool, gates: Sequence[str]) -> dict[str, Any]:
    for each in gates:
        if each not in ACTIVATIONS:
            raise op.fail(f"its activation {each} is not known")
    names = [ACTIVATIONS[each] for each in gates]
    direction = "bidirectional" if back else "forward"
    found = {"hidden_size": op.sizes("weight_hh")[-1], "direction": direction, "activations": names}
    for attribute, numbers in (("activation_alpha", _ALPHA), ("activation_beta", _BETA)):
        if given := [numbers[name] for name in names if name in numbers]:
            found[attribute] = given
    return found


def _sequence(op: Operation, graph: Graph) -> Operand:
    """``x [s, b, i]``, the last step first where the direction says so."""
    direction = op.one("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise op.fail(f"its direction {direction} is not known")
    if direction != "reverse":
        return op["x"]
    first, beyond = graph.ints([-1]), graph.ints([-(2**62)])
    return graph.node("Slice", op["x"], first, beyond, graph.ints([0]), graph.ints([-1]))


def _directions(op: Operation, name: str, order: Sequence[int], back: bool, graph: Graph) -> str:
    """A parameter ``[directions, gates * hidden, …]`` with its gates in ONNX's order."""
    import numpy as np

    names = (name, f"{name}_back") if back else (name,)
    return graph.constant(np.stack([_gates(op, each, order) for each in names]))


def _gates(op: Operation, name: str, order: Sequence[int]) -> Array:
    import numpy as np

    found = op.array(name)
    if found is None:
        raise op.fail(f"it has no `{name}`", "the model is damaged")
    parts = np.split(found, len(order), axis=0)
    return np.concatenate([parts[each] for each in order], axis=0)


def _biases(op: Operation, order: Sequence[int], back: bool, graph: Graph) -> str:
    """``[directions, 2 * gates * hidden]``: Core ML has one bias where ONNX has two, of which the second is zero."""
    import numpy as np

    size = len(order) * op.sizes("weight_hh")[-1]
    rows = []
    for name in ("bias", "bias_back")[: 2 if back else 1]:
        given = _gates(op, name, order) if op.get(name) is not None else np.zeros(size, np.float32)
        rows.append(np.concatenate([given, np.zeros(size, given.dtype)]))
    return graph.constant(np.stack(rows))


def _state(value: Value, back: bool, graph: Graph) -> str:
    """``[b, directions * h]`` as ``[directions, b, h]``."""
    if not back:
        return graph.node("Unsqueeze", value, graph.ints([0]))
    parts = graph.node_of("Split", 2, value, axis=-1, num_outputs=2)
    return graph.node("Concat", *(graph.node("Unsqueeze", part, graph.ints([0])) for part in parts), axis=0)


def _joined(name: str, back: bool, graph: Graph) -> str:
    """``[directions, b, h]`` as ``[b, directions * h]``."""
    if not back:
        return graph.node("Squeeze", name, graph.ints([0]))
    return graph.node("Reshape", graph.node("Transpose", name, perm=[1, 0, 2]), graph.ints([0, -1]))


def _steps(op: Operation, sequence: str, last: str, graph: Graph) -> str:
    """``[s, b, directions * h]`` of what ONNX gives as ``[s, directions, b, h]``, or the last state as one step."""
    if not op.one("output_sequence", False):
        return graph.node("Unsqueeze", last, graph.ints([0]))
    return graph.node("Reshape", graph.node("Transpose", sequence, perm=[0, 2, 1, 3]), graph.ints([0, 0, -1]))

"""pyannote segmentation-3.0 as ONNX, from its PyTorch state dict, without PyTorch and without executing a pickle.

The architecture: SincNet (Ravanelli and Bengio 2018), four bidirectional LSTM layers, two linear layers, a classifier.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
_TYPES = {"FloatStorage": np.float32, "LongStorage": np.int64, "IntStorage": np.int32, "DoubleStorage": np.float64}


def read_state_dict(path: Path) -> dict[str, Array]:
    """The tensors of a PyTorch zip file, by name. Its pickle is read as data: nothing in it is called."""
    with zipfile.ZipFile(path) as archive:
        (index,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        document = _values(archive.read(index))
        state = document.get("state_dict", document)
        folder = index.removesuffix("data.pkl") + "data/"
        tensors = {}
        for name, value in state.items():
            if not (isinstance(value, tuple) and value[:2] == ("call", "torch._utils _rebuild_tensor_v2")):
                continue
            (_, kind, key, _, _), offset, shape, strides = value[2][:4]
            flat = np.frombuffer(archive.read(folder + key), _TYPES[kind.split()[-1]])[offset:]
            tensors[name] = np.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in strides]).copy()
    return tensors


def _values(data: bytes) -> Any:
    """What a pickle would build: globals as their names, calls as ``("call", name, arguments)``."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    mark = object()

    def to_mark() -> list[Any]:
        at = len(stack) - 1 - stack[::-1].index(mark)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(mark)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            items = tuple(stack[-count:])
            del stack[-count:]
            stack.append(items)
        elif name == "TUPLE":
            stack.append(tuple(to_mark()))
        elif name in ("SETITEM", "SETITEMS"):
            items = to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            if isinstance(stack[-1], dict):
                stack[-1].update(zip(items[0::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = to_mark() if name == "APPENDS" else [stack.pop()]
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            called = stack.pop()
            stack.append({} if called == "collections OrderedDict" else ("call", called, arguments))
        elif name == "BUILD":
            stack.pop()
        elif name == "BINPERSID":
            pass  # the storage's description stays on the stack
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            stack.append(argument)
    raise ValueError("a pickle without an end")


def build(state: dict[str, Array], opset: int = 17) -> onnx.ModelProto:
    """Waveform ``[batch, 1, samples]`` at 16 kHz → log-probabilities ``[batch, frames, 7]``."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, values: Array) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op.lower()}_{len(nodes)}"
        outputs = [name, "", ""] if op == "LSTM" else [name]
        nodes.append(helper.make_node(op, inputs, outputs, name=f"/{name}", **attributes))
        return name

    def norm(value: str, name: str) -> str:
        scale, bias = (weight(f"{name}.{part}", state[f"{name}.{part}"]) for part in ("weight", "bias"))
        return add("InstanceNormalization", [value, scale, bias], epsilon=1e-5)

    last = norm("waveform", "sincnet.wav_norm1d")
    for layer in range(3):
        if layer == 0:
            last = add("Abs", [add("Conv", [last, weight("sincnet.filters", _filters(state))], strides=[10])])
        else:
            names = [f"sincnet.conv1d.{layer}.{part}" for part in ("weight", "bias")]
            last = add("Conv", [last, *(weight(name, state[name]) for name in names)])
        last = add("MaxPool", [last], kernel_shape=[3], strides=[3])
        last = add("LeakyRelu", [norm(last, f"sincnet.norm1d.{layer}")], alpha=0.01)
    last = add("Transpose", [last], perm=[2, 0, 1])
    no_axes = weight("fold", np.array([0, 0, -1]))
    for layer in range(4):
        w, r, b = (
            weight(f"lstm.{layer}.{part}", values) for part, values in zip("WRB", _lstm(state, layer), strict=True)
        )
        last = add("LSTM", [last, w, r, b], hidden_size=128, direction="bidirectional")
        last = add("Reshape", [add("Transpose", [last], perm=[0, 2, 1, 3]), no_axes])
    last = add("Transpose", [last], perm=[1, 0, 2])
    for name in ("linear.0", "linear.1", "classifier"):
        last = add("MatMul", [last, weight(f"{name}.weight", state[f"{name}.weight"].T)])
        last = add("Add", [last, weight(f"{name}.bias", state[f"{name}.bias"])])
        if name != "classifier":
            last = add("LeakyRelu", [last], alpha=0.01)
    nodes.append(helper.make_node("LogSoftmax", [last], ["log_probs"], axis=-1))
    inputs = [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", 1, "samples"])]
    outputs = [helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["batch", "frames", 7])]
    graph = helper.make_graph(nodes, "powerset", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _filters(state: dict[str, Array]) -> Array:
    """40 pairs of band-pass filters, even and odd, of 251 taps, ``[80, 1, 251]``."""
    prefix = "sincnet.conv1d.0.filterbank."
    window, n = (state[f"{prefix}{name}"].reshape(1, -1).astype(np.float64) for name in ("window_", "n_"))
    low = 50 + np.abs(state[f"{prefix}low_hz_"].astype(np.float64))
    high = np.clip(low + 50 + np.abs(state[f"{prefix}band_hz_"].astype(np.float64)), 50, 8000)
    band = high - low
    even = (np.sin(high @ n) - np.sin(low @ n)) / (n / 2) * window
    odd = (np.cos(low @ n) - np.cos(high @ n)) / (n / 2) * window
    pairs = [
        np.concatenate([even, 2 * band, even[:, ::-1]], 1),
        np.concatenate([odd, np.zeros_like(band), -odd[:, ::-1]], 1),
    ]
    return np.concatenate([pair / (2 * band) for pair in pairs])[:, None].astype(np.float32)


def _lstm(state: dict[str, Array], layer: int) -> tuple[Array, Array, Array]:
    """W, R and B of both directions; PyTorch's gates i, f, g, o in ONNX's order i, o, f, c."""

    def gates(name: str) -> Array:
        i, f, g, o = np.split(state[f"lstm.{name}"], 4)
        return np.concatenate([i, o, f, g])

    ends = [f"l{layer}", f"l{layer}_reverse"]
    w, r = (np.stack([gates(f"weight_{part}_{end}") for end in ends]) for part in ("ih", "hh"))
    b = np.stack([np.concatenate([gates(f"bias_ih_{end}"), gates(f"bias_hh_{end}")]) for end in ends])
    return w, r, b

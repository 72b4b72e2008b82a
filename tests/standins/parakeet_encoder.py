"""The encoder of Parakeet TDT: FastConformer as NeMo exports it, node for node where it matters to a converter.

Rekesh et al. 2023 (FastConformer), Gulati et al. 2020 (Conformer), Dai et al. 2019 (relative positions). Linear
layers have no bias, batch norms are folded into their convolutions and the table of positions stays in the model:
with that the data file of the full scale has the 2,435,420,160 bytes of upstream's.

Why 24 random layers let speech through: all channels but the outliers enter and leave every layer with a standard
deviation of about 1 (LayerNorm gains restore what the outliers took), and the branches of all layers together add
about as much as there is. What is the same in every frame would grow at the cost of what is not, mostly through
SiLU, ReLU and attention; weights behind them, and the kernels of the depthwise convolutions, sum to zero along the
axis where such a constant comes in. Attention is spread over some 40 to 100 frames: sharper, it makes noise grow from
layer to layer.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto
from parakeet_scale import MELS, Scale
from standin_graph import Dims, GraphBuilder
from standin_weights import Floats, RelativePositions, Stream, Weights, normal

from hubpub.onnxfile import OnnxFile

KERNEL = 9
"""Frames under the depthwise convolution of a layer."""

# Standard deviations of weights, for inputs and outputs of 1; those that end in _OUT make up for what an activation
# or an average over frames has taken, and are shared out over the layers.
SUBSAMPLING_OUT = 1.9
FEED_FORWARD_IN = 1.3
FEED_FORWARD_OUT = 2.6
SCORES = 0.9
ATTENTION_OUT = 2.0
CONVOLUTION_OUT = 1.6
BRANCHES = 0.5
"""Power that all branches of all layers add to the stream, before they grow with it."""


def encoder(scale: Scale, *, int8: bool = False) -> OnnxFile:
    """The graph ``audio_signal, length -> outputs, encoded_lengths``."""
    return _Encoder(scale, int8).build()


class _Encoder:
    def __init__(self, scale: Scale, int8: bool) -> None:
        self.scale = scale
        self.stream = Stream(scale.width)
        self.share = math.sqrt(BRANCHES / (4 * max(scale.layers, 4)))
        self.graph = GraphBuilder("main_graph", int8=int8)

    def build(self) -> OnnxFile:
        g, scale = self.graph, self.scale
        batch, time = "audio_signal_dynamic_axes_1", "audio_signal_dynamic_axes_2"
        signal = g.input("audio_signal", TensorProto.FLOAT, [batch, MELS, time])
        length = g.input("length", TensorProto.INT64, ["length_dynamic_axes_1"])
        x, lengths = self._subsample(signal, length)
        frames = self._size(x, 1, "pos_enc")
        positions = self._positions(frames)
        valid = self._valid(lengths, frames, "mask")
        padding = g.node("Unsqueeze", g.node("Not", valid, at="mask"), g.constant([1]), at="mask")
        pairs = g.node(
            "And",
            g.node("Unsqueeze", valid, g.constant([1]), at="mask/pairs"),
            g.node("Unsqueeze", valid, g.constant([2]), at="mask/pairs"),
            at="mask/pairs",
        )
        no_pair = g.node("Unsqueeze", g.node("Not", pairs, at="mask/pairs"), g.constant([1]), at="mask/pairs")
        for n in range(scale.layers):
            x = self._layer(x, f"layers.{n}", positions, padding, no_pair, last=n == scale.layers - 1)
        outputs = g.node("Transpose", x, at="encoder", perm=[0, 2, 1])
        names: Dims = ["outputs_dynamic_axes_1", scale.width, "outputs_dynamic_axes_2"]
        g.output(outputs, "outputs", TensorProto.FLOAT, names)
        g.output(lengths, "encoded_lengths", TensorProto.INT64, ["encoded_lengths_dynamic_axes_1"])
        return g.finish()

    # Eightfold subsampling: three strided convolutions, each on frames that the mask of its own length lets through.

    def _subsample(self, signal: str, length: str) -> tuple[str, str]:
        g, at, channels = self.graph, "pre_encode", self.scale.subsampling
        x = g.node("Transpose", signal, at=at, perm=[0, 2, 1])
        x = g.node("Unsqueeze", x, g.constant([1]), at=at)
        lengths = g.node("Cast", length, at=at, to=TensorProto.FLOAT)
        x = self._masked(x, lengths, f"{at}/mask.0")
        stride = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
        for n in range(3):
            if n == 0:
                x = self._conv(x, f"{at}/conv.0", (channels, 1, 3, 3), 0.6, **stride)
            else:
                x = self._conv(x, f"{at}/conv.{3 * n - 1}", (channels, 1, 3, 3), 0.6, **stride, group=channels)
                x = self._conv(x, f"{at}/conv.{3 * n}", (channels, channels, 1, 1), 1.4 / math.sqrt(channels))
            lengths = self._halved(lengths, f"{at}/length.{n + 1}")
            x = self._masked(x, lengths, f"{at}/mask.{n + 1}")
            x = g.node("Relu", x, at=f"{at}/relu.{n}")
        x = g.node("Transpose", x, at=at, perm=[0, 2, 1, 3])
        x = g.node("Reshape", x, g.constant([0, 0, channels * MELS // 8]), at=at)
        inputs = channels * MELS // 8
        std = SUBSAMPLING_OUT / math.sqrt(inputs)
        out = Weights(f"{at}/out", (inputs, self.scale.width), std, (self.stream.write(1),), centered=0)
        bias = np.asarray(self.stream.offsets, np.float32)
        x = g.linear(x, f"{at}/out", out, bias)
        return x, g.node("Cast", lengths, at=at, to=TensorProto.INT64)

    def _conv(self, x: str, at: str, shape: tuple[int, ...], std: float, **attributes: object) -> str:
        weights = Weights(f"{at}.weight", shape, std, centered=2 if shape[2] > 1 else None)
        return self.graph.conv(x, at, weights, self._small(f"{at}.bias", shape[0]), **attributes)

    def _halved(self, lengths: str, at: str) -> str:
        """Frames after a stride of 2, counted in float32 as NeMo does it."""
        g = self.graph
        x = g.node("Add", lengths, g.constant(2, np.float32), at=at)  # padding
        x = g.node("Sub", x, g.constant(3, np.float32), at=at)  # kernel
        x = g.node("Floor", g.node("Div", x, g.constant(2, np.float32), at=at), at=at)
        return g.node("Add", x, g.constant(1, np.float32), at=at)

    def _masked(self, x: str, lengths: str, at: str) -> str:
        g = self.graph
        valid = self._valid(g.node("Cast", lengths, at=at, to=TensorProto.INT64), self._size(x, 2, at), at)
        mask = g.node("Cast", valid, at=at, to=TensorProto.FLOAT)
        return g.node("Mul", x, g.node("Unsqueeze", mask, g.constant([1, 3]), at=at), at=at)

    def _valid(self, lengths: str, frames: str, at: str) -> str:
        """Which frames [batch, time] lie within the lengths [batch]."""
        g = self.graph
        times = g.node("Range", g.constant(0), frames, g.constant(1), at=at)
        return g.node("Less", times, g.node("Unsqueeze", lengths, g.constant([1]), at=at), at=at)

    def _size(self, x: str, axis: int, at: str) -> str:
        g = self.graph
        return g.node("Gather", g.node("Shape", x, at=at), g.constant(axis), at=at, axis=0)

    def _positions(self, frames: str) -> str:
        """The middle of the table: positions from frames - 1 down to 1 - frames."""
        g, at, most = self.graph, "pos_enc", self.scale.frames
        table = RelativePositions(most, self.scale.width)
        rows = g.buffer("/pos_enc/Constant_pe", table, (1, 2 * most - 1, self.scale.width))
        start = g.node("Unsqueeze", g.node("Sub", g.constant(most), frames, at=at), g.constant([0]), at=at)
        stop = g.node("Add", g.constant(most - 1), frames, at=at)
        stop = g.node("Unsqueeze", stop, g.constant([0]), at=at)
        return g.node("Slice", rows, start, stop, g.constant([1]), at=at)

    # A layer: half a feed-forward, attention, convolution, half a feed-forward, norm.

    def _layer(self, x: str, at: str, positions: str, padding: str, no_pair: str, *, last: bool) -> str:
        g = self.graph
        half = g.constant(0.5, np.float32)

        def add(x: str, branch: str, at: str, factor: str | None = None) -> str:
            return g.node("Add", x, g.node("Mul", branch, factor, at=at) if factor else branch, at=at)

        x = add(x, self._feed_forward(self._norm(x, f"{at}/norm_feed_forward1"), f"{at}/feed_forward1"), at, half)
        x = add(x, self._attention(self._norm(x, f"{at}/norm_self_att"), f"{at}/self_attn", positions, no_pair), at)
        x = add(x, self._convolution(self._norm(x, f"{at}/norm_conv"), f"{at}/conv", padding), at)
        x = add(x, self._feed_forward(self._norm(x, f"{at}/norm_feed_forward2"), f"{at}/feed_forward2"), at, half)
        return self._norm(x, f"{at}/norm_out", tame=last)

    def _norm(self, x: str, at: str, *, tame: bool = False) -> str:
        """A LayerNorm that keeps the size of every channel, or brings outliers down to that of the others."""
        g, width = self.graph, self.scale.width
        gain = (1 + np.float32(0.1) * normal(f"{at}.weight", width)) * np.float32(self.stream.rms)
        if tame:
            gain *= np.asarray(self.stream.read(0)[1], np.float32)
        weight, bias = g.tensor(f"{at}.weight", gain), g.tensor(f"{at}.bias", self._small(f"{at}.bias", width))
        return g.node("LayerNormalization", x, weight, bias, at=at, axis=-1, epsilon=1e-5)

    def _feed_forward(self, x: str, at: str) -> str:
        g, inner = self.graph, self.scale.inner
        x = g.linear(x, f"{at}/linear1", self._reading(f"{at}/linear1", inner, FEED_FORWARD_IN))
        x = g.silu(x, f"{at}/activation")
        return g.linear(x, f"{at}/linear2", self._writing(f"{at}/linear2", inner, FEED_FORWARD_OUT))

    def _attention(self, x: str, at: str, positions: str, no_pair: str) -> str:
        g, width, heads = self.graph, self.scale.width, self.scale.heads
        depth = width // heads

        def split(y: str, at: str) -> str:
            return g.node("Reshape", y, g.constant([0, -1, heads, depth]), at=at)

        def transposed(y: str, at: str) -> str:
            return g.node("Transpose", y, at=at, perm=[0, 2, 1, 3])

        q = split(g.linear(x, f"{at}/linear_q", self._reading(f"{at}/linear_q", width, SCORES)), f"{at}/q")
        k = split(g.linear(x, f"{at}/linear_k", self._reading(f"{at}/linear_k", width, 1.0)), f"{at}/k")
        v = split(g.linear(x, f"{at}/linear_v", self._reading(f"{at}/linear_v", width, 1.0)), f"{at}/v")
        pos = Weights(f"{at}/linear_pos", (width, width), math.sqrt(2 / width))
        p = transposed(split(g.linear(positions, f"{at}/linear_pos", pos), f"{at}/p"), f"{at}/p")
        biased = []
        for name in ("pos_bias_u", "pos_bias_v"):
            bias = g.tensor(f"{at}.{name}", normal(f"{at}.{name}", width).reshape(heads, depth))
            biased.append(transposed(g.node("Add", q, bias, at=f"{at}/{name}"), f"{at}/{name}"))
        distances = g.node("Transpose", p, at=f"{at}/p", perm=[0, 1, 3, 2])
        by_position = self._shifted(g.node("MatMul", biased[1], distances, at=f"{at}/bd"), f"{at}/rel_shift")
        by_content = g.node("MatMul", biased[0], g.node("Transpose", k, at=f"{at}/k", perm=[0, 2, 3, 1]), at=f"{at}/ac")
        keys = g.node("Unsqueeze", self._size(by_content, 3, f"{at}/bd"), g.constant([0]), at=f"{at}/bd")
        by_position = g.node("Slice", by_position, g.constant([0]), keys, g.constant([3]), at=f"{at}/bd")
        scores = g.node("Add", by_content, by_position, at=at)
        scores = g.node("Div", scores, g.constant(math.sqrt(depth), np.float32), at=at)
        scores = g.node("Where", no_pair, g.constant(-10000, np.float32), scores, at=at)
        attention = g.node("Softmax", scores, at=at, axis=-1)
        attention = g.node("Where", no_pair, g.constant(0, np.float32), attention, at=at)
        y = g.node("MatMul", attention, transposed(v, f"{at}/v"), at=at)
        y = g.node("Reshape", transposed(y, at), g.constant([0, -1, width]), at=at)
        return g.linear(y, f"{at}/linear_out", self._writing(f"{at}/linear_out", width, ATTENTION_OUT))

    def _shifted(self, scores: str, at: str) -> str:
        """From [.., time, 2 time - 1] by distance to the same by key: pad, reinterpret, cut (Dai et al. 2019)."""
        g = self.graph
        shape = g.node("Shape", scores, at=at)
        batch, heads, time, distances = (
            g.node("Unsqueeze", g.node("Gather", shape, g.constant(n), at=at, axis=0), g.constant([0]), at=at)
            for n in range(4)
        )
        x = g.node("Pad", scores, g.constant([0, 0, 0, 1, 0, 0, 0, 0]), g.constant(0, np.float32), at=at)
        x = g.node("Reshape", x, g.node("Concat", batch, heads, g.constant([-1]), time, at=at, axis=0), at=at)
        x = g.node("Slice", x, g.constant([1]), g.constant([2**63 - 1]), g.constant([2]), at=at)
        return g.node("Reshape", x, g.node("Concat", batch, heads, time, distances, at=at, axis=0), at=at)

    def _convolution(self, x: str, at: str, padding: str) -> str:
        g, width, stream = self.graph, self.scale.width, self.stream
        x = g.node("Transpose", x, at=at, perm=[0, 2, 1])
        gates = Weights(f"{at}/pointwise_conv1", (2 * width, width, 1), 1 / math.sqrt(width), (stream.read(1),))
        a, b = g.nodes("Split", g.conv(x, f"{at}/pointwise_conv1", gates, None), at=at, outputs=2, axis=1)
        x = g.node("Mul", a, g.node("Sigmoid", b, at=at), at=at)
        x = g.node("Where", padding, g.constant(0, np.float32), x, at=at)
        depthwise = Weights(f"{at}/depthwise_conv", (width, 1, KERNEL), 1.9 / math.sqrt(KERNEL), centered=2)
        bias = self._small(f"{at}/depthwise_conv.bias", width)
        x = g.conv(x, f"{at}/depthwise_conv", depthwise, bias, group=width, pads=[KERNEL // 2] * 2)
        x = g.silu(x, f"{at}/activation")
        std = self.share * CONVOLUTION_OUT / math.sqrt(width)
        back = Weights(f"{at}/pointwise_conv2", (width, width, 1), std, (stream.write(0),))
        return g.node("Transpose", g.conv(x, f"{at}/pointwise_conv2", back, None), at=at, perm=[0, 2, 1])

    def _reading(self, name: str, outputs: int, std: float) -> Weights:
        width = self.scale.width
        return Weights(name, (width, outputs), std / math.sqrt(width), (self.stream.read(0),))

    def _writing(self, name: str, inputs: int, std: float) -> Weights:
        std *= self.share / math.sqrt(inputs)
        return Weights(name, (inputs, self.scale.width), std, (self.stream.write(1),), centered=0)

    def _small(self, name: str, count: int) -> Floats:
        return normal(name, count) * np.float32(0.1)

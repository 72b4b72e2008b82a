"""The decoder of Parakeet TDT: prediction network and joint in one graph (Graves 2012; Xu et al. 2023).

Why neither the blank nor one token always wins, and why decoding does not run in circles: the weights of a logit sum
to zero over blocks of inputs, so that the positive mean of what leaves a ReLU favours nobody; what varies from
frame to frame is then most of a logit. The blank's logit spreads twice as far as a token's around a mean just below the
best of 8192 tokens, so that each frame decides anew. What was said before weighs little beside what is heard, so
that one changed token does not change all that follow.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto
from parakeet_scale import DURATIONS, TOKENS, Scale
from standin_graph import Dims, GraphBuilder
from standin_weights import Floats, Weights, normal

from hubpub.onnxfile import OnnxFile

LAYERS = 2
SPECIAL = 5
"""Tokens at the start of the vocabulary that nothing may emit."""
FROM_AUDIO = 1.0
FROM_TOKENS = 0.15
"""Standard deviations of what either side adds to the joint."""
BLANK = 2.7
BLANK_SPREAD = 2.0
"""Mean and spread of the blank's logit; a token's has 0 and 1, and the largest of 8192 is at 3.8 on average."""
DURATIONS_BIAS = (-2.5, 0.0, 1.0, 0.0, -1.0)
"""Two frames is the usual step; a step of none is rare, or ten tokens would come from one frame."""


def decoder_joint(scale: Scale, *, int8: bool = False) -> OnnxFile:
    """The graph of one step of decoding, with the states of the LSTM going in and out."""
    g = GraphBuilder("main_graph", int8=int8)
    width = scale.prediction
    frames = g.input(
        "encoder_outputs",
        TensorProto.FLOAT,
        ["encoder_outputs_dynamic_axes_1", scale.width, "encoder_outputs_dynamic_axes_2"],
    )
    targets = g.input("targets", TensorProto.INT32, ["targets_dynamic_axes_1", "targets_dynamic_axes_2"])
    lengths = g.input("target_length", TensorProto.INT32, ["target_length_dynamic_axes_1"])
    states = [
        g.input(f"input_states_{n}", TensorProto.FLOAT, [LAYERS, f"input_states_{n}_dynamic_axes_1", width])
        for n in (1, 2)
    ]

    at = "decoder/prediction"
    table, *quantization = g.weight(f"{at}.embed.weight", Weights(f"{at}.embed", (TOKENS + 1, width), 1.0))
    y = g.node("Gather", table, targets, at=f"{at}/embed", axis=0)
    if quantization:
        y = g.node("DequantizeLinear", y, *quantization, at=f"{at}/embed")
    y = g.node("Transpose", y, at=at, perm=[1, 0, 2])
    after: list[list[str]] = [[], []]
    for n in range(LAYERS):
        before = [
            g.node("Slice", state, g.constant([n]), g.constant([n + 1]), g.constant([0]), at=f"{at}/lstm.{n}")
            for state in states
        ]
        y, hidden, cell = _lstm(g, y, before, f"{at}/lstm.{n}", width)
        y = g.node("Squeeze", y, g.constant([1]), at=f"{at}/lstm.{n}")
        after[0].append(hidden)
        after[1].append(cell)
    y = g.node("Transpose", y, at=at, perm=[1, 0, 2])

    heard = g.node("Transpose", frames, at="joint", perm=[0, 2, 1])
    std = FROM_AUDIO / math.sqrt(scale.width)
    enc = Weights("joint/enc", (scale.width, width), std)
    pred = Weights("joint/pred", (width, width), FROM_TOKENS / (0.3 * math.sqrt(width)))  # an LSTM's output has rms 0.3
    heard = g.linear(heard, "joint/enc", enc, -np.float32(0.1) * normal("joint/enc.bias", width))
    said = g.linear(y, "joint/pred", pred, np.float32(0.1) * normal("joint/pred.bias", width))
    both = g.node(
        "Add",
        g.node("Unsqueeze", heard, g.constant([2]), at="joint/enc"),
        g.node("Unsqueeze", said, g.constant([1]), at="joint/pred"),
        at="joint",
    )
    both = g.node("Relu", both, at="joint")
    columns = [1.0] * (TOKENS + 1 + DURATIONS)
    columns[TOKENS] = BLANK_SPREAD
    out = Weights("joint/out", (width, len(columns)), math.sqrt(2 / width), ((1, tuple(columns)),), 0)
    logits = g.linear(both, "joint/joint_net", out, _logit_bias())

    names: Dims = ["outputs_dynamic_axes_1", "outputs_dynamic_axes_2", "outputs_dynamic_axes_3", len(columns)]
    g.output(logits, "outputs", TensorProto.FLOAT, names)
    g.output(lengths, "prednet_lengths", TensorProto.INT32, ["prednet_lengths_dynamic_axes_1"])
    for n, parts in enumerate(after, 1):
        state = g.node("Concat", *parts, at=f"{at}/states_{n}", axis=0)
        g.output(state, f"output_states_{n}", TensorProto.FLOAT, [LAYERS, f"output_states_{n}_dynamic_axes_1", width])
    return g.finish()


def _lstm(g: GraphBuilder, x: str, before: list[str], at: str, width: int) -> list[str]:
    """Output, hidden state and cell of one layer."""
    std = 1.5 / math.sqrt(width)
    kernels = [Weights(f"{at}.{name}", (1, 4 * width, width), std) for name in ("W", "R")]
    weights, recurrent = (g.weight(kernel.name, kernel, transposed=True) for kernel in kernels)
    bias = g.tensor(f"{at}.B", (np.float32(0.1) * normal(f"{at}.B", 8 * width)).reshape(1, -1))
    if not g.int8:
        return g.nodes("LSTM", x, *weights, *recurrent, bias, "", *before, at=at, outputs=3, hidden_size=width)
    quantization = [*weights[1:], *recurrent[1:]]
    inputs = [x, weights[0], recurrent[0], bias, "", *before, "", *quantization]
    return g.nodes("DynamicQuantizeLSTM", *inputs, at=at, outputs=3, domain="com.microsoft", hidden_size=width)


def _logit_bias() -> Floats:
    bias = normal("joint/joint_net.bias", TOKENS + 1 + DURATIONS) * np.float32(0.1)
    bias[:SPECIAL] = -10
    bias[TOKENS] = BLANK
    bias[TOKENS + 1 :] = DURATIONS_BIAS
    return bias

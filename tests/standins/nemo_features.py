"""``nemo128.onnx``: the log-mel features of NeMo's AudioToMelSpectrogramPreprocessor, with no dither, as a graph."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from parakeet_scale import MELS
from standin_graph import GraphBuilder
from standin_weights import Floats

from hubpub.onnxfile import OnnxFile

RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512
"""Samples."""
PREEMPHASIS = 0.97
GUARD = 2.0**-24
"""Added to the power under the logarithm."""


def nemo_features() -> OnnxFile:
    """The graph ``waveforms [batch, samples], waveforms_lens -> features [batch, 128, frames], features_lens``."""
    g = GraphBuilder("NemoPreprocessor128")
    waves = g.input("waveforms", TensorProto.FLOAT, ["batch_size", "N"])
    lens = g.input("waveforms_lens", TensorProto.INT64, ["batch_size"])

    at = "preemphasis"
    delayed = g.node("Pad", waves, g.constant([0, 1, 0, -1]), at=at)
    emphasized = g.node("Sub", waves, g.node("Mul", delayed, g.constant(PREEMPHASIS, np.float32), at=at), at=at)
    x = g.node("Where", _within(g, lens, waves, at), emphasized, g.constant(0, np.float32), at=at)

    at = "spectrum"
    x = g.node("Pad", x, g.constant([0, FFT // 2, 0, FFT // 2]), at=at)
    window = g.tensor("window", np.pad(np.hanning(WINDOW), (FFT - WINDOW) // 2).astype(np.float32))
    x = g.node("STFT", x, g.constant(HOP), window, g.constant(FFT), at=at, onesided=1)
    power = g.node("ReduceSumSquare", x, at=at, axes=[-1], keepdims=0)
    mels = g.node("MatMul", power, g.tensor("melscale_fbanks", mel_filters()), at="mel")
    x = g.node("Log", g.node("Add", mels, g.constant(GUARD, np.float32), at="mel"), at="mel")
    x = g.node("Transpose", x, at="mel", perm=[0, 2, 1])

    at = "normalize"  # every mel band on its own, over the frames that are there
    frames = g.node("Div", lens, g.constant(HOP), at=at)
    there = g.node("Unsqueeze", _within(g, frames, x, at, axis=2), g.constant([1]), at=at)
    count = g.node("Cast", g.node("Unsqueeze", frames, g.constant([1, 2]), at=at), at=at, to=TensorProto.FLOAT)
    zero = g.constant(0, np.float32)

    def total(value: str) -> str:
        return g.node("ReduceSum", g.node("Where", there, value, zero, at=at), g.constant([2]), at=at, keepdims=1)

    centered = g.node("Sub", x, g.node("Div", total(x), count, at=at), at=at)
    one_less = g.node("Sub", count, g.constant(1, np.float32), at=at)
    variance = g.node("Div", total(g.node("Mul", centered, centered, at=at)), one_less, at=at)
    deviation = g.node("Add", g.node("Sqrt", variance, at=at), g.constant(1e-5, np.float32), at=at)
    features = g.node("Where", there, g.node("Div", centered, deviation, at=at), zero, at=at)

    g.output(features, "features", TensorProto.FLOAT, ["batch_size", MELS, "T"])
    g.output(frames, "features_lens", TensorProto.INT64, ["batch_size"])
    return g.finish()


def mel_filters() -> Floats:
    """Triangles of equal area on Slaney's mel scale from 0 to 8 kHz, [frequencies, mels], as librosa has them.

    Linear up to 1 kHz, logarithmic above (Slaney 1998, Auditory Toolbox).
    """
    hertz_per_mel, log_from, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    mel_of_log = log_from / hertz_per_mel
    top = mel_of_log + np.log(RATE / 2 / log_from) / log_step
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < mel_of_log, mels * hertz_per_mel, log_from * np.exp(log_step * (mels - mel_of_log)))
    frequencies = np.linspace(0, RATE / 2, FFT // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    rounded: Floats = (np.rint(filters * 2**30) / 2**30).astype(np.float32)  # the last bits are libm's
    return rounded


def _within(g: GraphBuilder, lens: str, x: str, at: str, axis: int = 1) -> str:
    size = g.node("Gather", g.node("Shape", x, at=at), g.constant(axis), at=at, axis=0)
    times = g.node("Range", g.constant(0), size, g.constant(1), at=at)
    return g.node("Less", times, g.node("Unsqueeze", lens, g.constant([1]), at=at), at=at)

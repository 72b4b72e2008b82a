"""A stand-in for FluidInference's wespeaker package: the same interface, layers of the same kinds, random weights.

The interface is that of its users: ``waveform [3, 160000]`` and ``mask [3, 589]`` (which of a segmentation's frames are
of the speaker) to ``embedding [3, 256]``. Inside are a filter bank made of convolutions, ResNet34's four stages, masked
mean and deviation over time, and one linear layer, as in WeSpeaker (Wang et al. 2023). Its weights are random but its
front end is real, so that what it gives depends on what is said; ``channels`` scales it (32 is the real one).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
SEGMENTS, SAMPLES, MASK, EMBEDDING = 3, 160_000, 589, 256
STAGES = ((3, 1, 1), (4, 2, 2), (6, 4, 2), (3, 8, 2))
"""Blocks, times the channels of the first, stride."""


def filter_bank(mels: int = 80, size: int = 400, points: int = 512) -> tuple[Array, Array]:
    """Windowed cosines and sines ``[2 * bins, 1, size]``, and triangles on the mel scale ``[mels, bins]``."""
    window = np.hanning(size + 1)[:-1] ** 0.85
    bins = points // 2
    angles = 2 * np.pi * np.outer(np.arange(bins), np.arange(size)) / points
    waves = np.concatenate([np.cos(angles), np.sin(angles)]) * window

    def mel(hz: Any) -> Any:
        return 1127 * np.log1p(np.asarray(hz) / 700)

    edges = np.linspace(mel(20), mel(8000), mels + 2)
    at = mel(np.arange(bins) * 16_000 / points)
    rise = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    return waves[:, None].astype(np.float32), np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


def write(path: Path, *, channels: int = 4, seed: int = 0) -> None:
    """Write the package, marked as synthetic."""
    import coremltools
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    from hubpub.coremlfile.marks import mark_synthetic

    rng = np.random.default_rng(seed)
    waves, triangles = filter_bank()
    target = coremltools.target.iOS17

    def weight(*shape: int) -> Array:
        return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    def conv(x: Any, out: int, size: int, stride: int) -> Any:
        kernel = weight(out, x.shape[1], size, size)
        bias = rng.normal(scale=0.1, size=out).astype(np.float32)
        pad = [size // 2] * 4
        return mb.conv(x=x, weight=kernel, bias=bias, strides=[stride] * 2, pad_type="custom", pad=pad)

    def block(x: Any, out: int, stride: int) -> Any:
        same = x if stride == 1 and x.shape[1] == out else conv(x, out, 1, stride)
        y = conv(mb.relu(x=conv(x, out, 3, stride)), out, 3, 1)
        return mb.relu(x=mb.add(x=mb.mul(x=y, y=np.float32(0.5)), y=same))

    specs = [mb.TensorSpec(shape=(SEGMENTS, size), dtype=types.fp32) for size in (SAMPLES, MASK)]

    @mb.program(input_specs=specs, opset_version=target)
    def program(waveform: Any, mask: Any) -> Any:
        x = mb.conv(x=mb.expand_dims(x=waveform, axes=[1]), weight=waves, strides=[160], pad_type="valid")
        real, imaginary = mb.split(x=mb.square(x=x), num_splits=2, axis=1)
        power = mb.transpose(x=mb.add(x=real, y=imaginary), perm=[0, 2, 1])
        mels = mb.log(x=mb.linear(x=power, weight=triangles), epsilon=np.float32(1e-4))
        mels = mb.sub(x=mels, y=mb.reduce_mean(x=mels, axes=[1], keep_dims=True))
        x = mb.relu(x=conv(mb.expand_dims(x=mb.transpose(x=mels, perm=[0, 2, 1]), axes=[1]), channels, 3, 1))
        for blocks, factor, stride in STAGES:
            for number in range(blocks):
                x = block(x, channels * factor, stride if number == 0 else 1)
        frames = x.shape[-1]
        flat = mb.reshape(x=x, shape=[SEGMENTS, -1, frames])
        wide = mb.resize_nearest_neighbor(
            x=mb.expand_dims(x=mask, axes=[1]), target_size_height=1, target_size_width=frames
        )
        share = mb.real_div(x=wide, y=mb.add(x=mb.reduce_sum(x=wide, axes=[2], keep_dims=True), y=np.float32(1e-3)))
        mean = mb.reduce_sum(x=mb.mul(x=flat, y=share), axes=[2], keep_dims=True)
        off = mb.square(x=mb.sub(x=flat, y=mean))
        deviation = mb.sqrt(
            x=mb.add(x=mb.reduce_sum(x=mb.mul(x=off, y=share), axes=[2], keep_dims=True), y=np.float32(1e-4))
        )
        pooled = mb.reshape(x=mb.concat(values=(mean, deviation), axis=1), shape=[SEGMENTS, -1])
        bias = np.zeros(EMBEDDING, np.float32)
        return mb.linear(x=pooled, weight=weight(EMBEDDING, pooled.shape[1]), bias=bias, name="embedding")

    model = coremltools.convert(
        program, convert_to="mlprogram", minimum_deployment_target=target, compute_units=coremltools.ComputeUnit.ALL
    )
    spec = model.get_spec()
    mark_synthetic(spec)
    coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))

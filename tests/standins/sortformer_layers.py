"""The two programs of a Sortformer pipeline, in MIL: layers as in NeMo's FastConformer and Transformer encoders.

Random layers say nearly the same of every frame, and a small change of any weight changes that: no trained model is so.
So what a layer adds to its input is small, and four directions, one for each speaker, lead through the network: from
random sums of what the convolutions find, over embeddings and projection, to the last layer, whose mean over the frames
is taken off, which is the one thing that the real head does not do: every speaker is on and off, whatever is heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types
from standin_weights import normal

WIDTH, HEAD_WIDTH, SPEAKERS, BANDS = 512, 192, 4, 128
_HEADS = 8
_SHARPNESS = 1.0  # of the last layer, so that most probabilities are near 0 or 1
_LEAD = 4.0
_MEAN, _SPREAD = 13.0, 3.0  # of log-mel features of speech, roughly; the first is minus the mean
_BRANCH = 0.2  # what a layer adds to what goes past it, as in trained models small
_FAR = -1e4  # what a frame that is not there is given before a softmax; fp16 holds it

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """How large: layers and inner widths; the widths that the interface shows are fixed."""

    conformers: int
    conformer_inner: int
    transformers: int
    transformer_inner: int
    channels: int


def pre_encoder(scale: Scale, checkpoint: str, variant: Any) -> Any:
    """Features of a chunk to embeddings, and the valid frames of cache, FIFO and chunk side by side."""
    cache, fifo, count = variant.spkcache_len, variant.fifo_len, variant.embeddings
    total = variant.frames
    weights = _Weights(checkpoint, np.float32)
    specs = [
        mb.TensorSpec((1, 8 * count, BANDS), types.fp32),
        mb.TensorSpec((1,), types.int32),
        mb.TensorSpec((1, cache, WIDTH), types.fp32),
        mb.TensorSpec((1,), types.int32),
        mb.TensorSpec((1, fifo, WIDTH), types.fp32),
        mb.TensorSpec((1,), types.int32),
    ]

    @mb.program(input_specs=specs)
    def program(
        chunk: Any, chunk_lengths: Any, spkcache: Any, spkcache_lengths: Any, fifo: Any, fifo_lengths: Any
    ) -> Any:
        there = mb.less(x=np.arange(8 * count, dtype=np.int32), y=chunk_lengths)
        there = mb.reshape(x=mb.cast(x=there, dtype="fp32"), shape=[1, 8 * count, 1])
        x = mb.mul(x=mb.add(x=chunk, y=weights.number(_MEAN)), y=weights.number(1 / _SPREAD))
        x = mb.expand_dims(x=mb.mul(x=x, y=there), axes=[1])
        x = _conv2d(x, weights("pre/conv0", (scale.channels, 1, 3, 3)), stride=2)
        x = mb.relu(x=x)
        for number in (1, 2):
            depthwise = weights(f"pre/dw{number}", (scale.channels, 1, 3, 3), std=0.3) + weights.number(
                0.2
            )  # a mean, roughly
            x = _conv2d(x, depthwise, stride=2, groups=scale.channels)
            x = _conv2d(x, weights(f"pre/pw{number}", (scale.channels, scale.channels, 1, 1), std=1.4))
            x = mb.relu(x=x)
        x = mb.transpose(x=x, perm=[0, 2, 1, 3])
        x = mb.reshape(x=x, shape=[1, count, scale.channels * BANDS // 8])
        x = mb.linear(x=x, weight=weights.leading("pre/out", "heard", (WIDTH, scale.channels * BANDS // 8), "width"))
        embeddings = mb.identity(x=x, name="chunk_pre_encoder_embs")
        length = chunk_lengths
        for _ in range(3):
            length = mb.floor_div(x=mb.add(x=length, y=np.int32(1)), y=np.int32(2))
        length = mb.identity(x=length, name="chunk_pre_encoder_lengths")
        everything = mb.concat(values=[spkcache, fifo, embeddings], axis=1)
        before = mb.add(x=spkcache_lengths, y=fifo_lengths)
        lengths = mb.add(x=before, y=length, name="pre_encoder_lengths")
        at = np.arange(total, dtype=np.int32)
        of_fifo = mb.add(x=mb.sub(x=at, y=spkcache_lengths), y=np.int32(cache))
        of_chunk = mb.add(x=mb.sub(x=at, y=before), y=np.int32(cache + variant.fifo_len))
        later = mb.select(cond=mb.less(x=at, y=before), a=of_fifo, b=of_chunk)
        source = mb.select(cond=mb.less(x=at, y=spkcache_lengths), a=at, b=later)
        valid = mb.less(x=at, y=lengths)
        source = mb.select(cond=valid, a=source, b=np.zeros(total, np.int32))
        packed = mb.gather(x=everything, indices=source, axis=1)
        mask = mb.reshape(x=mb.cast(x=valid, dtype="fp32"), shape=[1, total, 1])
        packed = mb.mul(x=packed, y=mask, name="pre_encoder_embs")
        return packed, lengths, embeddings, length

    return program


def head(scale: Scale, checkpoint: str, variant: Any) -> Any:
    """Embeddings to what each speaker does in every frame, through conformer and transformer."""
    total = variant.frames
    specs = [mb.TensorSpec((1, total, WIDTH), types.fp32), mb.TensorSpec((1,), types.int32)]
    aliased = variant.name == "Sortformer_v2"
    if aliased:
        specs.append(mb.TensorSpec((1, variant.embeddings, WIDTH), types.fp32))
    weights = _Weights(checkpoint, np.float16)

    def body(pre_encoder_embs: Any, pre_encoder_lengths: Any) -> Any:
        valid = mb.less(x=np.arange(total, dtype=np.int32), y=pre_encoder_lengths)
        kept = mb.cast(x=valid, dtype="fp16")
        far = mb.mul(x=mb.sub(x=weights.number(1), y=kept), y=weights.number(_FAR))
        far = mb.reshape(x=far, shape=[1, 1, 1, total])
        kept = mb.reshape(x=kept, shape=[1, 1, total])
        positions = _positions(total)
        x = mb.cast(x=pre_encoder_embs, dtype="fp16")
        for number in range(scale.conformers):
            x = _conformer(x, weights.under(f"fc{number}"), scale, positions, far, kept)
        x = encoded = mb.linear(x=x, weight=weights.leading("proj", "width", (HEAD_WIDTH, WIDTH), "head"))
        for number in range(scale.transformers):
            x = _transformer(x, weights.under(f"tf{number}"), scale, far)
        hidden = mb.linear(x=mb.relu(x=x), weight=weights.leading("hidden", "head", (HEAD_WIDTH, HEAD_WIDTH), "hidden"))
        last = weights("speakers", (SPEAKERS, HEAD_WIDTH), std=_BRANCH) + weights.number(
            _SHARPNESS
        ) * weights.directions("hidden", HEAD_WIDTH)
        speakers = mb.linear(x=mb.relu(x=hidden), weight=last)
        mask = mb.reshape(x=kept, shape=[1, total, 1])
        sums = mb.reduce_sum(x=mb.mul(x=speakers, y=mask), axes=[1], keep_dims=True)
        speakers = mb.sub(x=speakers, y=mb.real_div(x=sums, y=mb.cast(x=pre_encoder_lengths, dtype="fp16")))
        speakers = mb.sigmoid(x=speakers)
        predictions = mb.cast(x=mb.mul(x=speakers, y=mask), dtype="fp32", name="speaker_preds")
        inside = mb.cast(x=encoded, dtype="fp32", name="nest_encoder_embs")
        return predictions, inside, mb.identity(x=pre_encoder_lengths, name="nest_encoder_lengths")

    if not aliased:
        return mb.program(input_specs=specs)(body)

    @mb.program(input_specs=specs)
    def program(pre_encoder_embs: Any, pre_encoder_lengths: Any, chunk_pre_encoder_embs: Any) -> Any:
        return body(pre_encoder_embs, pre_encoder_lengths)

    return program


class _Weights:
    """Random weights by name, in the precision that the program computes in."""

    def __init__(self, prefix: str, dtype: type[np.floating[Any]]) -> None:
        self._prefix, self._dtype = prefix, dtype

    def under(self, name: str) -> _Weights:
        return _Weights(f"{self._prefix}/{name}", self._dtype)

    def number(self, value: float) -> Any:
        return self._dtype(value)

    def __call__(self, name: str, shape: tuple[int, ...], *, std: float = 1.0) -> Any:
        """Normal values; ``std`` before the division by the square root of the inputs."""
        values = normal(f"sortformer/{self._prefix}/{name}", int(np.prod(shape))).reshape(shape)
        inputs = int(np.prod(shape[1:]))
        return (values * np.float32(std / np.sqrt(inputs))).astype(self._dtype)

    def directions(self, name: str, size: int) -> Any:
        """One of length 1 for each speaker, ``[speakers, size]``, blind to levels and slopes over 16 bands."""
        found = normal(f"sortformer/{self._prefix}/directions/{name}", SPEAKERS * size).reshape(SPEAKERS, -1, 16)
        slope = np.linspace(-1, 1, 16)
        found = found - found.mean(axis=2, keepdims=True)
        found = (found - (found @ slope)[..., None] * slope / (slope @ slope)).reshape(SPEAKERS, size)
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(self._dtype)

    def leading(self, name: str, start: str, shape: tuple[int, int], end: str) -> Any:
        """Normal values, and what leads the directions ``start`` to the directions ``end``."""
        first = self.directions(start, shape[1]).astype(np.float32)
        last = self.directions(end, shape[0]).astype(np.float32)
        return (_LEAD * last.T @ first + _BRANCH * self(name, shape).astype(np.float32)).astype(self._dtype)

    def bias(self, name: str, size: int) -> Any:
        return (0.02 * normal(f"sortformer/{self._prefix}/{name}", size)).astype(self._dtype)

    def gain(self, name: str, size: int) -> Any:
        return (1 + 0.1 * normal(f"sortformer/{self._prefix}/{name}", size)).astype(self._dtype)


def _conformer(x: Any, weights: _Weights, scale: Scale, positions: Any, far: Any, kept: Any) -> Any:
    x = mb.add(x=x, y=_feed_forward(x, weights.under("ff1"), scale.conformer_inner))
    x = mb.add(x=x, y=_relative_attention(_norm(x, weights, "norm_att", WIDTH), weights.under("att"), positions, far))
    x = mb.add(x=x, y=_convolution(_norm(x, weights, "norm_conv", WIDTH), weights.under("conv"), kept))
    x = mb.add(x=x, y=_feed_forward(x, weights.under("ff2"), scale.conformer_inner))
    return _norm(x, weights, "norm_out", WIDTH)


def _feed_forward(x: Any, weights: _Weights, inner: int) -> Any:
    x = _norm(x, weights, "norm", WIDTH)
    x = mb.silu(x=mb.linear(x=x, weight=weights("in", (inner, WIDTH)), bias=weights.bias("in_bias", inner)))
    x = mb.linear(x=x, weight=weights("out", (WIDTH, inner), std=_BRANCH), bias=weights.bias("out_bias", WIDTH))
    return mb.mul(x=x, y=weights.number(0.5))


def _relative_attention(x: Any, weights: _Weights, positions: Any, far: Any) -> Any:
    """Attention with relative positions (Dai et al., Transformer-XL, 2019)."""
    frames, size = x.shape[1], WIDTH // _HEADS
    query, key, value = (
        _heads(mb.linear(x=x, weight=weights(name, (WIDTH, WIDTH))), frames, size) for name in ("q", "k", "v")
    )
    place = _heads(mb.linear(x=positions, weight=weights("pos", (WIDTH, WIDTH))), 2 * frames - 1, size)
    u, v = (weights(name, (1, _HEADS, 1, size), std=1.0) for name in ("u", "v"))
    content = mb.matmul(x=mb.add(x=query, y=u), y=key, transpose_y=True)
    shifted = mb.matmul(x=mb.add(x=query, y=v), y=place, transpose_y=True)
    shifted = mb.pad(x=shifted, pad=[0, 0, 0, 0, 0, 0, 1, 0], mode="constant", constant_val=weights.number(0))
    shifted = mb.reshape(x=shifted, shape=[1, _HEADS, 2 * frames, frames])
    shifted = mb.slice_by_index(x=shifted, begin=[0, 0, 1, 0], end=[1, _HEADS, 2 * frames, frames])
    shifted = mb.reshape(x=shifted, shape=[1, _HEADS, frames, 2 * frames - 1])
    shifted = mb.slice_by_index(x=shifted, begin=[0, 0, 0, 0], end=[1, _HEADS, frames, frames])
    scores = mb.mul(x=mb.add(x=content, y=shifted), y=weights.number(1 / np.sqrt(size)))
    mixed = mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=far), axis=-1), y=value)
    mixed = mb.reshape(x=mb.transpose(x=mixed, perm=[0, 2, 1, 3]), shape=[1, frames, WIDTH])
    return mb.linear(x=mixed, weight=weights("out", (WIDTH, WIDTH), std=_BRANCH))


def _convolution(x: Any, weights: _Weights, kept: Any) -> Any:
    x = mb.transpose(x=x, perm=[0, 2, 1])
    x = mb.conv(x=x, weight=weights("pw1", (2 * WIDTH, WIDTH, 1)), pad_type="valid")
    left, right = mb.split(x=x, num_splits=2, axis=1)
    x = mb.mul(x=mb.mul(x=left, y=mb.sigmoid(x=right)), y=kept)
    x = mb.conv(x=x, weight=weights("dw", (WIDTH, 1, 9)), pad_type="custom", pad=[4, 4], groups=WIDTH)
    x = mb.conv(x=mb.silu(x=x), weight=weights("pw2", (WIDTH, WIDTH, 1), std=_BRANCH), pad_type="valid")
    return mb.transpose(x=x, perm=[0, 2, 1])


def _transformer(x: Any, weights: _Weights, scale: Scale, far: Any) -> Any:
    frames, size, inner = x.shape[1], HEAD_WIDTH // _HEADS, scale.transformer_inner
    query, key, value = (
        _heads(mb.linear(x=x, weight=weights(name, (HEAD_WIDTH, HEAD_WIDTH))), frames, size) for name in ("q", "k", "v")
    )
    scores = mb.mul(x=mb.matmul(x=query, y=key, transpose_y=True), y=weights.number(1 / np.sqrt(size)))
    mixed = mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=far), axis=-1), y=value)
    mixed = mb.reshape(x=mb.transpose(x=mixed, perm=[0, 2, 1, 3]), shape=[1, frames, HEAD_WIDTH])
    mixed = mb.linear(x=mixed, weight=weights("out", (HEAD_WIDTH, HEAD_WIDTH), std=_BRANCH))
    x = _norm(mb.add(x=x, y=mixed), weights, "norm1", HEAD_WIDTH)
    inside = mb.relu(x=mb.linear(x=x, weight=weights("in", (inner, HEAD_WIDTH)), bias=weights.bias("in_bias", inner)))
    inside = mb.linear(
        x=inside, weight=weights("to", (HEAD_WIDTH, inner), std=_BRANCH), bias=weights.bias("bias", HEAD_WIDTH)
    )
    return _norm(mb.add(x=x, y=inside), weights, "norm2", HEAD_WIDTH)


def _heads(x: Any, frames: int, size: int) -> Any:
    return mb.transpose(x=mb.reshape(x=x, shape=[1, frames, _HEADS, size]), perm=[0, 2, 1, 3])


def _norm(x: Any, weights: _Weights, name: str, width: int) -> Any:
    gain, bias = weights.gain(f"{name}_gain", width), weights.bias(f"{name}_bias", width)
    return mb.layer_norm(x=x, axes=[-1], gamma=gain, beta=bias, epsilon=weights.number(1e-5))


def _conv2d(x: Any, weight: Any, stride: int = 1, groups: int = 1) -> Any:
    pad = [weight.shape[2] // 2] * 2 + [weight.shape[3] // 2] * 2
    return mb.conv(x=x, weight=weight, strides=[stride, stride], pad_type="custom", pad=pad, groups=groups)


def _positions(frames: int) -> npt.NDArray[np.float16]:
    """Sines and cosines of the distances from ``frames - 1`` down to ``1 - frames``, ``[1, 2 frames - 1, width]``."""
    distance = np.arange(frames - 1, -frames, -1, dtype=np.float64)[:, None]
    rates = np.exp(np.arange(0, WIDTH, 2) * (-np.log(10000.0) / WIDTH))
    table = np.zeros((2 * frames - 1, WIDTH), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(distance * rates), np.cos(distance * rates)
    return table[None].astype(np.float16)

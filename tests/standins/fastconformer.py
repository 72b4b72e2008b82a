"""The encoder once more, in NumPy and by the papers' formulas, to check the graph against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def encode(w: Mapping[str, Array], features: Array, heads: int, layers: int) -> Array:
    """One utterance without padding, float64.

    Args:
        w: initializers by name; matrices are [in, out].
        features: [mels, frames].
        heads: of the attention.
        layers: how many.

    Returns:
        [frames / 8, width].
    """
    x = features.T[None]
    for n, name in enumerate(("conv.0", "conv.2", "conv.5")):
        x = _strided(x, w[f"pre_encode.{name}.weight"], w[f"pre_encode.{name}.bias"])
        if n:
            pointwise = f"pre_encode.conv.{3 * n}"
            x = np.einsum("oi,itf->otf", w[f"{pointwise}.weight"][:, :, 0, 0], x)
            x += w[f"{pointwise}.bias"][:, None, None]
        x = np.maximum(x, 0)
    x = x.transpose(1, 0, 2).reshape(x.shape[1], -1) @ w["pre_encode.out.weight"] + w["pre_encode.out.bias"]
    for n in range(layers):
        at = f"layers.{n}."
        x = x + 0.5 * _feed_forward(w, f"{at}feed_forward1", _norm(w, f"{at}norm_feed_forward1", x))
        x = x + _attention(w, f"{at}self_attn", _norm(w, f"{at}norm_self_att", x), heads)
        x = x + _convolution(w, f"{at}conv", _norm(w, f"{at}norm_conv", x))
        x = x + 0.5 * _feed_forward(w, f"{at}feed_forward2", _norm(w, f"{at}norm_feed_forward2", x))
        x = _norm(w, f"{at}norm_out", x)
    return x


def _strided(x: Array, weight: Array, bias: Array) -> Array:
    """3 x 3, stride 2, padding 1; either from one channel or each channel for itself."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    spec = "itfab,oab->otf" if x.shape[0] == 1 else "otfab,oab->otf"
    y: Array = np.einsum(spec, windows, weight[:, 0]) + bias[:, None, None]
    return y


def _norm(w: Mapping[str, Array], at: str, x: Array) -> Array:
    centered = x - x.mean(1, keepdims=True)
    scaled: Array = centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-5)
    return scaled * w[f"{at}.weight"] + w[f"{at}.bias"]


def _sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


def _feed_forward(w: Mapping[str, Array], at: str, x: Array) -> Array:
    x = x @ w[f"{at}.linear1.weight"]
    y: Array = (x * _sigmoid(x)) @ w[f"{at}.linear2.weight"]
    return y


def _attention(w: Mapping[str, Array], at: str, x: Array, heads: int) -> Array:
    """Every pair of frames by itself: no shift, no table."""
    time, width = x.shape
    depth = width // heads
    q, k, v = ((x @ w[f"{at}.linear_{name}.weight"]).reshape(time, heads, depth) for name in "qkv")
    distance = np.arange(time)[:, None] - np.arange(time)
    rates = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = distance[..., None] * rates
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(time, time, width)
    p = (table @ w[f"{at}.linear_pos.weight"]).reshape(time, time, heads, depth)
    scores = np.einsum("ihd,jhd->hij", q + w[f"{at}.pos_bias_u"], k)
    scores = scores + np.einsum("ihd,ijhd->hij", q + w[f"{at}.pos_bias_v"], p)
    scores = scores / np.sqrt(depth)
    weights = np.exp(scores - scores.max(2, keepdims=True))
    weights /= weights.sum(2, keepdims=True)
    y: Array = np.einsum("hij,jhd->ihd", weights, v).reshape(time, width) @ w[f"{at}.linear_out.weight"]
    return y


def _convolution(w: Mapping[str, Array], at: str, x: Array) -> Array:
    a, gate = np.split(x @ w[f"{at}.pointwise_conv1.weight"][:, :, 0].T, 2, axis=1)
    kernel = w[f"{at}.depthwise_conv.weight"][:, 0]
    padded = np.pad(a * _sigmoid(gate), ((kernel.shape[1] // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[1], axis=0)
    y = np.einsum("tck,ck->tc", windows, kernel) + w[f"{at}.depthwise_conv.bias"]
    out: Array = (y * _sigmoid(y)) @ w[f"{at}.pointwise_conv2.weight"][:, :, 0].T
    return out

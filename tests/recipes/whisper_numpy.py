"""Whisper's forward pass in NumPy, float64, straight from CTranslate2 weights: what the ONNX graphs are held against.

It shares the conversion script's reader and nothing else: no cache, no merged branches, projections left fused as
CTranslate2 stores them. Written from Radford et al. 2022 (arXiv:2212.04356), section 2.2.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
SCRIPT = Path(__file__).parents[2] / "recipes" / "scripts" / "ct2_whisper_to_onnx.py"

_erf = np.vectorize(math.erf, otypes=[np.float64])


def load_script() -> ModuleType:
    """Import the conversion script, which is no part of a package."""
    name = "ct2_whisper_to_onnx"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class NumpyWhisper:
    """A Whisper model: ``encode`` log-mel features, ``decode`` all tokens at once."""

    def __init__(self, folder: Path) -> None:
        self._weights: Any = load_script().Ct2Weights(folder / "model.bin")

    def _get(self, name: str) -> Array:
        value: Array = self._weights.tensor(name, self._weights.shape(name)).astype(np.float64)
        return value

    def _layers(self, side: str) -> int:
        return next(i for i in range(1000) if f"{side}/layer_{i}/ffn/linear_0/bias" not in self._weights)

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._get(f"{name}/weight").T + self._get(f"{name}/bias")

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        result: Array = scaled * self._get(f"{name}/gamma") + self._get(f"{name}/beta")
        return result

    def _conv(self, x: Array, name: str, stride: int) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)[:, :, ::stride]
        result: Array = np.einsum("bctk,ock->bot", windows, self._get(f"{name}/weight"), optimize=True)
        return _gelu(result + self._get(f"{name}/bias")[:, None])

    def _attention(self, qkv: Sequence[Array], heads: int, mask: Array | None = None) -> Array:
        batch, _, width = qkv[0].shape
        q, k, v = (x.reshape(batch, x.shape[1], heads, width // heads).swapaxes(1, 2) for x in qkv)
        scores = q @ k.swapaxes(2, 3) / math.sqrt(width // heads)
        scores = scores if mask is None else scores + mask
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        result: Array = (weights @ v).swapaxes(1, 2).reshape(batch, -1, width)
        return result

    def _ffn(self, x: Array, name: str) -> Array:
        inner = _gelu(self._linear(self._norm(x, f"{name}/layer_norm"), f"{name}/linear_0"))
        return x + self._linear(inner, f"{name}/linear_1")

    def encode(self, features: npt.NDArray[Any]) -> Array:
        """Return the encoder's output [batch, time, width] for log-mel features [batch, mels, 2 * time]."""
        heads = self._weights.scalar("encoder/num_heads")
        x = self._conv(features.astype(np.float64), "encoder/conv1", 1)
        x = self._conv(x, "encoder/conv2", 2).swapaxes(1, 2) + self._get("encoder/position_encodings/encodings")
        for i in range(self._layers("encoder")):
            name = f"encoder/layer_{i}"
            y = self._linear(self._norm(x, f"{name}/self_attention/layer_norm"), f"{name}/self_attention/linear_0")
            x = x + self._linear(self._attention(np.split(y, 3, -1), heads), f"{name}/self_attention/linear_1")
            x = self._ffn(x, f"{name}/ffn")
        return self._norm(x, "encoder/layer_norm")

    def decode(self, tokens: npt.NDArray[np.int64], audio: npt.NDArray[Any]) -> Array:
        """Return the logits [batch, tokens, vocabulary], each position seeing the tokens up to itself."""
        heads = self._weights.scalar("decoder/num_heads")
        length = tokens.shape[1]
        causal = np.triu(np.full((length, length), -np.inf), 1)
        embedding = self._get("decoder/embeddings/weight")
        x = embedding[tokens] + self._get("decoder/position_encodings/encodings")[:length]
        for i in range(self._layers("decoder")):
            name = f"decoder/layer_{i}"
            y = self._linear(self._norm(x, f"{name}/self_attention/layer_norm"), f"{name}/self_attention/linear_0")
            x = x + self._linear(self._attention(np.split(y, 3, -1), heads, causal), f"{name}/self_attention/linear_1")
            q = self._linear(self._norm(x, f"{name}/attention/layer_norm"), f"{name}/attention/linear_0")
            k, v = np.split(self._linear(audio.astype(np.float64), f"{name}/attention/linear_1"), 2, -1)
            x = x + self._linear(self._attention((q, k, v), heads), f"{name}/attention/linear_2")
            x = self._ffn(x, f"{name}/ffn")
        return self._norm(x, "decoder/layer_norm") @ embedding.T


def _gelu(x: Array) -> Array:
    result: Array = 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))
    return result

"""A small transformer block with outlier channels, windows for it, and its quantized forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from transform.fp16_graphs import graph

from hubpub.transform.smoothquant_int8 import SmoothQuantInt8

Array = npt.NDArray[Any]

BLOCK = """
block (float[b, t, 32] x) => (float[b, t, 32] y)
{
  n = LayerNormalization <axis = -1, epsilon = 0.00001> (x, gain, shift)
  q = MatMul (n, wq)
  k0 = MatMul (n, wk)
  k = Add (k0, bk)
  kt = Transpose <perm = [0, 2, 1]> (k)
  s = MatMul (q, kt)
  p = Softmax <axis = -1> (s)
  v0 = MatMul (n, wv)
  v = Add (v0, bv)
  c = MatMul (p, v)
  o = MatMul (c, wo)
  r = Add (x, o)
  f0 = MatMul (r, w1)
  f1 = Add (b1, f0)
  f = Relu (f1)
  g = MatMul (f, w2)
  y0 = Add (r, g)
  y = Add (y0, table)
}
"""


def weights(seed: int = 0) -> dict[str, Array]:
    """Those of `BLOCK`; some channels are much larger than the others."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Array:
        return (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)

    gain = np.exp(rng.normal(size=32)).astype(np.float32)
    gain[[3, 17]] = 40
    named = {name: matrix(32, 32) for name in ("wq", "wk", "wv", "wo")}
    named["wq"] /= 30
    vectors = {name: rng.normal(size=size).astype(np.float32) for name, size in (("bk", 32), ("bv", 32), ("b1", 128))}
    return {
        **named, **vectors, "w1": matrix(32, 128), "w2": matrix(128, 32), "gain": gain,
        "shift": rng.normal(size=32).astype(np.float32), "table": matrix(64, 32)[:1] * np.ones((1, 1), np.float32),
    }  # fmt: skip


def block(opset: int = 17, seed: int = 0) -> onnx.ModelProto:
    return graph(BLOCK, opset, **weights(seed))


class Sequences:
    """``count`` windows of differing length, the same at every iteration; ``stop`` breaks off before that one."""

    def __init__(self, count: int = 6, stop: int | None = None, seed: int = 1) -> None:
        self._count, self._stop, self._seed = count, stop, seed

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        for number in range(self._count):
            if number == self._stop:
                raise KeyboardInterrupt
            rng = np.random.default_rng((self._seed, number))
            yield {"x": rng.normal(size=(1 + number % 2, 20 + 7 * number, 32)).astype(np.float32)}


def quantize(
    model: onnx.ModelProto, folder: Path, windows: Any = None, resume: Path | None = None, **params: Any
) -> tuple[Path, dict[str, Any]]:
    """Write the model, quantize it, and return the result and its facts."""
    folder.mkdir(exist_ok=True)
    source, target = folder / "m.onnx", folder / "out" / "m.onnx"
    target.parent.mkdir(exist_ok=True)
    source.write_bytes(model.SerializeToString(deterministic=True))
    params = {"min_elements": 64, **params}
    facts = SmoothQuantInt8(**params).apply_calibrated(
        source, target, Sequences() if windows is None else windows, resume, lambda _: None
    )
    assert {path.name for path in target.parent.iterdir()} <= {"m.onnx", "m.onnx.data"}
    return target, dict(facts)

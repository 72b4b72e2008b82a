"""Random tensors that exist only while they are written: a name, a shape and a spread stand for all the bytes.

The values are exactly the same on every machine: raw words of a SFC64 generator (a stream that NumPy promises to
keep) seeded by the tensor's name pick from a table of 65,536 quantiles of the normal distribution, and what
follows are single multiplications and additions in float32. NumPy's own normal deviates are neither promised nor
free of libm.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from hubpub.onnxfile import Payload

Floats = npt.NDArray[np.float32]
Gain = tuple[int, tuple[float, ...]]
"""An axis of a tensor and the factor of each of its channels."""

_VALUES_AT_ONCE = 1 << 18


def normal(name: str, count: int) -> Floats:
    """``count`` standard normal values, those of ``name``."""
    return _draw(_generator(name), count)


@dataclass(frozen=True)
class Weights(Payload):
    """A float32 tensor of independent normal values times a factor per channel.

    Attributes:
        name: the seed.
        shape: dims.
        std: standard deviation before the gains.
        gains: factors per channel, one entry per axis that has them.
        centered: the axis along which values sum to zero, so that what all inputs have in common gives nothing. The
            first axis is centered by blocks of the rows that are drawn together.
    """

    name: str
    shape: tuple[int, ...]
    std: float
    gains: tuple[Gain, ...] = ()
    centered: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return 4 * math.prod(self.shape)

    @property
    def bound(self) -> float:
        """Largest value there can be before centering, which in a tensor of some size is about the largest there is."""
        return float(_quantiles()[-1]) * self.std * math.prod(max(map(abs, factors)) for _, factors in self.gains)

    def arrays(self) -> Iterator[Floats]:
        """The tensor in order, some rows at a time."""
        generator = _generator(self.name)
        row = math.prod(self.shape[1:])
        step = max(1, _VALUES_AT_ONCE // row)
        for start in range(0, self.shape[0], step):
            rows = min(step, self.shape[0] - start)
            values = _draw(generator, rows * row).reshape(rows, *self.shape[1:])
            values *= np.float32(self.std)
            if self.centered is not None:
                values -= values.mean(axis=self.centered, keepdims=True)
            for axis, factors in self.gains:
                own = factors[start : start + rows] if axis == 0 else factors
                values *= np.asarray(own, np.float32).reshape([-1 if n == axis else 1 for n in range(values.ndim)])
            yield values

    def chunks(self) -> Iterator[bytes]:
        """All bytes in order, about 1 MiB at a time."""
        for values in self.arrays():
            yield values.astype("<f4", copy=False).tobytes()


@dataclass(frozen=True)
class Quantized(Payload):
    """`Weights` as uint8 of one scale and zero point 128, as dynamic quantization stores them.

    Attributes:
        source: the float32 tensor.
        transposed: the last two axes change places (DynamicQuantizeLSTM wants it), which takes the whole in memory.
    """

    source: Weights
    transposed: bool = False

    ZERO_POINT = 128

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return math.prod(self.source.shape)

    @property
    def scale(self) -> float:
        """What one step stands for."""
        return self.source.bound / 127

    def chunks(self) -> Iterator[bytes]:
        """All bytes in order."""
        arrays = self.source.arrays()
        if self.transposed:
            arrays = iter([np.concatenate(list(arrays)).reshape(self.source.shape).swapaxes(-1, -2)])
        for values in arrays:
            steps = np.rint(values * np.float32(1 / self.scale)) + self.ZERO_POINT
            yield np.clip(steps, 0, 255).astype(np.uint8).tobytes()


@dataclass(frozen=True)
class InMemory(Payload):
    """Bytes that are there already: biases, norms."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        """All bytes at once."""
        yield self.data


@dataclass(frozen=True)
class RelativePositions(Payload):
    """NeMo's table of relative positions, float32 [1, 2 * frames - 1, width], from frames - 1 down to 1 - frames.

    Sines at even, cosines at odd columns (Vaswani et al. 2017; Dai et al. 2019), here to 20 bits after the point:
    the last bits of a sine differ between machines.
    """

    frames: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return 4 * (2 * self.frames - 1) * self.width

    def chunks(self) -> Iterator[bytes]:
        """All bytes in order, 256 positions at a time."""
        rates = np.exp(np.arange(0, self.width, 2) * (-math.log(10000) / self.width))
        rates = np.rint(rates * 2**40) / 2**40
        for first in range(self.frames - 1, -self.frames, -256):
            positions = np.arange(first, max(first - 256, -self.frames), -1)
            angles = positions[:, None] * rates
            table = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(positions), self.width)
            yield (np.rint(table * 2**20) / 2**20).astype("<f4").tobytes()


@dataclass(frozen=True)
class Stream:
    """The residual stream: which of its channels are outliers, the same ones in every layer.

    About 3 % of the channels are 10 to 50 times as large as the others, nearly constant over time, which is what
    LLM.int8() (Dettmers et al. 2022), SmoothQuant (Xiao et al. 2023) and Massive Activations (Sun et al. 2024) report
    of trained models. Weights that read such a channel are as much smaller: in exact arithmetic it says no more
    than the others do, but in int8 steps as wide as it demands the others drown.
    """

    width: int

    SPREAD = 0.2
    """What of an outlier varies."""

    @functools.cached_property
    def outliers(self) -> tuple[int, ...]:
        """Channels, the smallest outlier first."""
        words = _generator(f"outliers of {self.width}").random_raw(self.width)
        return tuple(np.argsort(words, kind="stable")[: max(4, round(0.03 * self.width))].tolist())

    @functools.cached_property
    def offsets(self) -> tuple[float, ...]:
        """The mean over time of each channel: zero but for outliers, whose signs alternate."""
        offsets = [0.0] * self.width
        for rank, channel in enumerate(self.outliers):
            offsets[channel] = round(10 * 5 ** (rank / (len(self.outliers) - 1)), 3) * (-1) ** rank
        return tuple(offsets)

    @property
    def rms(self) -> float:
        """What a LayerNorm divides by, and its gain must restore."""
        _, spreads = self.write(0)
        return math.sqrt(math.fsum(s * s + o * o for s, o in zip(spreads, self.offsets, strict=True)) / self.width)

    def read(self, axis: int) -> Gain:
        """For a weight whose ``axis`` takes the stream in."""
        return axis, tuple(1 / abs(offset) if offset else 1.0 for offset in self.offsets)

    def write(self, axis: int) -> Gain:
        """For a weight whose ``axis`` adds to the stream."""
        return axis, tuple(self.SPREAD * abs(offset) if offset else 1.0 for offset in self.offsets)


@functools.cache
def _quantiles() -> Floats:
    inverse = NormalDist().inv_cdf
    half = np.array([inverse((n + 0.5) / 65536) for n in range(32768, 65536)])
    half = np.rint(half * 2**18) / 2**18  # the last bits are libm's
    return np.concatenate([-half[::-1], half]).astype(np.float32)


def _generator(name: str) -> np.random.SFC64:
    return np.random.SFC64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little"))


def _draw(generator: np.random.SFC64, count: int) -> Floats:
    words = generator.random_raw(-(-count // 4)).astype("<u8", copy=False)
    values: Floats = np.take(_quantiles(), words.view("<u2")[:count])
    return values

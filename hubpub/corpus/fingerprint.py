"""What a recording sounds like, in numbers that codecs, gain, filters, noise and small changes of speed leave alone.

The features are the *changes* of short-time band energies, over time and over frequency, as in the sub-fingerprints of
Haitsma and Kalker, A Highly Robust Audio Fingerprinting System (ISMIR 2002). They keep only the signs of the changes;
here the changes stay real numbers and every frame is scaled to length one: on speech the correlation of such frames
tells a noisy copy from a stranger where the count of equal signs does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

Frames = npt.NDArray[np.float32]
"""``[frames, bands]``; a frame's length is at most one, and nearly nought where nothing is heard."""

RATE = 16_000
HOP = 160
FRAMES_PER_SECOND = RATE // HOP

_FFT = 1024  # 64 ms: harmonics of most voices stand apart
_BANDS = 32
_LOW_HZ, _HIGH_HZ = 250.0, 3500.0  # what a telephone lets through
_FLOOR_NATS = 10.0  # 43 dB below the loudest frame around: what is fainter, codecs change at will
_FLOOR_FRAMES = 50  # half a second to either side
_BAND_REACH, _FRAME_REACH = 3, 25  # over what a change is taken: 7 bands, 0.51 s
_SOFT = 0.5  # nats per band: a frame that changes less than this counts less
_BLOCK = 6000  # frames at a time: a minute


def fingerprint(samples: Samples) -> Frames:
    """The fingerprint of float32 ``[frames]`` at 16 kHz: float32 ``[1 + frames // 160, 32]``.

    A minute is worked on at a time, so memory beyond the result does not grow with the length.
    """
    count = 1 + len(samples) // HOP
    logs = np.concatenate([_log_energies(samples, at, min(_BLOCK, count - at)) for at in range(0, count, _BLOCK)])
    loudest = _running_max(logs.max(axis=1), _FLOOR_FRAMES)
    logs = np.maximum(logs, (loudest - _FLOOR_NATS)[:, None])
    changes = logs - _running_mean(logs, _BAND_REACH, axis=1)
    changes -= _running_mean(changes, _FRAME_REACH, axis=0)
    length = np.sqrt((changes**2).sum(axis=1, keepdims=True) + _BANDS * _SOFT**2)
    return np.asarray(changes / length, dtype=np.float32)


def mapped(prints: Iterable[Frames]) -> list[Frames]:
    """The same fingerprints in a temporary file that is mapped into memory: an hour takes 46 MB."""
    lengths = [0]
    with tempfile.TemporaryFile() as file:
        for each in prints:
            file.write(np.ascontiguousarray(each, dtype=np.float32).tobytes())
            lengths.append(len(each))
        file.flush()
        ends = np.cumsum(lengths)
        if not ends[-1]:
            return [np.zeros((0, _BANDS), np.float32) for _ in lengths[1:]]
        whole = np.memmap(file, dtype=np.float32, mode="r", shape=(int(ends[-1]), _BANDS))
    return [np.asarray(whole[start:stop]) for start, stop in pairwise(ends)]


def _log_energies(samples: Samples, first: int, count: int) -> Frames:
    """Log energies of ``count`` frames from ``first``; frame ``i`` is centred on sample ``160 i``."""
    start = first * HOP - _FFT // 2 - 1
    stop = (first + count - 1) * HOP + _FFT // 2
    part = np.asarray(samples[max(start, 0) : stop], dtype=np.float32)
    part = np.pad(part, (max(-start, 0), max(stop - len(samples), 0)))
    emphasised = part[1:] - np.float32(0.97) * part[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(emphasised, _FFT)[::HOP]
    spectra = np.fft.rfft(windows * np.hanning(_FFT).astype(np.float32), axis=1)
    edges = np.rint(np.geomspace(_LOW_HZ, _HIGH_HZ, _BANDS + 1) * _FFT / RATE).astype(int)
    power = spectra.real[:, : edges[-1]] ** 2 + spectra.imag[:, : edges[-1]] ** 2
    energies = np.add.reduceat(power, edges[:-1], axis=1) / np.diff(edges)
    return np.asarray(np.log(energies + 1e-9), dtype=np.float32)  # far below one step of 16 bits


def _running_max(values: Frames, reach: int) -> Frames:
    padded = np.pad(values, reach, constant_values=-np.inf)
    highest: Frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    return highest


def _running_mean(values: Frames, reach: int, axis: int) -> Frames:
    """Mean over ``reach`` neighbours to either side, fewer at the ends."""
    size = values.shape[axis]
    sums = np.cumsum(np.insert(values, 0, 0, axis=axis), axis=axis, dtype=np.float64)
    low = np.maximum(np.arange(size) - reach, 0)
    high = np.minimum(np.arange(size) + reach + 1, size)
    counts = (high - low).reshape([-1 if each == axis else 1 for each in range(values.ndim)])
    return np.asarray((sums.take(high, axis) - sums.take(low, axis)) / counts, dtype=np.float32)

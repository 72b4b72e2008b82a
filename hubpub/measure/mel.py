"""Log-mel spectrograms for comparing waveforms by ear's measure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BANDS = 80
WINDOW_S, HOP_S = 0.032, 0.010
FLOOR = 1e-8
"""Power below which it is silence: 80 dB under that of a full-scale square wave, in each band."""


def log_mel(samples: Array, rate: int) -> Array:
    """Power in dB ``[frames, 80]`` of samples ``[n]``: Hann windows of 32 ms every 10 ms, bands up to half the rate.

    The mel scale is 2595 log10(1 + f / 700) (O'Shaughnessy 1987); triangles as in HTK, weights by frequency.
    """
    size, hop = round(WINDOW_S * rate), round(HOP_S * rate)
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = np.hanning(size + 1)[:-1]  # periodic
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2 / window.sum() ** 2
    return np.asarray(10 * np.log10(np.maximum(power @ mel_bands(size, rate), FLOOR)))


def mel_bands(size: int, rate: int) -> Array:
    """Weights ``[size // 2 + 1, 80]`` of triangles that reach from the middle of the band below to that above."""
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)

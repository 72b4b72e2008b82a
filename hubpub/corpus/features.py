"""What models take instead of samples: Kaldi's filter banks, and the log-mel spectrograms of NeMo and Whisper.

Each in NumPy, float64 inside and float32 out, checked in the tests against its reference: kaldi-native-fbank, and the
preprocessors that onnx-asr carries for its models. A mismatched front end costs more than any quantization.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

Features = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]

RATE = 16_000
_WINDOW, _HOP = 400, 160  # 25 and 10 ms, in all three
_BLOCK = 6000  # frames at a time: a minute


@dataclass(frozen=True)
class Fbank:
    """Kaldi's ``compute-fbank-feats`` without dither (Povey et al., The Kaldi Speech Recognition Toolkit, 2011).

    Attributes:
        mels: filters.
        window: ``povey`` is a Hann window to the power of 0.85, Kaldi's default; WeSpeaker takes ``hamming``.
        scale: what a sample is multiplied with; Kaldi reads 16-bit integers, so 32768 stands for its own habits.
        snip_edges: only whole windows; else the ends are mirrored and there is a frame for every 10 ms.
        low_hz: lower edge of the first filter.
        high_hz: upper edge of the last one, from half the rate downwards where it is not above 0.
        preemphasis: share of the sample before that is taken off.
        mean: whether the mean over the frames is taken off, as speaker embedders want it.
    """

    mels: int = 80
    window: Literal["povey", "hamming", "hanning"] = "povey"
    scale: float = 1.0
    snip_edges: bool = True
    low_hz: float = 20.0
    high_hz: float = 0.0
    preemphasis: float = 0.97
    mean: bool = False

    def __call__(self, samples: Samples) -> Features:
        """Log energies, float32 ``[frames, mels]``, of float32 ``[frames]`` at 16 kHz.

        Fewer samples than a window give no frame, where edges are snipped.
        """
        audio = samples.astype(np.float64) * self.scale
        if not self.snip_edges:
            audio = self._mirrored(audio)
        filters = _kaldi_filters(self.mels, self.low_hz, self.high_hz)
        window = _kaldi_window(self.window)
        parts = [np.zeros((0, self.mels))]
        for frames in _frames(audio, _WINDOW):
            frames = frames - frames.mean(axis=1, keepdims=True)
            before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
            power = _power((frames - self.preemphasis * before) * window, 512)
            parts.append(np.log(np.maximum(power[:, :-1] @ filters, np.finfo(np.float32).eps)))
        features = np.concatenate(parts)
        if self.mean and len(features):
            features -= features.mean(axis=0)
        return features.astype(np.float32)

    def _mirrored(self, audio: _Floats) -> _Floats:
        count = (len(audio) + _HOP // 2) // _HOP
        before = _WINDOW // 2 - _HOP // 2
        after = max(0, (count - 1) * _HOP + _WINDOW - before - len(audio))
        return np.pad(audio, (before, after), mode="symmetric") if count else audio[:0]


def nemo_log_mel(samples: Samples, mels: int = 128, *, normalize: bool = True) -> Features:
    """NeMo's ``AudioToMelSpectrogramPreprocessor`` without dither: float32 ``[mels, frames]``.

    Args:
        samples: float32 ``[frames]`` at 16 kHz.
        mels: 80 or 128, as the model has it.
        normalize: every band to a mean of nought and a deviation of one; streaming models go without.
    """
    count = len(samples) // _HOP
    audio = samples.astype(np.float64)
    audio = np.pad(audio - 0.97 * np.concatenate([[0.0], audio[:-1]]), 256)
    window = np.pad(np.hanning(_WINDOW), 56)
    filters = slaney_filters(mels, 512)
    parts = [np.log(_power(frames * window, 512) @ filters + 2.0**-24) for frames in _frames(audio, 512)]
    features = np.concatenate(parts)[:count].T
    if not normalize:
        return np.asarray(features, dtype=np.float32)
    centred = features - features.mean(axis=1, keepdims=True) if count else features
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / max(count - 1, 1))
    return np.asarray(centred / (deviation + 1e-5), dtype=np.float32)


def whisper_log_mel(samples: Samples, mels: int = 80) -> Features:
    """Whisper's log-mel spectrogram (Radford et al., 2022) of 30 s, cut or padded: float32 ``[mels, 3000]``.

    Args:
        samples: float32 ``[frames]`` at 16 kHz.
        mels: 80, or 128 from large-v3 on.
    """
    audio = np.zeros(30 * RATE)
    audio[: len(samples)] = samples[: len(audio)]
    window = np.hanning(_WINDOW + 1)[:-1]
    frames = np.concatenate(list(_frames(np.pad(audio, 200, mode="reflect"), _WINDOW)))[:-1]
    energies = np.log10(np.maximum(_power(frames * window, _WINDOW) @ slaney_filters(mels, _WINDOW), 1e-10))
    return np.asarray(((np.maximum(energies, energies.max() - 8.0) + 4.0) / 4.0).T, dtype=np.float32)


def _frames(audio: _Floats, size: int) -> list[_Floats]:
    """Windows every 10 ms, ``[frames, size]``, a minute at a time."""
    if len(audio) < size:
        return []
    views = np.lib.stride_tricks.sliding_window_view(audio, size)[::_HOP]
    return [views[at : at + _BLOCK] for at in range(0, len(views), _BLOCK)]


def _power(frames: _Floats, size: int) -> _Floats:
    spectrum = np.fft.rfft(frames, size, axis=1)
    power: _Floats = spectrum.real**2 + spectrum.imag**2
    return power


@cache
def _kaldi_window(name: str) -> _Floats:
    window = np.hamming(_WINDOW) if name == "hamming" else np.hanning(_WINDOW) ** (0.85 if name == "povey" else 1.0)
    return window.astype(np.float64)


@cache
def _kaldi_filters(mels: int, low_hz: float, high_hz: float) -> _Floats:
    """Triangles on Kaldi's mel scale, straight in mel, ``[256, mels]``; the bin at half the rate has no part."""

    def mel(hertz: npt.ArrayLike) -> _Floats:
        return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0), dtype=np.float64)

    top = high_hz if high_hz > 0 else RATE / 2 + high_hz
    edges = np.linspace(float(mel(low_hz)), float(mel(top)), mels + 2)
    bins = mel(np.arange(256) * (RATE / 512))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: _Floats = np.maximum(0.0, np.minimum(rising, falling))
    return filters


@cache
def slaney_filters(mels: int, size: int) -> _Floats:
    """Triangles of equal area on Slaney's mel scale from 0 to 8 kHz, ``[size // 2 + 1, mels]``, as librosa has them.

    Linear up to 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998).
    """
    hertz_per_mel, log_from, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    corner = log_from / hertz_per_mel
    top = corner + np.log(RATE / 2 / log_from) / log_step
    scale = np.linspace(0, top, mels + 2)
    edges = np.where(scale < corner, scale * hertz_per_mel, log_from * np.exp(log_step * (scale - corner)))
    bins = np.linspace(0, RATE / 2, size // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: _Floats = np.maximum(0.0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return filters

"""Real speech without a stretch in common, and what people do to recordings before they publish them again."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from hubpub.corpus.audio import Samples, decode, resample

RATE = 16_000

COPIES = ("cold_corpus_24bit", "cold_corpus_32bit_float", "michaelandsickmichael", "dummy", "whisper2")
"""What the package holds twice or says that it is a copy; `michaelandsickmichael` is other files, joined."""

Change = Callable[[Samples], Samples]


def recordings(sources: Path) -> dict[str, Samples]:
    """Speech at 16 kHz, by name: studio prompts of one speaker in one room, news, a lecture, readers."""
    paths = [
        sources / "moonshine/moonshine_voice/assets/two_cities.wav",
        sources / "whisper-cpp/whisper.cpp/samples/jfk.wav",
        sources / "silero/tests/data/test.wav",
        sources / "silero/examples/c++/aepyx.wav",
        *sorted((sources / "mfa/tests/data/wav").iterdir()),
    ]
    found = {}
    for path in paths:
        if path.stem not in COPIES:
            decoded = decode(path)
            found[path.stem] = resample(decoded.samples, decoded.rate)
    return found


def coded(container: str, subtype: str, rate: int = RATE, level: float | None = None) -> Change:
    """Through a codec of libsndfile at ``rate``; ``level`` is its compression level, 1 the strongest."""

    def change(samples: Samples) -> Samples:
        file = io.BytesIO()
        options = {} if level is None else {"compression_level": level}
        soundfile.write(file, resample(samples, RATE, rate), rate, format=container, subtype=subtype, **options)
        file.seek(0)
        back, native = soundfile.read(file, dtype="float32")
        return resample(back, native)

    return change


def noise(decibel: float) -> Change:
    """White noise at this signal-to-noise ratio."""

    def change(samples: Samples) -> Samples:
        strength = np.sqrt(np.mean(samples**2) / 10 ** (decibel / 10))
        return samples + np.random.default_rng(7).standard_normal(len(samples)).astype(np.float32) * strength

    return change


def faster(ratio: float) -> Change:
    """Played at another speed: tempo and pitch change together."""
    return lambda samples: np.asarray(soxr.resample(samples, RATE * ratio, RATE), dtype=np.float32)


def telephone(samples: Samples) -> Samples:
    """300 to 3400 Hz."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    return np.asarray(np.fft.irfft(spectrum, len(samples)), dtype=np.float32)


def echo(samples: Samples) -> Samples:
    """A room: one reflection after 80 ms at a third of the strength."""
    late = np.pad(samples, (RATE * 80 // 1000, 0))[: len(samples)]
    return np.asarray(samples + late / 3, dtype=np.float32)


def music(decibel: float) -> Change:
    """Chords and beats at this ratio of speech to music."""

    def change(samples: Samples) -> Samples:
        rng = np.random.default_rng(11)
        time = np.arange(RATE // 2) / RATE
        played = []
        while RATE // 2 * len(played) < len(samples):
            root = 110 * 2 ** (rng.integers(24) / 12)
            tones = [np.sin(2 * np.pi * root * step * h * time) / h for step in (1, 1.26, 1.5, 2) for h in range(1, 6)]
            beat = rng.standard_normal(len(time)) * np.exp(-80 * time)
            played.append(np.sum(tones, axis=0) * np.exp(-3 * time) + 3 * beat)
        other = np.concatenate([*played, np.zeros(1)])[: len(samples)]
        strength = np.sqrt(np.mean(samples**2) / np.mean(other**2) / 10 ** (decibel / 10))
        return np.asarray(samples + strength * other, dtype=np.float32)

    return change


def hall(seconds: float) -> Change:
    """A hall that takes so long to be 60 dB quieter."""

    def change(samples: Samples) -> Samples:
        length = round(RATE * seconds)
        response = np.random.default_rng(13).standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
        response[0] += 4
        size = len(samples) + length
        spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
        return np.asarray(np.fft.irfft(spectrum, size)[: len(samples)] / 5, dtype=np.float32)

    return change


def clipped(samples: Samples) -> Samples:
    """Four times too loud."""
    return np.clip(samples * 4 / np.abs(samples).max(), -1, 1)


def compressed(samples: Samples) -> Samples:
    """A crude limiter."""
    peak = np.abs(samples).max()
    return np.asarray(np.sign(samples) * np.sqrt(np.abs(samples) / peak) * peak, dtype=np.float32)

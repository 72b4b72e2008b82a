from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hubpub.corpus.audio import decode, resample
from hubpub.corpus.segment import Segmentation, SilenceWindows

SEGMENTATION: TypeAdapter[Any] = TypeAdapter(Segmentation)


@given(st.integers(1, 60_000), st.floats(0.5, 3), st.floats(0.05, 0.4), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_windows_are_the_audio_in_pieces(frames: int, max_s: float, search_s: float, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=frames).astype(np.float32)
    windows = SilenceWindows(by="silence", max_s=max_s, search_s=search_s).windows(samples, 16_000)
    np.testing.assert_array_equal(np.concatenate(windows), samples)
    assert all(0 < len(window) <= round(max_s * 16_000) for window in windows)
    # None but the last is cut before the stretch that is searched.
    assert all(len(window) >= round((max_s - search_s) * 16_000) - 1 for window in windows[:-1])


def test_cuts_lie_in_the_pauses() -> None:
    noise = np.random.default_rng(0).normal(size=16_000 * 10).astype(np.float32)
    pauses = [3.5, 6.9]
    for pause in pauses:
        noise[int((pause - 0.15) * 16_000) : int((pause + 0.15) * 16_000)] *= 0.001
    windows = SilenceWindows(by="silence", max_s=4, search_s=1.5).windows(noise, 16_000)
    cuts = np.cumsum([len(window) for window in windows])[:-1] / 16_000
    np.testing.assert_allclose(cuts, pauses, atol=0.06)


def test_real_speech_is_cut_where_it_is_quiet(two_cities_wav: Path) -> None:
    decoded = decode(two_cities_wav)
    samples = resample(decoded.samples, decoded.rate)
    windows = SilenceWindows(by="silence").windows(samples, 16_000)
    loudness = np.sqrt(np.mean(samples**2))
    for cut in np.cumsum([len(window) for window in windows])[:-1]:
        assert np.sqrt(np.mean(samples[cut - 1600 : cut + 1600] ** 2)) < loudness / 10


def test_silence_and_clips_shorter_than_a_window() -> None:
    windows = SilenceWindows(by="silence", max_s=1, search_s=0.5)
    assert [len(w) for w in windows.windows(np.zeros(100, dtype=np.float32), 16_000)] == [100]
    assert sum(len(w) for w in windows.windows(np.zeros(50_000, dtype=np.float32), 16_000)) == 50_000


@pytest.mark.parametrize("more", [1, 2, 1000, 1600, 1601])
def test_no_window_is_a_scrap(more: int) -> None:
    """One sample more than a window holds: onnx-asr takes an array of one sample for no audio at all."""
    silence = np.zeros(30 * 16_000 + more, dtype=np.float32)
    windows = SilenceWindows(by="silence", max_s=30, search_s=5).windows(silence, 16_000)
    assert sum(map(len, windows)) == len(silence)
    assert min(map(len, windows)) >= 1600


@pytest.mark.parametrize(
    "bad",
    [
        {"by": "silence", "max_s": 5, "search_s": 5},
        {"by": "silence", "max_s": 0},
        {"by": "vad"},
        {"by": "vad", "model": "s/x.onnx", "threshold": 1.5},
        {"by": "magic"},
    ],
)
def test_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SEGMENTATION.validate_python(bad)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"by": "none"}, "one pass"),
        ({"by": "silence", "max_s": 12.5}, "12.5 s"),
        ({"by": "vad", "model": "s/x.onnx", "max_speech_s": 9}, "with_vad"),
    ],
)
def test_the_way_is_named(spec: dict[str, Any], words: str) -> None:
    assert words in SEGMENTATION.validate_python(spec).describe()

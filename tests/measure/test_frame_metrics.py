"""Class scores frame by frame, and log-mel spectrograms, beside independent implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_fakes import fake_corpus, fake_run
from scipy.signal import get_window
from scipy.special import softmax
from scipy.stats import entropy

from hubpub.errors import MeasureError
from hubpub.measure.mel import log_mel
from hubpub.measure.metrics.argmax_agreement import ArgmaxAgreement
from hubpub.measure.metrics.kl import Kl
from hubpub.measure.metrics.log_mel_distance import LogMelDistance

shapes = st.tuples(st.integers(1, 30), st.integers(2, 9))


@given(shapes, st.integers(0, 10_000), st.floats(0.01, 30))
@settings(max_examples=100, deadline=None)
def test_kl_agrees_with_scipy(shape: tuple[int, int], seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    output, reference = scale * rng.normal(size=shape), scale * rng.normal(size=shape)
    q, p = softmax(output, axis=1), softmax(reference, axis=1)
    found = Kl(metric="kl").frame_values(output, reference)
    q, p = np.maximum(q, np.finfo(np.float32).tiny), np.maximum(p, np.finfo(np.float32).tiny)
    if (softmax(output, axis=1) > 1e-30).all():
        np.testing.assert_allclose(found, entropy(p, q, axis=1), atol=1e-6)
    probabilities = Kl(metric="kl", outputs="probabilities").frame_values(q, p)
    np.testing.assert_allclose(probabilities, entropy(p, q, axis=1), atol=1e-6)
    assert Kl(metric="kl").frame_values(output, output + 5.0) == pytest.approx(0, abs=1e-12)


def test_frames_of_all_clips_are_pooled(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corpus = fake_corpus([None] * 6)
    mine = [[rng.normal(size=(1, 5 + i, 7))] for i in range(6)]
    theirs = [[each[0] + 0.3 * rng.normal(size=each[0].shape)] for each in mine]
    run = fake_run(corpus, folder=tmp_path / "a", outputs=mine)
    other = fake_run(corpus, name="fp32", folder=tmp_path / "b", outputs=theirs)
    frames = np.concatenate([each[0].reshape(-1, 7) for each in mine])
    others = np.concatenate([each[0].reshape(-1, 7) for each in theirs])
    (kl,) = Kl(metric="kl").measure(run, corpus, other)
    assert kl.value == pytest.approx(entropy(softmax(others, axis=1), softmax(frames, axis=1), axis=1).mean(), abs=1e-6)
    assert (kl.n, kl.n_unit, kl.unit, kl.reference) == (45, "frames", "nats", "fp32")
    (agreement,) = ArgmaxAgreement(metric="argmax_agreement").measure(run, corpus, other)
    assert agreement.value == pytest.approx((frames.argmax(1) == others.argmax(1)).mean(), abs=1e-12)
    assert agreement.low is not None
    assert agreement.high is not None
    assert agreement.low < agreement.value < agreement.high
    (same,) = ArgmaxAgreement(metric="argmax_agreement").measure(run, corpus, run)
    assert (same.value, same.high, same.interval) == (1, 1, "Clopper-Pearson over 45 frames")
    assert 0.9 < (same.low or 0) < 0.93


def test_outputs_of_other_shapes_are_refused(tmp_path: Path) -> None:
    corpus = fake_corpus([None])
    run = fake_run(corpus, folder=tmp_path / "a", outputs=[[np.ones((3, 7))]])
    other = fake_run(corpus, name="fp32", folder=tmp_path / "b", outputs=[[np.ones((4, 7))]])
    with pytest.raises(MeasureError, match="outputs are 3x7, those of fp32 4x7"):
        Kl(metric="kl").measure(run, corpus, other)
    scalar = fake_run(corpus, folder=tmp_path / "c", outputs=[[np.float32(1)]])  # type: ignore[list-item]
    with pytest.raises(MeasureError, match="one number"):
        Kl(metric="kl").measure(scalar, corpus, scalar)


def plain_log_mel(samples: np.ndarray, rate: int) -> np.ndarray:
    """By the definition, a frame and a band at a time."""
    size, hop = round(0.032 * rate), round(0.01 * rate)
    window = get_window("hann", size)  # periodic
    rows = []
    for start in range(0, len(samples) - size + 1, hop):
        spectrum = [
            abs(sum(samples[start : start + size] * window * np.exp(-2j * np.pi * k * np.arange(size) / size))) ** 2
            for k in range(size // 2 + 1)
        ]
        row = []
        for band in range(80):
            mels = [(band + side) * 2595 * np.log10(1 + rate / 2 / 700) / 81 for side in range(3)]
            low, middle, high = (700 * (10 ** (mel / 2595) - 1) for mel in mels)
            weights = [max(0.0, min((f - low) / (middle - low), (high - f) / (high - middle)))
                       for f in np.arange(size // 2 + 1) * rate / size]  # fmt: skip
            power = sum(w * p for w, p in zip(weights, spectrum, strict=True)) / sum(window) ** 2
            row.append(10 * np.log10(max(power, 1e-8)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_log_mel_agrees_with_the_definition(rate: int) -> None:
    samples = np.random.default_rng(rate).normal(scale=0.1, size=round(0.06 * rate))
    np.testing.assert_allclose(log_mel(samples, rate), plain_log_mel(samples, rate), atol=1e-6)


def test_log_mel_distance_hears_gain_and_missing_ends(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    speech = 0.1 * rng.normal(size=16_000)
    corpus = fake_corpus([None])

    def distance(samples: np.ndarray) -> float:
        run = fake_run(corpus, folder=tmp_path / "a", outputs=[[samples[None, None]]])
        other = fake_run(corpus, name="fp32", folder=tmp_path / "b", outputs=[[speech[None, None]]])
        (figure,) = LogMelDistance(metric="log_mel_distance").measure(run, corpus, other)
        assert figure.unit == "dB"
        return figure.value

    assert distance(speech) == 0
    assert distance(speech * 10 ** (-6 / 20)) == pytest.approx(6, abs=1e-6)
    assert distance(speech[:12_000]) > 5

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_fakes import fake_corpus, fake_run

from hubpub.errors import MeasureError
from hubpub.measure.metrics.eer import Eer
from hubpub.measure.metrics.min_dcf import MinDcf
from hubpub.measure.stats import bootstrap
from hubpub.measure.verification import by_speaker, eer, figure, make_trials, min_dcf

Scored = list[tuple[float, bool]]


def rates(trials: Scored, threshold: float) -> tuple[float, float]:
    """False alarms and misses when scores from ``threshold`` on are accepted."""
    targets = [score for score, target in trials if target]
    others = [score for score, target in trials if not target]
    missed = sum(score < threshold for score in targets) / len(targets)
    return sum(score >= threshold for score in others) / len(others), missed


def plain_points(trials: Scored) -> list[tuple[float, float]]:
    thresholds = sorted({score for score, _ in trials}, reverse=True)
    return [(0.0, 1.0), *(rates(trials, threshold) for threshold in thresholds)]


def plain_eer(trials: Scored) -> float:
    points = plain_points(trials)
    for (false_alarm, miss), (next_false_alarm, next_miss) in pairwise(points):
        if next_false_alarm >= next_miss:
            low, high = 0.0, 1.0  # along the line between two thresholds, by bisection
            for _ in range(100):
                mid = (low + high) / 2
                at = false_alarm + mid * (next_false_alarm - false_alarm), miss + mid * (next_miss - miss)
                low, high = (low, mid) if at[0] >= at[1] else (mid, high)
            return false_alarm + high * (next_false_alarm - false_alarm)
    raise AssertionError


def plain_dcf(trials: Scored, p: float, miss: float, false_alarm: float) -> float:
    least = min(miss * p * missed + false_alarm * (1 - p) * accepted for accepted, missed in plain_points(trials))
    return least / min(miss * p, false_alarm * (1 - p))


score = st.one_of(st.integers(-3, 3).map(float), st.floats(-1, 1))
scored = st.lists(st.tuples(score, st.booleans()), min_size=2, max_size=40).filter(
    lambda trials: {target for _, target in trials} == {True, False}
)


@given(scored, st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(0.1, 10))
@settings(max_examples=200, deadline=None)
def test_independent_counts_say_the_same(trials: Scored, p: float, miss: float, false_alarm: float) -> None:
    scores, target = np.array([row[0] for row in trials]), np.array([row[1] for row in trials])
    assert float(figure(scores, target, eer)) == pytest.approx(plain_eer(trials), abs=1e-6)
    cost = float(figure(scores, target, min_dcf(p, miss, false_alarm)))
    assert cost == pytest.approx(plain_dcf(trials, p, miss, false_alarm), abs=1e-6)


@given(scored, st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_a_trial_of_weight_k_counts_k_times(trials: Scored, seed: int) -> None:
    scores, target = np.array([row[0] for row in trials]), np.array([row[1] for row in trials])
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(trials))).astype(float)
    found = figure(scores, target, eer, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        repeated = [trial for trial, times in zip(trials, row, strict=True) for _ in range(times)]
        if {hit for _, hit in repeated} == {True, False}:
            assert value == pytest.approx(plain_eer(repeated), abs=1e-6)
        else:
            assert math.isnan(value)


def test_known_values() -> None:
    target = np.array([True, True, False, False])
    assert float(figure(np.array([4.0, 3.0, 2.0, 1.0]), target, eer)) == 0
    assert float(figure(np.array([1.0, 2.0, 3.0, 4.0]), target, eer)) == 1
    assert float(figure(np.zeros(4), target, eer)) == 0.5
    assert float(figure(np.zeros(4), target, min_dcf(0.05, 1, 1))) == 1


def test_trials_are_all_pairs_or_a_repeatable_choice_with_both_kinds() -> None:
    speakers = ["a", None, "b", "a", "b", "c"]
    trials = make_trials(speakers, most=100)
    pairs = list(zip(trials.first.tolist(), trials.second.tolist(), strict=True))
    assert pairs == [(0, 2), (0, 3), (0, 4), (0, 5), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)]
    assert [pair for pair, same in zip(pairs, trials.target, strict=True) if same] == [(0, 3), (2, 4)]
    apart = make_trials(speakers, ["r", "r", "r", "s", "s", "s"], most=100)
    assert list(zip(apart.first.tolist(), apart.second.tolist(), strict=True)) == [
        (0, 3), (0, 4), (0, 5), (2, 3), (2, 4), (2, 5)
    ]  # fmt: skip
    many = [f"s{i % 10}" for i in range(60)]
    few, again, other = (make_trials(many, most=200, seed=seed) for seed in (0, 0, 1))
    assert len(few) == 200
    assert few.target.sum() == 100
    np.testing.assert_array_equal(few.first, again.first)
    assert few.first.tolist() != other.first.tolist()


def voices(tmp_path: Path, speakers: int, clips: int, noise: float, name: str = "int8") -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(speakers, 8))
    who = [f"s{i % speakers}" for i in range(clips)]
    corpus = fake_corpus([None] * clips, speakers=who)
    outputs = [[centres[i % speakers][None] + noise * rng.normal(size=(1, 8))] for i in range(clips)]
    return corpus, fake_run(corpus, name=name, folder=tmp_path / name, outputs=outputs)


def test_a_run_is_scored_with_an_interval_over_speakers(tmp_path: Path) -> None:
    corpus, run = voices(tmp_path, 8, 48, 1.0)
    _, other = voices(tmp_path, 8, 48, 0.5, "fp32")
    value, delta = Eer(metric="eer").measure(run, corpus, other)
    assert value.low is not None
    assert value.high is not None
    assert value.low < value.value < value.high
    assert value.n == 48 * 47 // 2
    assert value.interval == "bootstrap over 8 speakers, 10000 resamples, seed 0"
    assert delta.against == "fp32/eer"
    assert delta.low is not None
    assert delta.low > 0
    (again, _) = Eer(metric="eer").measure(run, corpus, other)
    assert again == value
    cost, _ = MinDcf(metric="min_dcf", p_target=0.01).measure(run, corpus, other)
    assert 0 < cost.value <= 1
    assert cost.normalizer == "cosine of embeddings, P 0.01, costs 1 and 1"


def test_the_bootstrap_weighs_speakers_as_if_they_were_drawn_again(tmp_path: Path) -> None:
    trials = make_trials(["a", "a", "b", "b", "c", "c"], most=100)
    scores = np.random.default_rng(1).normal(size=len(trials))
    picked = np.array([[0, 0, 1], [2, 1, 0]])
    found = by_speaker(trials, lambda weights: weights @ scores)(picked)
    copies = [[row.tolist().count(index) for index in range(3)] for row in picked]
    for value, count in zip(found, copies, strict=True):
        expected = sum(
            score * (count[a] if same else count[a] * count[b])
            for score, same, (a, b) in zip(scores, trials.target, trials.speakers, strict=True)
        )
        assert value == pytest.approx(expected)
    assert bootstrap(3, by_speaker(trials, lambda weights: weights.sum(axis=1)))[0] > 0


def test_perfect_trials_are_no_proof(tmp_path: Path) -> None:
    corpus, run = voices(tmp_path, 6, 30, 0.01)
    (value,) = Eer(metric="eer").measure(run, corpus)
    assert (value.value, value.low) == (0, 0)
    assert value.interval == "Clopper-Pearson over 60 trials of one speaker"
    assert 0.05 < (value.high or 0) < 0.07
    few, small = voices(tmp_path, 3, 9, 1.0, "few")
    (value,) = Eer(metric="eer").measure(small, few)
    assert (value.low, value.interval) == (None, "none: 3 speakers")


def test_without_speakers_or_embeddings_there_are_no_trials(tmp_path: Path) -> None:
    corpus = fake_corpus([None] * 3, speakers=["a", "b", None])
    with pytest.raises(MeasureError, match="no trials of one speaker"):
        Eer(metric="eer").measure(fake_run(corpus), corpus)
    corpus = fake_corpus([None] * 2, speakers=["a", "a"])
    with pytest.raises(MeasureError, match="no trials of two speakers"):
        MinDcf(metric="min_dcf").measure(fake_run(corpus), corpus)
    corpus = fake_corpus([None] * 3, speakers=["a", "b", "a"])
    outputs = [[np.ones(2)], [np.zeros(2)], [np.ones(2)]]
    with pytest.raises(MeasureError, match="clip clip1: its embedding is nought"):
        Eer(metric="eer").measure(fake_run(corpus, folder=tmp_path, outputs=outputs), corpus)
    outputs[1] = [np.ones(3)]
    with pytest.raises(MeasureError, match="differ in size"):
        Eer(metric="eer").measure(fake_run(corpus, folder=tmp_path, outputs=outputs), corpus)

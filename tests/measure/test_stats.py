from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap

from hubpub.measure import stats
from hubpub.measure.binomial import clopper_pearson, zero_event_bound
from hubpub.measure.stats import (
    Floats,
    paired_rate_interval,
    paired_ratio_interval,
    rate_interval,
    ratio_interval,
    value_interval,
)

STATISTICS: dict[str, Callable[[Floats], Floats]] = {
    "mean": lambda values: values.mean(axis=-1),
    "median": lambda values: np.asarray(np.median(values, axis=-1)),
    "p95": lambda values: np.asarray(np.quantile(values, 0.95, axis=-1)),
    "min": lambda values: values.min(axis=-1),
    "max": lambda values: values.max(axis=-1),
}


def naive(n: int, statistic: Callable[[list[int]], float | None], seed: int = 0) -> tuple[float, float]:
    """One resample after the other, drawn from the same generator."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n, size=(stats.RESAMPLES, n)).tolist()
    values = sorted(value for row in drawn if (value := statistic(row)) is not None)

    def quantile(q: float) -> float:  # Hyndman and Fan's type 7
        at = q * (len(values) - 1)
        below = int(at)
        above = min(below + 1, len(values) - 1)
        return float(values[below] + (values[above] - values[below]) * (at - below))

    return quantile(0.025), quantile(0.975)


counts = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=5, max_size=12)


@given(counts)
@settings(max_examples=5, deadline=None)
def test_rates_agree_with_a_naive_loop(pairs: list[tuple[int, int]]) -> None:
    pairs = [*pairs, (1, 7), (0, 9)]  # some spread, some words
    errors, units = [e for e, _ in pairs], [u for _, u in pairs]

    def rate(row: list[int]) -> float | None:
        words = sum(units[i] for i in row)
        return sum(errors[i] for i in row) / words if words else None

    interval = rate_interval(errors, units, "words")
    assert (interval.low, interval.high) == pytest.approx(naive(len(pairs), rate), abs=1e-6)
    assert interval.method == f"bootstrap over {len(pairs)} utterances, 10000 resamples, seed 0"


def test_paired_deltas_agree_with_a_naive_loop() -> None:
    rng = np.random.default_rng(7)
    a, b, units = rng.integers(0, 4, 9).tolist(), rng.integers(0, 4, 9).tolist(), rng.integers(1, 15, 9).tolist()

    def delta(row: list[int]) -> float:
        words = sum(units[i] for i in row)
        return float(sum(a[i] - b[i] for i in row) / words)

    expected = naive(9, delta)
    rates = paired_rate_interval(a, b, units, worse=1, better=1, unit="words")
    assert (rates.low, rates.high) == pytest.approx(expected, abs=1e-6)
    ratios = paired_ratio_interval(a, b, units)
    assert (ratios.low, ratios.high) == pytest.approx(expected, abs=1e-6)
    assert rates.method == ratios.method == "paired bootstrap over 9 utterances, 10000 resamples, seed 0"


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_values_agree_with_a_naive_loop_and_with_scipy(name: str) -> None:
    values = np.random.default_rng(3).lognormal(size=11)
    statistic = STATISTICS[name]
    interval = value_interval(values.tolist(), statistic)
    assert (interval.low, interval.high) == pytest.approx(
        naive(11, lambda row: float(statistic(values[row]))), abs=1e-6
    )
    other = scipy_bootstrap(
        (values,), lambda x, axis: statistic(np.moveaxis(x, axis, -1)), n_resamples=20_000, method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (interval.low, interval.high) == pytest.approx((other.low, other.high), rel=0.06)


def test_the_bootstrap_is_the_same_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, wholes = list(range(20)), list(range(5, 25))
    whole = ratio_interval(parts, wholes)
    monkeypatch.setattr(stats, "_AT_ONCE", 999)
    assert ratio_interval(parts, wholes) == whole


def test_the_bootstrap_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(100):
        words = rng.integers(5, 20, 60)
        interval = rate_interval(rng.binomial(words, 0.1).tolist(), words.tolist(), "words")
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.1 <= interval.high
    assert 88 <= hits <= 100


@pytest.mark.parametrize("utterances", [1, 4, 5, 300])
def test_no_error_is_no_proof_of_none(utterances: int) -> None:
    interval = rate_interval([0] * utterances, [10] * utterances, "words")
    assert (interval.low, interval.high) == (0, zero_event_bound(10 * utterances))
    assert interval.method == f"Clopper-Pearson over {10 * utterances} words"


@pytest.mark.parametrize("utterances", [1, 4, 5, 300])
def test_no_change_is_no_proof_of_none(utterances: int) -> None:
    interval = paired_rate_interval(
        [2] * utterances, [2] * utterances, [10] * utterances, worse=0, better=0, unit="words"
    )
    bound = zero_event_bound(10 * utterances)
    assert (interval.low, interval.high) == (-bound, bound)


def test_changes_that_cancel_out_within_utterances_widen_the_interval() -> None:
    still = paired_rate_interval([5] * 9, [5] * 9, [10] * 9, worse=0, better=0, unit="words")
    busy = paired_rate_interval([5] * 9, [5] * 9, [10] * 9, worse=12, better=12, unit="words")
    assert still.high is not None
    assert busy.high is not None
    assert busy.high > 3 * still.high


def test_below_five_utterances_the_units_count() -> None:
    interval = rate_interval([3, 0, 1, 0], [10, 20, 30, 40], "words")
    assert (interval.low, interval.high) == clopper_pearson(4, 100)
    paired = paired_rate_interval([3], [1], [100], worse=3, better=1, unit="words")
    worse, better = clopper_pearson(3, 100), clopper_pearson(1, 100)
    assert (paired.low, paired.high) == (worse[0] - better[1], worse[1] - better[0])


def test_a_rate_above_one_has_no_exact_interval() -> None:
    assert rate_interval([7], [5], "words").low is None
    assert paired_rate_interval([7], [0], [5], worse=7, better=0, unit="words").high is None


@pytest.mark.parametrize("n", [1, 4])
def test_few_values_have_no_interval(n: int) -> None:
    assert value_interval([1.0] * n, STATISTICS["mean"]) == stats.Interval(None, None, f"none: n = {n}")
    assert ratio_interval([1.0] * n, [2.0] * n).low is None
    assert paired_ratio_interval([1.0] * n, [1.0] * n, [2.0] * n).low is None

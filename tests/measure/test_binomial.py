from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from hubpub.measure.binomial import clopper_pearson, smallest_n_to_pass, zero_event_bound


@given(st.integers(1, 20_000), st.data())
@settings(max_examples=200, deadline=None)
def test_clopper_pearson_agrees_with_the_beta_quantiles(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n) | st.integers(0, min(n, 5)) | st.integers(max(0, n - 5), n))
    low, high = clopper_pearson(k, n)
    assert low == pytest.approx(beta.ppf(0.025, k, n - k + 1) if k else 0.0, abs=1e-9)
    assert high == pytest.approx(beta.ppf(0.975, k + 1, n - k) if k < n else 1.0, abs=1e-9)
    assert 0 <= low <= k / n <= high <= 1


@pytest.mark.parametrize(("events", "n"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_counts_that_cannot_be(events: int, n: int) -> None:
    with pytest.raises(ValueError, match="no binomial count"):
        clopper_pearson(events, n)


@given(st.integers(1, 10**7))
def test_no_event_is_about_3_69_over_n(n: int) -> None:
    bound = zero_event_bound(n)
    assert binom.cdf(0, n, bound) == pytest.approx(0.025, rel=1e-6)
    if n > 100:
        assert bound == pytest.approx(3.6889 / n, rel=0.02)


@given(st.floats(1e-6, 0.999))
def test_the_smallest_n_is_the_smallest(budget: float) -> None:
    n = smallest_n_to_pass(budget)
    assert n is not None
    assert zero_event_bound(n) <= budget
    assert n == 1 or zero_event_bound(n - 1) > budget


@given(st.integers(1, 100_000))
def test_a_bound_asks_for_its_own_n(n: int) -> None:
    assert smallest_n_to_pass(zero_event_bound(n)) == n


@pytest.mark.parametrize(("budget", "n"), [(0.0, None), (-0.1, None), (1.0, 1), (2.0, 1), (0.05, 72), (0.01, 368)])
def test_known_budgets(budget: float, n: int | None) -> None:
    assert smallest_n_to_pass(budget) == n

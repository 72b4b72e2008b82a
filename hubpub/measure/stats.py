"""95 % intervals: a seeded percentile bootstrap over utterances, and exact bounds where a bootstrap would lie.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Utterances are resampled, not words, since
the words of an utterance stand or fall together (Bisani and Ney, ICASSP 2004). A resample of identical utterances has
no spread, so a bootstrap of a run without errors says [0, 0]: then, and below five utterances, the exact binomial
interval over the counted units takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubpub.measure.binomial import CONFIDENCE, clopper_pearson

RESAMPLES = 10_000
SEED = 0
FEWEST = 5
"""Utterances below which a bootstrap is not tried."""

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
_AT_ONCE = 1 << 21  # indices drawn at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """Ends of a 95 % interval, and the method; without ends, the method says why."""

    low: float | None
    high: float | None
    method: str


EXACT = "exact: counted, not sampled"


def exact(value: float) -> Interval:
    """The interval of what is counted in full, such as bytes."""
    return Interval(value, value, EXACT)


def none(n: int) -> Interval:
    """No interval, because ``n`` is too small for one."""
    return Interval(None, None, f"none: n = {n}")


def bootstrap(n: int, statistic: Callable[[Indices], Floats], seed: int = SEED) -> tuple[float, float]:
    """Percentile interval of a statistic of ``n`` utterances.

    Args:
        n: utterances.
        statistic: from indices ``[resamples, n]`` to values ``[resamples]``; NaN where a resample has no value.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // n)
    sizes = [min(step, RESAMPLES - done) for done in range(0, RESAMPLES, step)]
    values = np.concatenate([statistic(rng.integers(0, n, size=(size, n))) for size in sizes])
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def value_interval(values: Sequence[float], statistic: Callable[[Floats], Floats]) -> Interval:
    """For a mean, median, quantile, minimum or maximum over utterances.

    Args:
        values: one for each utterance.
        statistic: reduces the last axis.
    """
    data = np.asarray(values, dtype=np.float64)
    if len(data) < FEWEST:
        return none(len(data))
    return Interval(*bootstrap(len(data), lambda picked: statistic(data[picked])), _bootstrap_method(len(data)))


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> Interval:
    """For a ratio of sums over utterances, such as processing time by audio time."""
    if len(parts) < FEWEST:
        return none(len(parts))
    return Interval(*bootstrap(len(parts), _ratio_of_sums(parts, wholes)), _bootstrap_method(len(parts)))


def rate_interval(errors: Sequence[int], units: Sequence[int], unit: str) -> Interval:
    """For errors by counted units, such as the word error rate.

    Args:
        errors: of each utterance.
        units: of each utterance; their sum is positive.
        unit: what they are, in the plural.
    """
    n = len(errors)
    if n >= FEWEST:
        low, high = bootstrap(n, _ratio_of_sums(errors, units))
        if low < high:
            return Interval(low, high, _bootstrap_method(n))
    seen, of = sum(errors), sum(units)
    if seen > of:
        return Interval(None, None, f"none: {n} utterances, more errors than {unit}")
    return Interval(*clopper_pearson(seen, of), f"Clopper-Pearson over {of} {unit}")


def paired_rate_interval(
    errors: Sequence[int],
    other_errors: Sequence[int],
    units: Sequence[int],
    *,
    worse: int,
    better: int,
    unit: str,
) -> Interval:
    """For the difference of two error rates on the same utterances.

    Where a bootstrap will not do, the units that got worse and those that got better are each bounded exactly, and the
    difference lies between the extremes: conservative, and never [0, 0].

    Args:
        errors: of each utterance, in the run.
        other_errors: in what it is compared with.
        units: of each utterance.
        worse: errors that only the run makes, over all units.
        better: errors that only the other one makes.
        unit: what the units are, in the plural.
    """
    n = len(errors)
    if n >= FEWEST:
        change = np.asarray(errors) - np.asarray(other_errors)
        low, high = bootstrap(n, _ratio_of_sums(change, units))
        if low < high:
            return Interval(low, high, "paired " + _bootstrap_method(n))
    of = sum(units)
    if max(worse, better) > of:
        return Interval(None, None, f"none: {n} utterances, more errors than {unit}")
    (worse_low, worse_high), (better_low, better_high) = clopper_pearson(worse, of), clopper_pearson(better, of)
    method = f"Clopper-Pearson over {of} {unit}, those changed for worse less those for better"
    return Interval(worse_low - better_high, worse_high - better_low, method)


def paired_ratio_interval(parts: Sequence[float], others: Sequence[float], wholes: Sequence[float]) -> Interval:
    """For the difference of two ratios of sums on the same utterances, such as two real-time factors."""
    if len(parts) < FEWEST:
        return none(len(parts))
    change = np.asarray(parts) - np.asarray(others)
    return Interval(*bootstrap(len(parts), _ratio_of_sums(change, wholes)), "paired " + _bootstrap_method(len(parts)))


def seconds_interval(errors: Sequence[float], wholes: Sequence[float]) -> Interval:
    """For a share of time, such as a diarization error rate.

    Where no utterance has an error, a whole second is taken for what counts, and none of them is wrong: never [0, 0].

    Args:
        errors: wrong seconds of each utterance.
        wholes: seconds that count, of each.
    """
    n = len(errors)
    if n >= FEWEST:
        low, high = bootstrap(n, _ratio_of_sums(errors, wholes))
        if low < high:
            return Interval(low, high, _bootstrap_method(n))
    seconds = int(sum(wholes))
    if any(errors) or not seconds:
        return none(n)
    return Interval(
        0.0, clopper_pearson(0, seconds)[1], f"Clopper-Pearson over {seconds} seconds, none of which is wrong"
    )


def paired_seconds_interval(changes: Sequence[float], wholes: Sequence[float]) -> Interval:
    """For the difference of two shares of time on the same utterances, such as two diarization error rates.

    Where no utterance changes, a whole second is taken for what counts, and none of them changed: never [0, 0].

    Args:
        changes: seconds more in the run than in the other, of each utterance.
        wholes: seconds that count, of each.
    """
    n = len(changes)
    if n >= FEWEST:
        low, high = bootstrap(n, _ratio_of_sums(changes, wholes))
        if low < high:
            return Interval(low, high, "paired " + _bootstrap_method(n))
    seconds = int(sum(wholes))
    if any(changes) or not seconds:
        return none(n)
    bound = clopper_pearson(0, seconds)[1]
    return Interval(-bound, bound, f"Clopper-Pearson over {seconds} seconds, none of which changed")


def speaker_interval(n: int, statistic: Callable[[Indices], Floats], targets: int, *, paired: bool) -> Interval:
    """For a figure of trials between speakers, or the difference of two.

    Where it is nought in every resample, the trials of one speaker bound it, which are the fewer: never [0, 0].

    Args:
        n: speakers.
        statistic: as for `bootstrap`.
        targets: trials of one speaker.
        paired: whether it is a difference.
    """
    if n < FEWEST:
        return Interval(None, None, f"none: {n} speakers")
    low, high = bootstrap(n, statistic)
    if low == high == 0:
        bound = clopper_pearson(0, targets)[1]
        return Interval(-bound if paired else 0.0, bound, f"Clopper-Pearson over {targets} trials of one speaker")
    if not low < high:
        return Interval(None, None, f"none: no spread over {n} speakers")
    return Interval(low, high, f"{'paired ' if paired else ''}{_bootstrap_method(n, 'speakers')}")


def _ratio_of_sums(parts: npt.ArrayLike, wholes: npt.ArrayLike) -> Callable[[Indices], Floats]:
    top, bottom = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)

    def statistic(picked: Indices) -> Floats:
        below = bottom[picked].sum(axis=1)  # zero when all utterances picked are without words
        result: Floats = np.full(len(below), np.nan)
        np.divide(top[picked].sum(axis=1), below, out=result, where=below > 0)
        return result

    return statistic


def _bootstrap_method(n: int, of: str = "utterances") -> str:
    return f"bootstrap over {n} {of}, {RESAMPLES} resamples, seed {SEED}"

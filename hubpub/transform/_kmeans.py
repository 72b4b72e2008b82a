"""Weighted k-means in one dimension, exactly.

In one dimension clusters are runs of the sorted distinct values, so that the best clustering is the cheapest way from
one end to the other in ``k`` runs. The least cost is convex in ``k``; a penalty per run therefore replaces the count,
and for a given penalty one pass over ``n`` values suffices, O(n log n), since the costs satisfy the quadrangle
inequality (Wilber 1988; Galil and Park 1990; the penalty: Aggarwal, Schieber and Tokuyama 1994). The penalty is looked
for on bins first. Where equal costs leave no penalty for which it is ``k`` runs, divide and conquer over all counts up
to ``k`` finds them, O(k n log n) (Grønlund et al., arXiv:1701.07204).

Sums are those of IEEE doubles in a fixed order: the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numba
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

_BINS = 4096
_PASSES = 60
_LEAST = 2.0**-50
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def jit(kernel: _Kernel) -> _Kernel:
    """Compile on first use; the machine code is kept on disk where there is a place for it."""
    try:
        return cast(_Kernel, numba.njit(cache=True, nogil=True)(kernel))
    except RuntimeError:  # neither this folder nor the user's cache can be written to
        return cast(_Kernel, numba.njit(nogil=True)(kernel))


@dataclass(frozen=True)
class Clusters:
    """The best ``k`` runs of sorted values, or as many as there are values.

    Attributes:
        starts: index of the first value of each run, and the number of values at the end.
        centers: weighted mean of each run, ascending.
        error: weighted sum of squared differences to the means.
    """

    starts: Array
    centers: Floats
    error: float


def cluster(values: Array, weights: Array, k: int) -> Clusters:
    """The optimal clustering.

    Args:
        values: ``[n]`` distinct, finite, ascending.
        weights: ``[n]`` positive.
        k: number of clusters, at least 1.
    """
    count = len(values)
    if count <= k:
        return Clusters(np.arange(count + 1), values.astype(np.float64), 0.0)
    sums = _sums(values, weights)
    _, starts = _search(*sums, k, _binned_penalty(values, weights, k))
    if len(starts) != k + 1:
        starts = _by_count(*sums, k)
    return _clusters(values, weights, starts)


def lower_bound(values: Array, weights: Array, k: int) -> float:
    """A bound below which the error of no ``k`` clusters lies: the Lagrangian's, for the penalty of `cluster`."""
    sums = _sums(values, weights)
    penalty, starts = _search(*sums, k, _binned_penalty(values, weights, k))
    return _clusters(values, weights, starts).error + penalty * (len(starts) - 1 - k)


def _clusters(values: Array, weights: Array, starts: Array) -> Clusters:
    exact = values.astype(np.float64)
    total = np.add.reduceat(weights.astype(np.float64), starts[:-1])
    # Deviations from the first value of a run: no digits are lost to a common offset.
    base = exact[starts[:-1]]
    off = exact - np.repeat(base, np.diff(starts))
    mean = np.add.reduceat(weights * off, starts[:-1]) / total
    squares = np.square(off - np.repeat(mean, np.diff(starts)))
    return Clusters(starts, base + mean, float((weights * squares).sum()))


def _sums(values: Array, weights: Array) -> tuple[Floats, Floats, Floats]:
    """Running sums of weights, and of first and second moments about the median.

    They begin at the median and go outwards, so that outliers cost no digits but where they are themselves.
    """
    weight = weights.astype(np.float64)
    # No step of a sum may vanish in it, or a run would weigh nothing.
    weight = np.maximum(weight, weight.sum() * _LEAST)
    total = np.cumsum(weight)
    middle = int(np.searchsorted(total, total[-1] / 2))
    off = values.astype(np.float64) - float(values[middle])

    def outwards(moment: Floats) -> Floats:
        left = -np.cumsum(moment[:middle][::-1])[::-1]
        return np.concatenate([left, np.zeros(1), np.cumsum(moment[middle:])])

    return outwards(weight), outwards(weight * off), outwards(weight * off * off)


def _binned_penalty(values: Array, weights: Array, k: int) -> float:
    """A penalty for which it is about ``k`` runs: that of bins, cut where the best quantizer is dense.

    The density is the cube root of that of the values (Panter and Dite 1951), which also says where to begin.
    """
    exact, weight = values.astype(np.float64), weights.astype(np.float64)
    width = np.gradient(exact)
    density = np.cbrt(weight * width * width)
    reach = np.cumsum(density)
    guess = float(reach[-1]) ** 3 / (6 * k**3)
    if len(values) <= _BINS:
        return guess
    bins = np.minimum((reach / reach[-1] * _BINS).astype(np.int64), _BINS - 1)
    first = np.flatnonzero(np.diff(bins, prepend=-1))
    total = np.add.reduceat(weight, first)
    means = np.add.reduceat(weight * exact, first) / total
    return _search(*_sums(means, total), k, guess)[0]


def _search(total: Floats, first: Floats, second: Floats, k: int, penalty: float) -> tuple[float, Array]:
    """A penalty for which it is ``k`` runs, and those; the runs nearest to that number where there is none."""
    low, high = 0.0, np.inf
    best, tried = _runs(total, first, second, penalty), penalty
    for _ in range(_PASSES):
        runs = len(best) - 1
        if runs == k:
            break
        if runs > k:
            low = tried
        else:
            high = tried
        if high <= low * (1 + 1e-13):
            break
        # The error falls with the square of the number of runs, so the penalty with its cube.
        tried = tried * (runs / k) ** 3
        if not low < tried < high:
            tried = low * 4 if high == np.inf else high / 4 if low == 0 else float(np.sqrt(low * high))
        best = _runs(total, first, second, tried)
    return tried, best


@jit
def _runs(total: Floats, first: Floats, second: Floats, penalty: float) -> Array:
    """Starts of the runs that are cheapest when each costs ``penalty`` besides its squared differences."""
    count = len(total) - 1
    cost = np.zeros(count + 1)
    previous = np.zeros(count + 1, np.int32)
    # Candidates for the start of the last run, and from which end on each is the best.
    candidate = np.zeros(count + 1, np.int32)
    since = np.zeros(count + 1, np.int32)
    head, tail = 0, 0
    since[0] = 1
    for end in range(1, count + 1):
        while head < tail and since[head + 1] <= end:
            head += 1
        start = candidate[head]
        weight = total[end] - total[start]
        moment = first[end] - first[start]
        cost[end] = cost[start] + (second[end] - second[start] - moment * moment / weight) + penalty
        previous[end] = start
        if end == count:
            break
        base = cost[end]
        low = count + 1
        while tail >= head:
            other = candidate[tail]
            at = max(since[tail], end + 1)
            ours = first[at] - first[end]
            theirs = first[at] - first[other]
            new = base - second[end] - ours * ours / (total[at] - total[end])
            old = cost[other] - second[other] - theirs * theirs / (total[at] - total[other])
            if new >= old:
                low = at
                break
            tail -= 1
        if tail < head:
            tail += 1
            candidate[tail] = end
            since[tail] = end + 1
            continue
        # The new candidate is not better at `low`; from where on is it?
        other = candidate[tail]
        fixed, other_fixed = base - second[end], cost[other] - second[other]
        step = 16
        high = low + step
        while high <= count:
            ours = first[high] - first[end]
            theirs = first[high] - first[other]
            if fixed - ours * ours / (total[high] - total[end]) < other_fixed - theirs * theirs / (
                total[high] - total[other]
            ):
                break
            low = high
            step *= 2
            high = low + step
        high = min(high, count + 1)
        while high - low > 1:
            at = (low + high) // 2
            ours = first[at] - first[end]
            theirs = first[at] - first[other]
            if fixed - ours * ours / (total[at] - total[end]) < other_fixed - theirs * theirs / (
                total[at] - total[other]
            ):
                high = at
            else:
                low = at
        if high <= count:
            tail += 1
            candidate[tail] = end
            since[tail] = high
    runs = 0
    at = count
    while at > 0:
        at = previous[at]
        runs += 1
    starts = np.zeros(runs + 1, np.int64)
    at = count
    for index in range(runs, -1, -1):
        starts[index] = at
        at = previous[at]
    return starts


@jit
def _by_count(total: Floats, first: Floats, second: Floats, k: int) -> Array:
    """Starts of the cheapest ``k`` runs, by divide and conquer over the ends, one number of runs after the other."""
    count = len(total) - 1
    back = np.zeros((k + 1, count + 1), np.int32)
    cost = np.empty(count + 1)
    cost[0] = 0.0
    for end in range(1, count + 1):
        moment = first[end] - first[0]
        cost[end] = second[end] - second[0] - moment * moment / (total[end] - total[0])
    layer = np.empty(count + 1)
    pending = np.zeros((128, 4), np.int64)
    for runs in range(2, k + 1):
        layer[:runs] = np.inf
        depth = 1
        pending[0] = (runs, count, runs - 1, count - 1)
        while depth:
            depth -= 1
            low, high, begin, until = pending[depth]
            middle = (low + high) // 2
            best, chosen = np.inf, begin
            for start in range(begin, min(until, middle - 1) + 1):
                moment = first[middle] - first[start]
                value = cost[start] + (
                    second[middle] - second[start] - moment * moment / (total[middle] - total[start])
                )
                if value < best:
                    best, chosen = value, start
            layer[middle] = best
            back[runs, middle] = chosen
            if middle < high:
                pending[depth] = (middle + 1, high, chosen, until)
                depth += 1
            if low < middle:
                pending[depth] = (low, middle - 1, begin, chosen)
                depth += 1
        cost, layer = layer, cost
    starts = np.zeros(k + 1, np.int64)
    at = count
    for runs in range(k, 0, -1):
        starts[runs] = at
        at = back[runs, at]
    return starts

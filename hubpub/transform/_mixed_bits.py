"""Bits for each weight under a budget.

The noise of a weight is its squared error over its squares, which is what it adds to the relative noise of its layer's
output when the input is white; noises of layers add up. Along the convex hull of noise over bytes the step that takes
away the most noise per byte comes first (the greedy of the multiple-choice knapsack, Sinha and Zoltners 1979), which is
optimal but for the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf


@dataclass(frozen=True)
class Option:
    """One way to store a weight: ``bits`` of an index, ``nbytes`` in the file, ``noise`` relative to its squares."""

    bits: int
    nbytes: int
    noise: float


def choose(
    options: Sequence[Sequence[Option]], *, max_bytes: int | None = None, max_noise: float | None = None
) -> list[int] | None:
    """Which option of each weight to take.

    Args:
        options: of each weight, at least one.
        max_bytes: what all may take; the noise is then the least.
        max_noise: what their mean noise may be; the bytes are then the least. One of both is given.

    Returns:
        Indices, or None if no choice keeps the budget.
    """
    hulls = [_hull(each) for each in options]
    taken = [0] * len(options)
    steps = []
    for weight, (each, hull) in enumerate(zip(options, hulls, strict=True)):
        for step, (low, high) in enumerate(pairwise(hull), 1):
            more, less = each[high].nbytes - each[low].nbytes, each[low].noise - each[high].noise
            steps.append((-less / more, weight, step, more, less))
    steps.sort()
    chosen = [each[hull[0]] for each, hull in zip(options, hulls, strict=True)]
    nbytes, noise = sum(each.nbytes for each in chosen), sum(each.noise for each in chosen)
    allowed = inf if max_noise is None else max_noise * len(options)
    closed = set()
    for _, weight, step, more, less in steps:
        if max_noise is not None and noise <= allowed:
            break
        if max_bytes is not None and (weight in closed or nbytes + more > max_bytes):
            closed.add(weight)
            continue
        taken[weight] = step
        nbytes, noise = nbytes + more, noise - less
    if max_noise is not None:  # the last step may have gone too far: then another can be taken back
        for _, weight, step, _, less in reversed(steps):
            if taken[weight] == step and noise + less <= allowed:
                taken[weight], noise = step - 1, noise + less
    found = [hull[step] for hull, step in zip(hulls, taken, strict=True)]
    chosen = [each[index] for each, index in zip(options, found, strict=True)]
    if sum(each.nbytes for each in chosen) > (inf if max_bytes is None else max_bytes):
        return None
    # A sum that was built up by differences is off by some units in the last place.
    return found if sum(each.noise for each in chosen) <= allowed * (1 + 1e-9) else None


def _hull(options: Sequence[Option]) -> list[int]:
    """Indices of the options on the lower convex hull of noise over bytes, from the smallest on."""
    order = sorted(range(len(options)), key=lambda index: (options[index].nbytes, options[index].noise))
    hull: list[int] = []
    for index in order:
        here = options[index]
        if hull and (here.noise >= options[hull[-1]].noise or here.nbytes == options[hull[-1]].nbytes):
            continue
        while len(hull) > 1:
            before, last = options[hull[-2]], options[hull[-1]]
            # Is the last one above the line from the one before it to this one?
            if (last.noise - before.noise) * (here.nbytes - before.nbytes) < (here.noise - before.noise) * (
                last.nbytes - before.nbytes
            ):
                break
            hull.pop()
        hull.append(index)
    return hull

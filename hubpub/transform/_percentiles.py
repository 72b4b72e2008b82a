"""Ranges of smoothed inputs that cover a percentile: from what one pass kept, or by a second look where it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.transform.calibration.probes import Tail
from hubpub.transform.calibration.smoothed_tail import SLOTS, SmoothedTail, windows_of

if TYPE_CHECKING:
    from hubpub.transform._int8_layers import Group
    from hubpub.transform._smooth import Smoothing
    from hubpub.transform.base import Windows
    from hubpub.transform.calibration.observe import Observations

    Array = np.ndarray[Any, np.dtype[Any]]

_SLACK = 1 / (16 * 255)

Look = Callable[[list[Tail], list[int]], "Observations"]
"""Runs the windows of these numbers and answers these probes."""


class SomeWindows:
    """Those windows whose numbers are in ``numbers``, ascending."""

    def __init__(self, windows: Windows, numbers: Sequence[int]) -> None:
        self._windows, self._numbers = windows, frozenset(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        left = len(self._numbers)
        for number, window in enumerate(self._windows if left else ()):
            if number in self._numbers:
                yield window
                left -= 1
                if not left:
                    return


@dataclass(frozen=True)
class _End:
    """One end of a smoothed input: the ``count``-th value from it is asked for."""

    name: str
    divisors: Array
    end: int
    count: int


def cover(
    groups: Sequence[Group],
    chosen: Sequence[Smoothing],
    counts: Mapping[str, int],
    guessed: Mapping[str, SmoothedTail],
    seen: Observations,
    look: Look,
    *,
    windows: int,
    share: float,
) -> list[Smoothing]:
    """``chosen`` with the ranges that leave out the outermost ``share`` of the values at each end.

    Either end is exact, or short of it by no more than a sixteenth of the step that 8 bits cut the range into: as much
    is granted to what was not kept, where a tail is so flat (that of SiLU is) that nothing can tell its values apart.

    Args:
        groups: of layers.
        chosen: for each of them.
        counts: for each input, of its values in all windows.
        guessed: the probes, by input, that ``seen`` answers; an input without one is looked at in a second pass.
        seen: what the first pass showed.
        look: the second pass, over some windows.
        windows: that there are.
        share: of all values.
    """
    found: dict[tuple[str, int], float] = {}
    lacking: list[_End] = []
    slots: set[int] = set()
    for g, smoothing in zip(groups, chosen, strict=True):
        divisors = np.ones(g.width) if smoothing.divisors is None else smoothing.divisors
        for name in g.inputs:
            ends = [_End(name, divisors, end, int(share * counts[name]) + 1) for end in (0, 1)]
            if (probe := guessed.get(name)) is None:
                lacking += ends
                slots.update(range(SLOTS))
                continue
            settled = [probe.settle(seen[probe], divisors, each.count, each.end) for each in ends]
            slack = max(settled[0][0] + settled[1][0], 0.0) * _SLACK
            for each, (value, reach) in zip(ends, settled, strict=True):
                found[name, each.end] = value
                if unsure := set(np.flatnonzero(reach > value + slack).tolist()):
                    lacking.append(each)
                    slots |= unsure
    again = windows_of(slots, windows)
    if again:
        tails = {each.name: Tail(each.name, tuple(map(float, each.divisors)), each.count) for each in lacking}
        second = look(list(tails.values()), again)
        for each in lacking:
            found[each.name, each.end] = _joined(each, guessed, seen, frozenset(slots), second[tails[each.name]])
    result = []
    for g, smoothing in zip(groups, chosen, strict=True):
        margin = smoothing.candidate.margin
        each_of = [(0.0 - found[name, 0] * margin, found[name, 1] * margin) for name in g.inputs]
        low, high = min(one for one, _ in each_of), max(other for _, other in each_of)
        result.append(replace(smoothing, low=low, high=high, ranges=tuple(each_of) if len(each_of) > 1 else ()))
    return result


def _joined(
    each: _End,
    guessed: Mapping[str, SmoothedTail],
    seen: Observations,
    slots: frozenset[int],
    tail: Mapping[str, Array],
) -> float:
    """The value asked for, positive towards its end: of the windows seen again, and what was kept of the others."""
    values = -tail["least"] if each.end == 0 else tail["greatest"]
    if probe := guessed.get(each.name):
        values = np.concatenate([values, probe.kept(seen[probe], each.divisors, each.end, slots)])
    return float(-np.partition(-values, each.count - 1)[each.count - 1])

"""Ranges of smoothed inputs that cover a percentile, exactly: of what was kept, or by a second look where it lacks."""

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
    ends = [
        _End(name, np.ones(g.width) if s.divisors is None else s.divisors, end, int(share * counts[name]) + 1)
        for g, s in zip(groups, chosen, strict=True)
        for name in g.inputs
        for end in (0, 1)
    ]
    found: dict[tuple[str, int], float] = {}
    lacking: list[_End] = []
    slots: set[int] = set()
    for each in ends:
        if each.name not in guessed:
            lacking.append(each)
            slots.update(range(SLOTS))
            continue
        probe = guessed[each.name]
        settled = probe.settle(seen[probe], each.divisors, each.count, each.end)
        found[each.name, each.end] = settled.value
        if settled.open:
            lacking.append(each)
            slots |= settled.open
    again = windows_of(slots, windows)
    if again:
        tails = {each.name: Tail(each.name, tuple(map(float, each.divisors)), each.count) for each in lacking}
        second = look(list(tails.values()), again)
        for each in lacking:
            found[each.name, each.end] = _joined(each, guessed, seen, frozenset(slots), second[tails[each.name]])
    result = []
    for g, smoothing in zip(groups, chosen, strict=True):
        margin = smoothing.candidate.margin
        low, high = min(found[name, 0] for name in g.inputs), max(found[name, 1] for name in g.inputs)
        result.append(replace(smoothing, low=low * margin, high=high * margin))
    return result


def _joined(
    each: _End,
    guessed: Mapping[str, SmoothedTail],
    seen: Observations,
    slots: frozenset[int],
    tail: Mapping[str, Array],
) -> float:
    """The value asked for, of what the second look gave and of what the first kept of the other windows."""
    values = -tail["least"] if each.end == 0 else tail["greatest"]
    if probe := guessed.get(each.name):
        values = np.concatenate([values, probe.kept(seen[probe], each.divisors, each.end, slots)])
    value = float(-np.partition(-values, each.count - 1)[each.count - 1])
    return -value if each.end == 0 else value

"""The outermost values of an input divided by something that is known only when all windows have been seen.

Divisors that follow from what a pass shows would need a second pass for the tail of what they divide. Here each window
is divided by what the windows before it suggest; its outermost values are kept, and for all others a bound per channel.
In the end the true divisors tell which windows may have held more than was kept. Those are the first few, as later the
guess is near, and only they have to be looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.transform.calibration.probes import Probe, Writer, reciprocal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hubpub.transform.calibration.probes import Accumulator

    Array = NDArray[Any]
    Floats = NDArray[np.float32]

SLOTS = 8
"""Each of the first windows but one has bounds of its own, all others share one: memory does not grow with them."""

_FLOAT, _DOUBLE, _INT64 = 1, 11, 7
_ROUNDED = 1e-6  # relative; what a product and a quotient in float32 may be off by, and more


@dataclass(frozen=True)
class SmoothedTail(Probe):
    """The outermost values at both ends of a value ``[…, width]`` divided by channel.

    Accumulates, the first axis being the end (0 = least, negated; 1 = greatest): ``reach`` ``[2, width]``, extremes;
    ``bound``, beyond which all of a slot's windows was kept, ``[2, SLOTS, width]``; for each end
    ``values``, ``channels`` and ``slots`` of what was kept; ``count``, of values in all, and ``windows``.

    Attributes:
        width: of the last axis.
        share: of the values that lie beyond the one that is asked for.
        total: windows that there will be.
        guess: divisors from the extremes ``low`` and ``high`` so far, positive.
        label: what `guess` is, in words: the same words, the same numbers.
    """

    width: int
    share: float
    total: int
    guess: Callable[[Array, Array], Array] = field(compare=False)
    label: str

    def key(self) -> tuple[str, ...]:
        """Value, share, windows, guess."""
        return ("smoothed tail", self.value, self.share.hex(), str(self.total), self.label)

    def attach(self, writer: Writer) -> list[tuple[str, int]]:
        """TopK of the value times an input of the graph; of what is found the undivided values, and where they lay."""
        rows = writer.rows(self.value, self.width)
        factors = writer.input(self._input, _FLOAT, [self.width])
        scaled = writer.rows(writer.node("Mul", [rows, factors])[0], -1)
        size = writer.node("Size", [self.value])[0]
        part = writer.constant(np.array(self.share * self.total, np.float64))
        wanted = writer.node("Floor", [writer.node("Mul", [writer.node("Cast", [size], to=_DOUBLE)[0], part])[0]])[0]
        one = writer.constant(np.array(1, np.int64))
        more = writer.node("Add", [writer.node("Cast", [wanted], to=_INT64)[0], one])[0]
        count = writer.rows(writer.node("Min", [more, size])[0], -1)
        given = [(writer.reduce("ReduceMin", rows), _FLOAT), (writer.reduce("ReduceMax", rows), _FLOAT), (size, _INT64)]
        for largest in (0, 1):
            _, places = writer.node("TopK", [scaled, count], outputs=2, axis=0, largest=largest, sorted=1)
            values = writer.node("Gather", [writer.rows(self.value, -1), places], axis=0)[0]
            given += [(values, _FLOAT), (places, _INT64)]
        return given

    @property
    def _input(self) -> str:
        return f"probe/factors/{self.value}"

    def feeds(self, seen: Accumulator) -> dict[str, Array]:
        """The reciprocals of the divisors that the windows so far suggest."""
        return {self._input: self._factors(seen)}

    def _factors(self, seen: Accumulator) -> Floats:
        low, high = seen["reach"] if seen["count"] else np.ones((2, self.width))
        return reciprocal(self.guess(-low, high))

    def sound(self, given: list[Array]) -> bool:
        """See `Probe.sound`; of no values the extremes are infinite."""
        return not given[2] or super().sound(given)

    def start(self) -> Accumulator:
        """Nothing seen, nothing kept."""
        seen: Accumulator = {
            "reach": np.full((2, self.width), -np.inf, np.float32),
            "bound": np.full((2, SLOTS, self.width), -np.inf, np.float32),
            "count": np.zeros((), np.int64),
            "windows": np.zeros((), np.int64),
        }
        for end in (0, 1):
            seen[f"values{end}"] = np.zeros(0, np.float32)
            seen[f"channels{end}"] = np.zeros(0, np.int32)
            seen[f"slots{end}"] = np.zeros(0, np.uint8)
        return seen

    def fold(self, seen: Accumulator, given: list[Array]) -> None:
        """Keep what is outermost; raise the bounds to what is not kept."""
        low, high, size, least, least_at, greatest, greatest_at = given
        if not size:
            seen["windows"] = seen["windows"] + 1
            return
        factors = self._factors(seen)
        slot = min(int(seen["windows"]), SLOTS - 1)
        for end, reach, values, places in ((0, -low, -least, least_at), (1, high, greatest, greatest_at)):
            channels = (places % self.width).astype(np.int32)
            if len(values) < size:
                inmost = float(values[-1]) * float(factors[channels[-1]]) / factors.astype(np.float64)
                bound = np.minimum(inmost + np.abs(inmost) * _ROUNDED, reach)
                seen["bound"][end, slot] = np.maximum(seen["bound"][end, slot], bound)
            seen["reach"][end] = np.maximum(seen["reach"][end], reach)
            seen[f"values{end}"] = np.concatenate([seen[f"values{end}"], values])
            seen[f"channels{end}"] = np.concatenate([seen[f"channels{end}"], channels])
            seen[f"slots{end}"] = np.concatenate([seen[f"slots{end}"], np.full(len(values), slot, np.uint8)])
        seen["count"] = seen["count"] + size
        seen["windows"] = seen["windows"] + 1
        for end in (0, 1):
            self._forget(seen, end)

    def _forget(self, seen: Accumulator, end: int) -> None:
        """Keep twice as many as will be asked for; the bounds rise to those that go."""
        expected = self.share * float(seen["count"]) * max(self.total / float(seen["windows"]), 1.0)
        most = 2 * (int(expected) + 1)
        values, channels, slots = (seen[f"{name}{end}"] for name in ("values", "channels", "slots"))
        if len(values) <= most:
            return
        order = np.argsort(-values * self._factors(seen)[channels], kind="stable")
        gone = order[most:]
        np.maximum.at(seen["bound"][end], (slots[gone], channels[gone]), values[gone])
        kept = np.sort(order[:most])
        for name in ("values", "channels", "slots"):
            seen[f"{name}{end}"] = seen[f"{name}{end}"][kept]

    def settle(self, seen: Accumulator, divisors: Array, count: int, end: int) -> tuple[float, Floats]:
        """What the first pass says of one end of all windows divided by ``divisors``, towards that end positive.

        Returns:
            The value that ``count - 1`` of those kept lie beyond: the true one is that or further out. And for each
            slot how far out a value can lie that was not kept, ``[SLOTS]``: none beyond it, and the value is true.
        """
        kept = self.kept(seen, divisors, end, frozenset())
        value = float(-np.partition(-kept, count - 1)[count - 1]) if len(kept) >= count else -np.inf
        reach: Floats = (seen["bound"][end] * reciprocal(divisors)).max(1)
        return value, reach

    @staticmethod
    def kept(seen: Accumulator, divisors: Array, end: int, but: frozenset[int]) -> Floats:
        """What was kept at an end, divided, of all slots but some; at the lower end negated."""
        there = ~np.isin(seen[f"slots{end}"], list(but))
        values: Floats = seen[f"values{end}"][there] * reciprocal(divisors)[seen[f"channels{end}"][there]]
        return values


def windows_of(slots: Set[int], total: int) -> list[int]:
    """The numbers of the windows that share some slots, of ``total`` windows."""
    return [number for number in range(total) if min(number, SLOTS - 1) in slots]

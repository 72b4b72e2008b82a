"""Which parts of which clips are used: windows of one length, and a seeded choice among them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from hubpub.corpus.spec import SampleSpec, WindowSpec
from hubpub.errors import AudioError


@dataclass(frozen=True)
class Part:
    """A part of a clip that may be used.

    Attributes:
        clip: index of the clip in its corpus.
        window: start and end in seconds, counted in the recording; ``None``: the clip as the recipe gives it.
        seconds: its length.
        name: id of the clip that it becomes.
        group: what it is balanced by, such as its speaker.
    """

    clip: int
    window: tuple[float, float] | None
    seconds: float
    name: str
    group: str


def window_starts(seconds: float, spec: WindowSpec) -> tuple[float, ...]:
    """Starts of the whole windows in a clip of ``seconds``; to a microsecond, so that they can be written down."""
    last = seconds - spec.seconds
    count = int((last + 1e-9) / spec.step) + 1 if last >= -1e-9 else 0
    return tuple(round(number * spec.step, 6) for number in range(count))


def choose(parts: Sequence[Part], spec: SampleSpec) -> list[Part]:
    """A sample of ``parts``, in their order.

    Parts are drawn in the order of a hash of seed and name, so that the same are drawn on any machine, and one part
    more changes little. With groups the next part is always drawn from the group that has least of its share.

    Raises:
        AudioError: there are fewer than were asked for, or none is short enough.
    """
    if spec.count is not None and spec.count > len(parts):
        what = f"the sample asks for {spec.count} clips, and there are {len(parts)}"
        raise AudioError(what, fix="ask for fewer, cut shorter windows or add clips")
    waiting: dict[str, list[Part]] = {}
    for part in sorted(parts, key=lambda part: _draw(spec.seed, part.name), reverse=True):
        waiting.setdefault("" if spec.balance is None else part.group, []).append(part)
    shares = {
        group: sum(part.seconds for part in those) if spec.balance == "seconds" else 1.0
        for group, those in waiting.items()
    }
    taken: dict[str, float] = dict.fromkeys(sorted(waiting), 0.0)
    chosen: list[Part] = []
    left = float("inf") if spec.seconds is None else spec.seconds
    while any(waiting.values()) and len(chosen) != spec.count:
        group = min((group for group in taken if waiting[group]), key=lambda group: taken[group] / shares[group])
        part = waiting[group].pop()
        if part.seconds <= left + 1e-9:
            chosen.append(part)
            left -= part.seconds
            taken[group] += part.seconds
    if not chosen:
        shortest = min((part.seconds for part in parts), default=0.0)
        what = f"the sample asks for {spec.seconds:g} s, and the shortest clip has {shortest:g} s"
        raise AudioError(what, fix="ask for more, or cut shorter windows")
    order = {id(part): number for number, part in enumerate(parts)}
    return sorted(chosen, key=lambda part: order[id(part)])


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()

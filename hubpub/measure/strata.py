"""Parts of a corpus that get figures of their own: by length, language, speaker, and sections of long audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hubpub.corpus.corpus import Clip, Prompt
from hubpub.errors import MeasureError
from hubpub.measure.edits import Edits, Unit, aligned_units, count_units
from hubpub.measure.normalize import Normalizer, normalize

if TYPE_CHECKING:
    from hubpub.corpus.corpus import Spoken
    from hubpub.measure.result import Piece

LENGTHS_S = (5.0, 15.0, 30.0, 60.0)
"""Where the classes of length begin and end, in seconds."""

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Some of the clips, whole or in part.

    Attributes:
        subset: its name; ``None`` is everything.
        clips: indices.
        places: for each clip which of its ``units + 1`` places count; ``None``: all.
    """

    subset: str | None
    clips: tuple[int, ...]
    places: tuple[npt.NDArray[np.bool_] | None, ...]

    def cut(self, scores: Sequence[Edits]) -> list[Edits]:
        """The errors that fall into it."""
        return [
            scores[clip] if place is None else Edits(int(place[:-1].sum()), scores[clip].at[place])
            for clip, place in zip(self.clips, self.places, strict=True)
        ]


def whole(count: int, subset: str | None = None, clips: Sequence[int] | None = None) -> Part:
    """All of some clips; default: of all ``count``."""
    chosen = tuple(range(count)) if clips is None else tuple(clips)
    return Part(subset, chosen, (None,) * len(chosen))


def by_clip(kind: Literal["length", "language", "speaker"], clips: Sequence[Clip | Prompt]) -> list[Part]:
    """A part for each length class, language or speaker that there is; in order of length, else of name."""
    names = [_length(clip) if kind == "length" else getattr(clip.provenance, kind) or "unknown" for clip in clips]
    order = [_class(low, high) for low, high in _classes()] if kind == "length" else sorted(set(names))
    found = ((name, [index for index, each in enumerate(names) if each == name]) for name in order)
    return [whole(len(clips), f"{kind}:{name}", chosen) for name, chosen in found if chosen]


def by_section(times: Sequence[Seconds], section_s: float) -> list[Part]:
    """A part for each section of ``section_s`` seconds, over all clips.

    Args:
        times: for each clip the time of each unit of its reference.
        section_s: length of a section.
    """
    sections = [(each // section_s).astype(np.int64) for each in times]
    # What is inserted after the last unit counts where that is.
    places = [np.append(each, each[-1:] if len(each) else [0]) for each in sections]
    last = max((int(each.max()) for each in sections if len(each)), default=-1)
    found = []
    for number in range(last + 1):
        clips = tuple(clip for clip, each in enumerate(sections) if (each == number).any())
        if clips:
            name = f"section:{number * section_s:g}-{(number + 1) * section_s:g} s"
            found.append(Part(name, clips, tuple(places[clip] == number for clip in clips)))
    return found


def unit_times(pieces: Sequence[Piece | Spoken], unit: Unit, normalizer: Normalizer) -> tuple[str, Seconds]:
    """The normalised text of ``pieces``, and when each of its units is spoken, in seconds.

    Within a piece, units are spread evenly from its start to its end.
    """
    texts: list[str] = []
    times: list[list[float]] = []
    for piece in pieces:
        text = normalize(piece.text, normalizer)
        if not text:
            continue
        if texts and unit == "characters":
            times.append([piece.start])  # the space before it
        count = count_units(text, unit)
        texts.append(text)
        times.append(list(piece.start + (np.arange(count) + 0.5) / count * (piece.end - piece.start)))
    return " ".join(texts), np.array([time for each in times for time in each], dtype=np.float64)


def placed_by(reference: str, pieces: Sequence[Piece | Spoken], unit: Unit, normalizer: Normalizer) -> Seconds:
    """When each unit of a normalised transcript is spoken, told by the pieces of a run over the same audio.

    A unit is spoken when the one is that it is aligned with; one that the run did not hear, when the one before it is.
    """
    heard, times = unit_times(pieces, unit, normalizer)
    if heard == reference:
        return times
    if not len(times):
        return np.zeros(count_units(reference, unit))
    found = np.full(count_units(reference, unit), np.nan)
    for at, other in aligned_units(reference, heard, unit):
        found[at] = times[other]
    known = np.flatnonzero(np.isfinite(found))
    if not len(known):
        raise MeasureError("the transcript has nothing in common with what the reference run heard")
    before = np.maximum(np.searchsorted(known, np.arange(len(found)), side="right") - 1, 0)
    return np.asarray(found[known[before]])


def _classes() -> list[tuple[float, float | None]]:
    return list(zip((0.0, *LENGTHS_S), (*LENGTHS_S, None), strict=True))


def _length(clip: Clip | Prompt) -> str:
    return next(_class(low, high) for low, high in _classes() if high is None or clip.seconds < high)


def _class(low: float, high: float | None) -> str:
    return f"{low:g} s or more" if high is None else f"{low:g}-{high:g} s"

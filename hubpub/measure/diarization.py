"""Diarization error on an exact timeline: no frames, every boundary lies where it is.

The definition of NIST's Rich Transcription evaluations (md-eval), as in Bredin, "pyannote.metrics" (Interspeech 2017):
at every moment the speakers of the reference and of the hypothesis are counted; what is missing, what is too much, and
what is given to the wrong speaker under the best one-to-one mapping are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubpub.corpus.corpus import Turn
from hubpub.measure.assignment import best_assignment

Spans = Sequence[tuple[float, float]]
_Bools = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parts:
    """Seconds of speakers' time: two who speak at once for a second are two seconds."""

    speech: float = 0.0
    missed: float = 0.0
    false_alarm: float = 0.0
    confusion: float = 0.0

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            self.speech + other.speech,
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
        )

    @property
    def errors(self) -> float:
        """All three kinds."""
        return self.missed + self.false_alarm + self.confusion


def compare_turns(
    reference: Sequence[Turn],
    hypothesis: Sequence[Turn],
    scored: Spans,
    *,
    windows: Spans | None = None,
    collar_s: float = 0.0,
    overlap: bool = True,
) -> Parts:
    """What of the hypothesis is wrong.

    Overlapping or touching turns of one speaker are one turn.

    Args:
        reference: who really speaks when.
        hypothesis: who does, says the model; its names of speakers mean nothing.
        scored: the parts of the timeline that count.
        windows: where the names of the hypothesis hold within each of these only, and are mapped for each alone.
        collar_s: what does not count on either side of each boundary of the reference.
        overlap: whether what counts includes speech of several at once.
    """
    merged, other = _merged(reference), _merged(hypothesis)
    collars = [(at - collar_s, at + collar_s) for turn in merged for at in (turn.start, turn.end)] if collar_s else []
    total = Parts()
    for window in [(-np.inf, np.inf)] if windows is None else windows:
        total += _compare(merged, other, _within(scored, window), collars, overlap)
    return total


def _compare(reference: list[Turn], hypothesis: list[Turn], scored: Spans, collars: Spans, overlap: bool) -> Parts:
    if not scored:
        return Parts()
    spans = [*scored, *collars, *((turn.start, turn.end) for turn in (*reference, *hypothesis))]
    cuts = np.unique(np.asarray(spans, dtype=np.float64))
    lengths: _Floats = np.diff(cuts)
    here, there = _active(reference, cuts), _active(hypothesis, cuts)
    speakers = here.sum(axis=0)
    counts = _covered(scored, cuts) & ~_covered(collars, cuts)
    if not overlap:
        counts &= speakers < 2
    lengths = np.where(counts, lengths, 0.0)
    found = there.sum(axis=0)
    together: _Floats = (here * lengths) @ there.T.astype(np.float64)
    correct = sum(float(together[pair]) for pair in best_assignment(together)) if together.size else 0.0
    return Parts(
        speech=float(speakers @ lengths),
        missed=float((speakers - found).clip(min=0) @ lengths),
        false_alarm=float((found - speakers).clip(min=0) @ lengths),
        confusion=max(0.0, float(np.minimum(speakers, found) @ lengths) - correct),
    )


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    for turn in sorted(turns, key=lambda each: (each.speaker, each.start)):
        last = merged[-1] if merged else None
        if turn.end <= turn.start:
            continue
        if last is not None and last.speaker == turn.speaker and turn.start <= last.end:
            merged[-1] = last.model_copy(update={"end": max(last.end, turn.end)})
        else:
            merged.append(turn)
    return merged


def _within(spans: Spans, window: tuple[float, float]) -> Spans:
    cut = ((max(start, window[0]), min(end, window[1])) for start, end in spans)
    return [(start, end) for start, end in cut if start < end]


def _active(turns: list[Turn], cuts: _Floats) -> _Bools:
    """``[speakers, intervals]``."""
    names = sorted({turn.speaker for turn in turns})
    active = np.zeros((len(names), len(cuts) - 1), dtype=np.bool_)
    for row, name in enumerate(names):
        active[row] = _covered([(turn.start, turn.end) for turn in turns if turn.speaker == name], cuts)
    return active


def _covered(spans: Spans, cuts: _Floats) -> _Bools:
    """``[intervals]``: those that lie within one of ``spans``, whose ends are all among ``cuts``."""
    covered = np.zeros(len(cuts) - 1, dtype=np.bool_)
    for start, end in spans:
        covered[np.searchsorted(cuts, start) : np.searchsorted(cuts, end)] = True
    return covered

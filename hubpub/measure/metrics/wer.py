"""Word error rate: substitutions, deletions and insertions by the words of the transcripts (jiwer's alignment)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.measure.metrics._text import TranscriptErrorRate

if TYPE_CHECKING:
    from hubpub.measure.edits import Unit


class Wer(TranscriptErrorRate):
    """``wer`` pooled and for each clip; with a second run also the paired delta."""

    metric: Literal["wer"]
    gives: ClassVar[tuple[str, ...]] = ("wer",)
    deltas: ClassVar[tuple[str, ...]] = gives
    unit: ClassVar[Unit] = "words"

"""Character error rate: as the word error rate, by characters, the spaces between words among them (as jiwer does)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.measure.metrics._text import TranscriptErrorRate

if TYPE_CHECKING:
    from hubpub.measure.edits import Unit


class Cer(TranscriptErrorRate):
    """``cer`` pooled and for each clip; with a second run also the paired delta."""

    metric: Literal["cer"]
    gives: ClassVar[tuple[str, ...]] = ("cer",)
    deltas: ClassVar[tuple[str, ...]] = gives
    unit: ClassVar[Unit] = "characters"

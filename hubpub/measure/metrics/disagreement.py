"""Word error rate against another run's transcripts: for audio that nobody has written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.corpus.corpus import Corpus
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics._text import ErrorRate
from hubpub.measure.result import RunResult

if TYPE_CHECKING:
    from hubpub.measure.edits import Unit


class Disagreement(ErrorRate):
    """How far a run departs from the reference run, usually fp32; ``n`` counts the reference's words."""

    metric: Literal["disagreement"]
    gives: ClassVar[tuple[str, ...]] = ("disagreement",)
    unit: ClassVar[Unit] = "words"
    needs_against: ClassVar[bool] = True

    def units(self, texts: Sequence[str | None]) -> int | None:
        """Unknown before the reference has run."""
        return None

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        oracle = self._reference(against)
        said = self._texts(oracle)
        parts = self._parts(corpus.clips, said, range(len(said)), oracle)
        return self._rates(run, parts, self._score(said, self._texts(run)), oracle)

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
    """How far a run departs from the reference run, usually fp32; ``n`` counts the reference's words.

    Against another run: how much further than that one departs from the same reference.
    """

    metric: Literal["disagreement"]
    gives: ClassVar[tuple[str, ...]] = ("disagreement",)
    deltas: ClassVar[tuple[str, ...]] = gives
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

    def _compare(self, run: RunResult, corpus: Corpus, reference: RunResult, other: RunResult) -> list[Measurement]:
        said = self._texts(reference)
        parts = self._parts(corpus.clips, said, range(len(said)), reference)
        mine, theirs = (self._score(said, self._texts(each)) for each in (run, other))
        figures = self._paired(run, other, parts, mine, theirs, reference)
        # Both sides hang on the reference too.
        return [
            each.model_copy(
                update={
                    "artifacts": {**reference.job.artifacts, **each.artifacts},
                    "synthetic": each.synthetic or reference.job.synthetic,
                }
            )
            for each in figures
        ]

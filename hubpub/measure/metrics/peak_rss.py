"""The most memory that the client's process held: interpreter, libraries, model and one clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from hubpub.corpus.corpus import Corpus
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import RunResult


class PeakRss(Metric):
    """``peak_rss`` in bytes, observed in one process that does nothing else."""

    metric: Literal["peak_rss"]
    gives: ClassVar[tuple[str, ...]] = ("peak_rss",)
    timings: ClassVar[bool] = True

    def units(self, texts: Sequence[str | None]) -> int | None:
        """One process, however long the corpus."""
        return 1

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        from hubpub.measure.stats import none

        return [
            self._figure(
                run,
                none(1),
                metric=self.metric,
                value=run.observed.peak_rss_bytes,
                unit="bytes",
                n=1,
                n_unit="processes",
                observed=True,
            )
        ]

"""What a user has to fetch to run the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from hubpub.corpus.corpus import Corpus
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import RunResult


class DownloadSize(Metric):
    """``download_size`` in bytes, of the run's artifacts; with a second run also the difference."""

    metric: Literal["download_size"]
    gives: ClassVar[tuple[str, ...]] = ("download_size",)
    deltas: ClassVar[tuple[str, ...]] = gives

    def units(self, texts: Sequence[str | None]) -> int | None:
        """Counts files, not clips."""
        return None

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        size = sum(run.job.sizes.values())
        figures = [self._size(run, size)]
        if against is not None:
            figures.append(self._size(run, size - sum(against.job.sizes.values()), against))
        return figures

    def _size(self, run: RunResult, size: int, other: RunResult | None = None) -> Measurement:
        from hubpub.measure.stats import exact

        return self._figure(
            run,
            exact(size),
            other,
            metric=self.metric,
            value=size,
            unit="bytes",
            n=len(run.job.sizes),
            n_unit="files",
            against=None if other is None else f"{other.job.run}/{self.metric}",
        )

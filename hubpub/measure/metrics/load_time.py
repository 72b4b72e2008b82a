"""How long the client takes to load the model, its own import not counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from hubpub.corpus.corpus import Corpus
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import RunResult


class LoadTime(Metric):
    """``load_time`` in seconds, observed once."""

    metric: Literal["load_time"]
    gives: ClassVar[tuple[str, ...]] = ("load_time",)
    timings: ClassVar[bool] = True

    def units(self, texts: Sequence[str | None]) -> int | None:
        """Once, however long the corpus."""
        return 1

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        from hubpub.measure.stats import none

        return [
            self._figure(
                run,
                none(1),
                metric=self.metric,
                value=run.observed.load_s,
                unit="s",
                n=1,
                n_unit="processes",
                observed=True,
            )
        ]

"""How long one utterance takes."""

from __future__ import annotations

from typing import ClassVar, Literal

from hubpub.corpus.corpus import Corpus
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import RunResult


class Latency(Metric):
    """``latency_median`` and ``latency_p95`` in seconds, over utterances, after a warm-up."""

    metric: Literal["latency"]
    gives: ClassVar[tuple[str, ...]] = ("latency_median", "latency_p95")
    timings: ClassVar[bool] = True

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        import numpy as np

        from hubpub.measure.stats import Floats, value_interval

        walls = [timing.wall_s for timing in run.timings]

        def quantile(of: float) -> Measurement:
            def statistic(values: Floats) -> Floats:
                return np.asarray(np.quantile(values, of, axis=-1))

            return self._figure(
                run,
                value_interval(walls, statistic),
                metric="latency_median" if of == 0.5 else "latency_p95",
                value=float(statistic(np.asarray(walls))),
                unit="s",
                n=len(walls),
                n_unit="utterances",
                observed=True,
            )

        return [quantile(0.5), quantile(0.95)]

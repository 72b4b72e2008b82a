"""What the figures of speaker verification share: trials from the clips' speakers, scores, intervals, deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.corpus.corpus import Corpus
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import Kind, RunResult

if TYPE_CHECKING:
    from hubpub.measure.stats import Floats, Interval
    from hubpub.measure.verification import Curve, Trials


class VerificationMetric(Metric):
    """A figure of the trials that the speakers of the clips allow, scored by the cosine of the clips' embeddings.

    The interval is a bootstrap over speakers, because the trials of a speaker stand or fall together.
    """

    pairs: Literal["all", "across_recordings"] = Field(
        default="all", description="Whether two clips of one recording make a trial."
    )
    most_trials: int = Field(
        default=20_000, ge=2, le=1_000_000, description="Of more, so many are drawn, half of them of one speaker."
    )
    seed: int = Field(default=0, ge=0, description="Another seed draws others.")
    deltas: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[Kind, ...]] = ("arrays",)
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    def curve(self) -> Curve:
        """From error rates to the figure."""
        raise NotImplementedError

    def describe(self) -> str:
        """What a reader of the figure must know."""
        return "cosine of embeddings" + (", pairs across recordings" if self.pairs != "all" else "")

    def units(self, texts: Sequence[str | None]) -> int | None:
        """Unknown: the speakers decide."""
        return None

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        from hubpub.measure.verification import figure

        trials = self._trials(run, corpus)
        scores, curve = self._scores(run, trials), self.curve()
        value = float(figure(scores, trials.target, curve))
        figures = [self._of(run, trials, value, self._interval(trials, [scores]))]
        if against is not None:
            others = self._scores(against, trials)
            delta = value - float(figure(others, trials.target, curve))
            figures.append(self._of(run, trials, delta, self._interval(trials, [scores, others]), against))
        return figures

    def _trials(self, run: RunResult, corpus: Corpus) -> Trials:
        from hubpub.measure.verification import make_trials

        speakers = [clip.provenance.speaker for clip in corpus.recorded]
        recordings = None if self.pairs == "all" else [clip.audio for clip in corpus.recorded]
        trials = make_trials(speakers, recordings, most=self.most_trials, seed=self.seed)
        for kind, there in (("of one speaker", trials.target.any()), ("of two speakers", (~trials.target).any())):
            if not there:
                fix = "give the clips `speaker`, at least two of them to one speaker"
                raise MeasureError(f"{self.metric} has no trials {kind}", where=f"run {run.job.run}", fix=fix)
        return trials

    def _scores(self, run: RunResult, trials: Trials) -> Floats:
        import numpy as np

        from hubpub.measure.outputs import embeddings

        vectors = embeddings(run)
        return np.asarray((vectors[trials.first] * vectors[trials.second]).sum(axis=1))

    def _interval(self, trials: Trials, scored: Sequence[Floats]) -> Interval:
        """Of the figure, or of the difference of two."""
        from hubpub.measure.stats import speaker_interval
        from hubpub.measure.verification import by_speaker, figure

        curve = self.curve()

        def statistic(weights: Floats) -> Floats:
            first, *rest = (figure(scores, trials.target, curve, weights) for scores in scored)
            return first - rest[0] if rest else first

        resampled = by_speaker(trials, statistic)
        return speaker_interval(len(trials.names), resampled, int(trials.target.sum()), paired=len(scored) > 1)

    def _of(
        self, run: RunResult, trials: Trials, value: float, interval: Interval, against: RunResult | None = None
    ) -> Measurement:
        return self._figure(
            run,
            interval,
            against,
            metric=self.metric,
            value=value,
            unit="ratio" if self.metric == "eer" else "",
            n=len(trials),
            n_unit="trials",
            normalizer=self.describe(),
            against=None if against is None else f"{against.job.run}/{self.metric}",
        )

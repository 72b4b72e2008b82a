"""How far the scores of speaker verification move from those of a reference run."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.corpus.corpus import Corpus
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics._trials import VerificationMetric
from hubpub.measure.result import RunResult

if TYPE_CHECKING:
    from hubpub.measure.stats import Floats


class TrialShift(VerificationMetric):
    """``trial_shift``: root of the mean squared difference of the trials' scores, which are cosines.

    It tells two models apart where there are too few trials for their error rates to differ.
    """

    metric: Literal["trial_shift"]
    gives: ClassVar[tuple[str, ...]] = ("trial_shift",)
    deltas: ClassVar[tuple[str, ...]] = ()
    needs_against: ClassVar[bool] = True

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        import numpy as np

        from hubpub.measure.stats import speaker_interval
        from hubpub.measure.verification import by_speaker

        reference = self._reference(against)
        trials = self._trials(run, corpus)
        squares = (self._scores(run, trials) - self._scores(reference, trials)) ** 2

        def root(weights: Floats) -> Floats:
            with np.errstate(invalid="ignore"):  # speakers may be picked who share no trial
                found: Floats = np.sqrt((weights * squares).sum(axis=-1) / weights.sum(axis=-1))
            return found

        value = float(root(np.ones(len(trials))))
        interval = speaker_interval(len(trials.names), by_speaker(trials, root), int(trials.target.sum()), paired=False)
        return [
            self._figure(
                run,
                interval,
                reference,
                metric=self.metric,
                value=value,
                unit="cosine",
                n=len(trials),
                n_unit="trials",
                normalizer=self.describe(),
                reference=reference.job.run,
            )
        ]

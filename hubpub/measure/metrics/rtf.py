"""Real-time factor: seconds of work by second of audio, and its inverse."""

from __future__ import annotations

from typing import ClassVar, Literal

from hubpub.corpus.corpus import Corpus
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import RunResult


class Rtf(Metric):
    """``rtf`` (less is faster; features, segmentation and decoding included) and ``rtfx`` = audio by work.

    With a second run also the paired delta of ``rtf``.
    """

    metric: Literal["rtf"]
    gives: ClassVar[tuple[str, ...]] = ("rtf", "rtfx")
    deltas: ClassVar[tuple[str, ...]] = ("rtf",)
    timings: ClassVar[bool] = True

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        from hubpub.measure.stats import paired_ratio_interval, ratio_interval

        work = [timing.wall_s for timing in run.timings]
        audio = [utterance.audio_s for utterance in run.utterances]
        n = len(work)
        figures = [
            self._figure(
                run,
                ratio_interval(work, audio),
                metric="rtf",
                value=sum(work) / sum(audio),
                unit="s/s",
                n=n,
                n_unit="utterances",
                observed=True,
            ),
            self._figure(
                run,
                ratio_interval(audio, work),
                metric="rtfx",
                value=sum(audio) / sum(work),
                unit="×",
                n=n,
                n_unit="utterances",
                observed=True,
            ),
        ]
        if against is None:
            return figures
        # A voice may speak faster than another: what the other would have taken for as much audio.
        pairs = zip(against.timings, against.utterances, audio, strict=True)
        other = [timing.wall_s * (mine / utterance.audio_s) for timing, utterance, mine in pairs]
        delta = self._figure(
            run,
            paired_ratio_interval(work, other, audio),
            against,
            metric="rtf",
            value=(sum(work) - sum(other)) / sum(audio),
            unit="s/s",
            n=n,
            n_unit="utterances",
            observed=True,
            against=f"{against.job.run}/rtf",
        )
        return [*figures, delta]

"""Diarization error rate, and what it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.corpus.corpus import Corpus, Turn
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import Kind, RunResult

if TYPE_CHECKING:
    from hubpub.measure.diarization import Parts
    from hubpub.measure.stats import Interval


class Der(Metric):
    """Wrong seconds by seconds of speech in the references, over all clips whose turns are known.

    ``der`` is the sum of ``der_missed``, ``der_false_alarm`` and ``der_confusion``; with a second run also the paired
    deltas. Where the client's names of speakers hold within windows only, they are mapped for each window alone, as an
    oracle would: then the figure judges the segmentation, not the clustering.
    """

    metric: Literal["der"]
    collar_s: float = Field(
        default=0.0,
        ge=0,
        le=5,
        description="Left out on either side of each boundary of the reference, in seconds; pyannote.metrics gives "
        "both sides together.",
    )
    overlap: bool = Field(default=True, description="Whether speech of several at once counts.")
    speech_only: bool = Field(
        default=False, description="Take all speakers for one: speech against silence, the detection error rate."
    )
    per_clip: bool = Field(default=True, description="Also give a figure for each clip.")
    gives: ClassVar[tuple[str, ...]] = ("der", "der_missed", "der_false_alarm", "der_confusion")
    deltas: ClassVar[tuple[str, ...]] = gives
    needs: ClassVar[tuple[Kind, ...]] = ("turns",)
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    def describe(self) -> str:
        """The options, for the reader of a figure."""
        collar = f"collar {self.collar_s:g} s on either side" if self.collar_s else "no collar"
        who = "speech against silence, " if self.speech_only else ""
        return f"{who}{collar}, overlapping speech {'counted' if self.overlap else 'left out'}"

    def units(self, texts: Sequence[str | None]) -> int | None:
        """Unknown: only the clips with turns count."""
        return None

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        from hubpub.measure.stats import seconds_interval

        ids = [clip.id for clip in corpus.recorded if clip.turns is not None]
        mine = self._parts(run, corpus)
        speech = [part.speech for part in mine]
        if not sum(speech):
            fix = "give the clips `turns_from`"
            raise MeasureError("der has no speech to count in", where=f"run {run.job.run}", fix=fix)
        values = {name: [_of(part, name) for part in mine] for name in self.gives}
        figures = [
            self._rate(run, name, values[name], speech, seconds_interval(values[name], speech)) for name in self.gives
        ]
        if self.per_clip:
            clips = zip(ids, values["der"], speech, strict=True)
            figures += [
                self._rate(run, "der", [errors], [of], seconds_interval([errors], [of]), subset=f"clip:{name}")
                for name, errors, of in clips
                if of
            ]
        if against is not None:
            theirs = self._parts(against, corpus)
            for name in self.gives:
                others = [_of(part, name) for part in theirs]
                figures.append(self._delta(run, against, name, values[name], others, speech))
        return figures

    def _delta(
        self,
        run: RunResult,
        against: RunResult,
        name: str,
        errors: Sequence[float],
        others: Sequence[float],
        speech: Sequence[float],
    ) -> Measurement:
        from hubpub.measure.stats import paired_seconds_interval

        change = [mine - other for mine, other in zip(errors, others, strict=True)]
        interval = paired_seconds_interval(change, speech)
        return self._rate(run, name, change, speech, interval, against=against)

    def _rate(
        self,
        run: RunResult,
        name: str,
        errors: Sequence[float],
        speech: Sequence[float],
        interval: Interval,
        *,
        subset: str | None = None,
        against: RunResult | None = None,
    ) -> Measurement:
        return self._figure(
            run,
            interval,
            against,
            metric=name,
            value=sum(errors) / sum(speech),
            unit="ratio",
            n=len(speech),
            n_unit="utterances",
            normalizer=self.describe(),
            subset=subset,
            against=None if against is None else f"{against.job.run}/{name}",
        )

    def _parts(self, run: RunResult, corpus: Corpus) -> list[Parts]:
        from hubpub.measure.diarization import compare_turns

        parts = []
        for clip, utterance in zip(corpus.recorded, run.utterances, strict=True):
            if clip.turns is None:
                continue
            if utterance.turns is None:
                raise MeasureError("der needs speaker turns, and this client makes none", where=f"run {run.job.run}")
            found = compare_turns(
                self._taken(clip.turns),
                self._taken(utterance.turns),
                clip.scored or [(0.0, clip.seconds)],
                windows=utterance.windows,
                collar_s=self.collar_s,
                overlap=self.overlap,
            )
            parts.append(found)
        return parts

    def _taken(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        return [turn.model_copy(update={"speaker": ""}) for turn in turns] if self.speech_only else turns


def _of(part: Parts, name: str) -> float:
    return part.errors if name == "der" else float(getattr(part, name.removeprefix("der_")))

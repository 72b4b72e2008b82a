"""What the error rates share: scoring, figures for each clip, paired deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from hubpub.corpus.corpus import Corpus
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.normalize import Normalizer, normalize
from hubpub.measure.result import Kind, RunResult

if TYPE_CHECKING:
    from hubpub.measure.edits import Edits, Unit


class ErrorRate(Metric):
    """Errors by units of the references, pooled over the corpus; ``n`` counts these units."""

    normalizer: Normalizer = Field(
        default="basic",
        description="What is done to texts before they are compared: nothing, or NFKC, case folding, no punctuation.",
    )
    per_clip: bool = Field(default=True, description="Also give a figure for each clip.")
    unit: ClassVar[Unit]
    needs: ClassVar[tuple[Kind, ...]] = ("text",)
    libraries: ClassVar[tuple[str, ...]] = ("jiwer",)

    def _texts(self, run: RunResult) -> list[str]:
        if any(utterance.text is None for utterance in run.utterances):
            raise MeasureError(
                f"{self.metric} needs transcripts, and this client makes none", where=f"run {run.job.run}"
            )
        return [utterance.text or "" for utterance in run.utterances]

    def _score(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[Edits]:
        from hubpub.measure.edits import edits

        return [
            edits(normalize(reference, self.normalizer), normalize(hypothesis, self.normalizer), self.unit)
            for reference, hypothesis in zip(references, hypotheses, strict=True)
        ]

    def _rates(
        self, run: RunResult, ids: Sequence[str], scores: Sequence[Edits], reference: RunResult | None = None
    ) -> list[Measurement]:
        """The pooled rate, then that of each clip with any units."""
        from hubpub.measure.stats import rate_interval

        parts: list[tuple[str | None, list[Edits]]] = [(None, list(scores))]
        if self.per_clip:
            parts += [(f"clip:{name}", [score]) for name, score in zip(ids, scores, strict=True) if score.units]
        figures = []
        for subset, part in parts:
            errors, units = [score.errors for score in part], [score.units for score in part]
            if not sum(units):
                raise MeasureError(
                    f"{self.metric} has no {self.unit} to count in", where=f"run {run.job.run}", fix="add transcripts"
                )
            figure = self._figure(
                run,
                rate_interval(errors, units, self.unit),
                reference,
                metric=self.metric,
                value=sum(errors) / sum(units),
                unit="ratio",
                n=sum(units),
                n_unit=self.unit,
                normalizer=self.normalizer,
                subset=subset,
                reference=None if reference is None else reference.job.run,
            )
            figures.append(figure)
        return figures


class TranscriptErrorRate(ErrorRate):
    """Against what was really said; clips without a transcript are left out."""

    def units(self, texts: Sequence[str | None]) -> int | None:
        """Units of the transcripts."""
        from hubpub.measure.edits import edits

        known = [normalize(text, self.normalizer) for text in texts if text is not None]
        return sum(edits(text, "", self.unit).units for text in known)

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        from hubpub.measure.stats import paired_rate_interval

        known = [i for i, clip in enumerate(corpus.clips) if clip.text is not None]
        ids, texts = [corpus.clips[i].id for i in known], [corpus.clips[i].text or "" for i in known]
        hypotheses = self._texts(run)
        scores = self._score(texts, [hypotheses[i] for i in known])
        figures = self._rates(run, ids, scores)
        if against is None:
            return figures
        other_hypotheses = self._texts(against)
        others = self._score(texts, [other_hypotheses[i] for i in known])
        changes = [score.at - other.at for score, other in zip(scores, others, strict=True)]
        units = [score.units for score in scores]
        interval = paired_rate_interval(
            [score.errors for score in scores],
            [other.errors for other in others],
            units,
            worse=sum(int(change.clip(min=0).sum()) for change in changes),
            better=sum(int((-change).clip(min=0).sum()) for change in changes),
            unit=self.unit,
        )
        delta = self._figure(
            run,
            interval,
            against,
            metric=self.metric,
            value=sum(int(change.sum()) for change in changes) / sum(units),
            unit="ratio",
            n=sum(units),
            n_unit=self.unit,
            normalizer=self.normalizer,
            against=f"{against.job.run}/{self.metric}",
        )
        return [*figures, delta]

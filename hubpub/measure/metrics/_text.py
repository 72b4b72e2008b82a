"""What the error rates share: scoring, figures for each clip and each part of the corpus, paired deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.corpus.corpus import Clip, Corpus, Prompt, Spoken
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.normalize import Normalizer, normalize
from hubpub.measure.result import Kind, Piece, RunResult

if TYPE_CHECKING:
    from hubpub.measure.edits import Edits, Unit
    from hubpub.measure.strata import Part

Stratum = Literal["length", "language", "speaker", "section"]


class ErrorRate(Metric):
    """Errors by units of the references, pooled over the corpus; ``n`` counts these units."""

    normalizer: Normalizer = Field(
        default="basic",
        description="What is done to texts before they are compared: nothing, or NFKC, case folding, no punctuation.",
    )
    per_clip: bool = Field(default=True, description="Also give a figure for each clip.")
    strata: tuple[Stratum, ...] = Field(
        default=(),
        description="Also give a figure for each class of length, language, speaker, or section of long audio; words "
        "are placed in sections by the clips that were stitched or by an .stm file, else by the segments of the "
        "reference run.",
    )
    section_s: float = Field(default=60.0, gt=0, allow_inf_nan=False, description="Length of a section, in seconds.")
    unit: ClassVar[Unit]
    of_transcripts: ClassVar[bool] = False
    """Whether the reference is what was really said."""
    needs: ClassVar[tuple[Kind, ...]] = ("text",)
    libraries: ClassVar[tuple[str, ...]] = ("jiwer",)

    def _texts(self, run: RunResult) -> list[str]:
        if any(utterance.text is None for utterance in run.utterances):
            raise MeasureError(
                f"{self.metric} needs transcripts, and this client makes none", where=f"run {run.job.run}"
            )
        return [normalize(utterance.text or "", self.normalizer) for utterance in run.utterances]

    def _score(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[Edits]:
        """Errors of normalised texts."""
        from hubpub.measure.edits import edits

        pairs = zip(references, hypotheses, strict=True)
        return [edits(reference, hypothesis, self.unit) for reference, hypothesis in pairs]

    def _parts(
        self, clips: Sequence[Clip | Prompt], references: Sequence[str], indices: Sequence[int], timed: RunResult | None
    ) -> list[Part]:
        """Everything, each clip, each stratum.

        Args:
            clips: those that count.
            references: their normalised texts.
            indices: where they are in the corpus.
            timed: the run whose segments tell when what is said.
        """
        from hubpub.measure.strata import by_clip, by_section, placed_by, whole

        parts = [whole(len(clips))]
        if self.per_clip:
            parts += [whole(len(clips), f"clip:{clip.id}", [number]) for number, clip in enumerate(clips)]
        for kind in self.strata:
            if kind != "section":
                parts += by_clip(kind, clips)
                continue
            places = [self._pieces(clip, index, timed) for clip, index in zip(clips, indices, strict=True)]
            pairs = zip(references, places, strict=True)
            times = [placed_by(reference, pieces, self.unit, self.normalizer) for reference, pieces in pairs]
            parts += by_section(times, self.section_s)
        return parts

    def _pieces(self, clip: Clip | Prompt, index: int, timed: RunResult | None) -> Sequence[Piece | Spoken]:
        """What is said in which stretch of a clip: as the corpus knows, else as a run heard it."""
        if isinstance(clip, Clip) and clip.spoken is not None and self.of_transcripts:
            return clip.spoken
        if timed is None:
            fix = "name a run with segments under `reference`"
            raise MeasureError(f"{self.metric} has nothing to tell the sections by", fix=fix)
        pieces = timed.utterances[index].pieces
        if pieces is None:
            fix = "let it cut the audio at silences or by a VAD"
            raise MeasureError("its transcripts are not in segments", where=f"run {timed.job.run}", fix=fix)
        return pieces

    def _rates(
        self, run: RunResult, parts: Sequence[Part], scores: Sequence[Edits], reference: RunResult | None = None
    ) -> list[Measurement]:
        """The rate of each part with any units; the first part has to have some."""
        from hubpub.measure.stats import rate_interval

        figures = []
        for part in parts:
            cut = part.cut(scores)
            errors, units = [score.errors for score in cut], [score.units for score in cut]
            if not sum(units):
                if part.subset is not None:
                    continue
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
                subset=part.subset,
                reference=None if reference is None else reference.job.run,
            )
            figures.append(figure)
        return figures

    def _paired(
        self,
        run: RunResult,
        against: RunResult,
        parts: Sequence[Part],
        scores: Sequence[Edits],
        others: Sequence[Edits],
        reference: RunResult | None = None,
    ) -> list[Measurement]:
        """The difference of two runs on each part with any units but single clips."""
        wanted = [part for part in parts if part.subset is None or not part.subset.startswith("clip:")]
        counted = [part for part in wanted if any(score.units for score in part.cut(scores))]
        return [self._delta(run, against, part, scores, others, reference) for part in counted]

    def _delta(
        self,
        run: RunResult,
        against: RunResult,
        part: Part,
        scores: Sequence[Edits],
        others: Sequence[Edits],
        reference: RunResult | None,
    ) -> Measurement:
        from hubpub.measure.stats import paired_rate_interval

        mine, theirs = part.cut(scores), part.cut(others)
        changes = [score.at - other.at for score, other in zip(mine, theirs, strict=True)]
        units = [score.units for score in mine]
        interval = paired_rate_interval(
            [score.errors for score in mine],
            [other.errors for other in theirs],
            units,
            worse=sum(int(change.clip(min=0).sum()) for change in changes),
            better=sum(int((-change).clip(min=0).sum()) for change in changes),
            unit=self.unit,
        )
        return self._figure(
            run,
            interval,
            against,
            metric=self.metric,
            value=sum(int(change.sum()) for change in changes) / sum(units),
            unit="ratio",
            n=sum(units),
            n_unit=self.unit,
            normalizer=self.normalizer,
            subset=part.subset,
            against=f"{against.job.run}/{self.metric}",
            reference=None if reference is None else reference.job.run,
        )


class TranscriptErrorRate(ErrorRate):
    """Against what was really said; clips without a transcript are left out."""

    of_transcripts: ClassVar[bool] = True

    def units(self, texts: Sequence[str | None]) -> int | None:
        """Units of the transcripts."""
        from hubpub.measure.edits import count_units

        return sum(count_units(normalize(text, self.normalizer), self.unit) for text in texts if text is not None)

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        known = [i for i, clip in enumerate(corpus.clips) if clip.text is not None]
        clips = [corpus.clips[i] for i in known]
        texts = [normalize(clip.text or "", self.normalizer) for clip in clips]
        hypotheses = self._texts(run)
        scores = self._score(texts, [hypotheses[i] for i in known])
        parts = self._parts(clips, texts, known, against)
        figures = self._rates(run, parts, scores)
        if against is None:
            return figures
        other_hypotheses = self._texts(against)
        others = self._score(texts, [other_hypotheses[i] for i in known])
        return [*figures, *self._paired(run, against, parts, scores, others)]

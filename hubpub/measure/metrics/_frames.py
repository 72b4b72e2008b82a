"""What the comparisons of class scores share: one number for each frame, pooled over all frames of all clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from hubpub.corpus.corpus import Corpus
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import Kind, RunResult

if TYPE_CHECKING:
    from hubpub.measure.stats import Floats, Interval


class FrameComparison(Metric):
    """A run's outputs ``[…, classes]`` against those of a reference run, frame by frame; ``n`` counts frames."""

    needs_against: ClassVar[bool] = True
    needs: ClassVar[tuple[Kind, ...]] = ("arrays",)
    unit: ClassVar[str]

    def frame_values(self, output: Floats, reference: Floats) -> Floats:
        """From ``[frames, classes]`` twice to ``[frames]``."""
        raise NotImplementedError

    def interval(self, sums: Sequence[float], frames: Sequence[int]) -> Interval:
        """Of the mean over frames, given the sum and the frames of each clip."""
        from hubpub.measure.stats import ratio_interval

        return ratio_interval(sums, frames)

    def units(self, texts: Sequence[str | None]) -> int | None:
        """Unknown before it has run."""
        return None

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        from hubpub.measure.outputs import paired_frames

        reference = self._reference(against)
        sums: list[float] = []
        frames: list[int] = []
        for _, output, other in paired_frames(run, reference):
            values = self.frame_values(output, other)
            sums.append(float(values.sum()))
            frames.append(len(values))
        if not sum(frames):
            raise MeasureError(f"{self.metric} has no frames to count in", where=f"run {run.job.run}")
        return [
            self._figure(
                run,
                self.interval(sums, frames),
                reference,
                metric=self.metric,
                value=sum(sums) / sum(frames),
                unit=self.unit,
                n=sum(frames),
                n_unit="frames",
                reference=reference.job.run,
            )
        ]

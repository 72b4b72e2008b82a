"""What the comparisons of outputs share: one number for each clip, then statistics over the clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Self

from hubpub.corpus.corpus import Corpus
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.base import Metric, Remark
from hubpub.measure.result import Kind, RunResult

if TYPE_CHECKING:
    from hubpub.measure.outputs import Vector
    from hubpub.measure.stats import Floats


class OutputComparison(Metric):
    """A run's outputs against those of a reference run, clip by clip; a clip's output is taken as one long vector."""

    needs_against: ClassVar[bool] = True
    needs: ClassVar[tuple[Kind, ...]] = ("arrays",)
    same_shape: ClassVar[bool] = True
    """Whether outputs that differ in length cannot be compared."""
    unit: ClassVar[str]

    def for_runs(self, run: RunResult, reference: RunResult) -> Self:
        """The same with what it takes from the runs filled in."""
        return self

    def remark(self) -> Remark:
        """What was done before the comparison, where there is something to say."""
        return {}

    def clip_value(self, output: Vector, reference: Vector) -> float:
        """The number of one clip."""
        raise NotImplementedError

    def statistics(self) -> dict[str, Callable[[Floats], Floats]]:
        """For each name in ``gives`` how the clips' numbers are reduced, along the last axis."""
        raise NotImplementedError

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        import numpy as np

        from hubpub.measure.outputs import paired_outputs
        from hubpub.measure.stats import value_interval

        reference = self._reference(against)
        value_of = self.for_runs(run, reference).clip_value
        pairs = paired_outputs(run, reference, same_shape=self.same_shape)
        values = [value_of(output, other) for _, output, other in pairs]
        return [
            self._figure(
                run,
                value_interval(values, statistic),
                reference,
                metric=name,
                value=float(statistic(np.asarray(values))),
                unit=self.unit,
                n=len(values),
                n_unit="utterances",
                reference=reference.job.run,
                **self.remark(),
            )
            for name, statistic in self.statistics().items()
        ]

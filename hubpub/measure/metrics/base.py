"""What a metric is: frozen parameters and one pure function from finished runs to measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict

from hubpub.corpus.corpus import Corpus
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Measurement
from hubpub.measure.result import Kind, RunResult

if TYPE_CHECKING:
    from hubpub.measure.stats import Interval


class Metric(BaseModel):
    """Base of the metrics; a subclass is one file and one line of the union in ``metrics/__init__.py``.

    Attributes:
        metric: its name.
        gives: names of the measurements that it makes.
        deltas: those of them that also come as differences to another run.
        needs: what the client must make.
        timings: whether it reads how long things took, or how much memory; then the run has the machine for itself.
        libraries: distributions whose versions decide the figure, besides the client's.
        needs_against: whether it says nothing without a second run, the reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    gives: ClassVar[tuple[str, ...]]
    deltas: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Kind, ...]] = ()
    timings: ClassVar[bool] = False
    libraries: ClassVar[tuple[str, ...]] = ()
    needs_against: ClassVar[bool] = False

    def units(self, texts: Sequence[str | None]) -> int | None:
        """The n of its measurements on clips with these transcripts, or ``None`` when only a run can tell."""
        return len(texts)

    def measure(self, run: RunResult, corpus: Corpus, against: RunResult | None = None) -> list[Measurement]:
        """Figures of ``run``; with ``against`` also paired deltas, or figures that take it for the truth.

        Raises:
            MeasureError: the figure cannot be had from these runs.
        """
        self._check(run, corpus)
        if against is not None:
            self._check(against, corpus, timings=bool(self.deltas))
        elif self.needs_against:
            raise MeasureError(
                f"{self.metric} needs a run to compare with", where=f"run {run.job.run}", fix="say against which"
            )
        return self._measure(run, corpus, against)

    def compare(self, run: RunResult, corpus: Corpus, reference: RunResult, other: RunResult) -> list[Measurement]:
        """Paired deltas of ``run`` to ``other``, both taken against ``reference``, of a metric that `needs_against`.

        Raises:
            MeasureError: they cannot be had from these runs.
        """
        for each in (run, reference, other):
            self._check(each, corpus)
        return self._compare(run, corpus, reference, other)

    def _compare(self, run: RunResult, corpus: Corpus, reference: RunResult, other: RunResult) -> list[Measurement]:
        return []

    def _measure(self, run: RunResult, corpus: Corpus, against: RunResult | None) -> list[Measurement]:
        raise NotImplementedError

    def _check(self, run: RunResult, corpus: Corpus, *, timings: bool = True) -> None:
        if run.job.corpus != corpus.digest or [u.id for u in run.utterances] != [clip.id for clip in corpus.clips]:
            raise MeasureError(
                f"{self.metric} was asked for on another corpus than was run", where=f"run {run.job.run}", fix="run it"
            )
        if timings and self.timings and not run.job.timed:
            what = f"{self.metric} cannot be taken: several workers shared the machine, so its timings say nothing"
            raise MeasureError(what, where=f"run {run.job.run}", fix="run it alone")

    def _reference(self, against: RunResult | None) -> RunResult:
        if against is None:
            raise MeasureError(f"{self.metric} needs a run to compare with")
        return against

    def _figure(
        self, run: RunResult, interval: Interval, other: RunResult | None = None, /, **fields: Unpack[_Fields]
    ) -> Measurement:
        """A measurement of ``run``, with all that the run knows of itself; ``other`` is one that it depends on too."""
        from hubpub.measure.run import library_versions

        return Measurement(
            run=run.job.run,
            low=interval.low,
            high=interval.high,
            interval=interval.method,
            corpus=run.job.corpus,
            artifacts=_merged(run, other),
            client=run.job.client,
            versions=run.job.versions | library_versions(*self.libraries),
            machine=run.observed.machine,
            synthetic=run.job.synthetic or (other is not None and other.job.synthetic),
            **fields,
        )


class Remark(TypedDict, total=False):
    """What was done, or left out, before a comparison."""

    normalizer: str


class _Fields(Remark, total=False):
    metric: str
    value: float
    unit: str
    n: int
    n_unit: str
    against: str | None
    reference: str | None
    subset: str | None
    observed: bool


def _merged(run: RunResult, other: RunResult | None) -> Mapping[str, str]:
    mine, theirs = run.job.artifacts, {} if other is None else other.job.artifacts
    for name in mine.keys() & theirs.keys():
        if mine[name] != theirs[name]:
            raise MeasureError(
                f"{run.job.run} and {other.job.run if other else ''} call two different files {name}",
                fix="give the artifacts of one of the two runs a prefix",
            )
    return mine | theirs

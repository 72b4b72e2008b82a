"""``hubpub compare``: two releases or evaluations side by side, with differences paired utterance by utterance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from hubpub.build.measured import Measured
from hubpub.errors import MeasureError
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics import AnyMetric
from hubpub.measure.metrics.base import Metric
from hubpub.measure.metrics.disagreement import Disagreement
from hubpub.measure.result import RunResult

_METRIC: TypeAdapter[Metric] = TypeAdapter(AnyMetric)


@dataclass(frozen=True)
class FileRow:
    """A file in both or one of them; sizes in bytes."""

    path: str
    old: int | None
    new: int | None
    same: bool


@dataclass(frozen=True)
class FigureRow:
    """A figure in both or one of them.

    Attributes:
        key: ``run/metric``, what it is less, and the part of the corpus.
        old: of the first.
        new: of the second.
        delta: the second less the first, paired by utterance; None where that cannot be had.
        note: why not.
    """

    key: str
    old: Measurement | None
    new: Measurement | None
    delta: Measurement | None = None
    note: str | None = None


@dataclass(frozen=True)
class Compared:
    """Both sides, their files, their figures, and how far the transcripts of each run differ."""

    old: str
    new: str
    files: tuple[FileRow, ...]
    figures: tuple[FigureRow, ...]
    disagreements: tuple[Measurement, ...]


def compare(old: Measured, new: Measured) -> Compared:
    """Put two of them side by side; nothing is run.

    Raises:
        ReleaseError: lines are damaged.
    """
    names = dict.fromkeys([*old.files, *new.files])
    files = []
    for name in sorted(names):
        mine, theirs = new.files.get(name), old.files.get(name)
        same = mine is not None and theirs is not None and mine.sha256 == theirs.sha256
        files.append(FileRow(name, theirs.size if theirs else None, mine.size if mine else None, same))
    deltas: dict[str, Measurement] = {}
    notes: dict[str, str] = {}
    disagreements: list[Measurement] = []
    for run in _runs(new):
        if run not in _runs(old):
            continue
        pair, reason = _pair(old, new, run)
        if pair is None:
            notes[run] = reason
            continue
        for delta in _deltas(old, new, run, *pair):
            deltas[_key(delta, plain=True)] = delta
        disagreements += _disagreement(new, run, *pair)
    before, after = ({_key(each): each for each in side.measurements if not _of_clip(each)} for side in (old, new))
    figures = [
        FigureRow(key, before.get(key), after.get(key), deltas.get(key), notes.get(key.partition("/")[0]))
        for key in dict.fromkeys([*after, *before])
    ]
    return Compared(old.of, new.of, tuple(files), tuple(figures), tuple(disagreements))


def _runs(side: Measured) -> list[str]:
    return list(dict.fromkeys(each.run for each in side.measurements))


def _pair(old: Measured, new: Measured, run: str) -> tuple[tuple[RunResult, RunResult] | None, str]:
    """Both results of a run, told apart by name; or why they make no pairs."""
    before, after = old.result(run), new.result(run)
    if before is None or after is None:
        return None, "the utterances are not at hand"
    if before.job.corpus != after.job.corpus:
        return None, "measured on other audio"
    return (_as(before, "A"), _as(after, "B")), ""


def _as(result: RunResult, side: str) -> RunResult:
    """With names that no run of the other side has: the same file name may mean other bytes there."""
    job = result.job
    artifacts = {f"{side}:{name}": digest for name, digest in job.artifacts.items()}
    sizes = {f"{side}:{name}": size for name, size in job.sizes.items()}
    renamed = job.model_copy(update={"run": f"{side}:{job.run}", "artifacts": artifacts, "sizes": sizes})
    return result.model_copy(update={"job": renamed})


def _deltas(old: Measured, new: Measured, run: str, before: RunResult, after: RunResult) -> Iterator[Measurement]:
    """What the metrics with deltas say of the two, where both were measured with the same options."""
    corpus = new.corpus(run)
    if corpus is None:
        return
    for options in new.metrics.get(run, []):
        if options not in old.metrics.get(run, []):
            continue
        for strata in _strata(options):
            metric = _METRIC.validate_python({**options, **strata})
            if metric.deltas and _can(metric, before) and _can(metric, after):
                with suppress(MeasureError):  # nothing to count in, or no timings: then there is no paired difference
                    yield from (each for each in metric.measure(after, corpus, before) if each.against is not None)
                    break


def _strata(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of the corpus; where sections cannot be told from the two alone, the other ones."""
    asked = options.get("strata") or []
    return [{"strata": asked}, {"strata": [each for each in asked if each != "section"]}] if asked else [{}]


def _can(metric: Metric, result: RunResult) -> bool:
    """Whether what the metric reads was kept: outputs are not."""
    if metric.metric == "rtf":
        return len(result.timings) == len(result.utterances)
    return "arrays" not in metric.needs


def _disagreement(new: Measured, run: str, before: RunResult, after: RunResult) -> list[Measurement]:
    """How far the transcripts differ, those of the first being taken for the truth."""
    corpus = new.corpus(run)
    if corpus is None or any(each.text is None for each in before.utterances):
        return []
    try:
        return Disagreement(metric="disagreement", per_clip=False).measure(after, corpus, before)
    except MeasureError:
        return []


def _key(measured: Measurement, *, plain: bool = False) -> str:
    """As it is shown; ``plain`` is the figure that a delta between the two sides belongs to."""
    run = measured.run.removeprefix("B:") if plain else measured.run
    against = "" if plain or not measured.against else f" − {measured.against}"
    return f"{run}/{measured.metric}{against}" + (f" [{measured.subset}]" if measured.subset else "")


def _of_clip(measured: Measurement) -> bool:
    return measured.subset is not None and measured.subset.startswith("clip:")

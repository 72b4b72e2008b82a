"""Ladders and rosters: candidates are made and measured by the ordinary steps; the gates decide which is published.

A candidate that cannot be made or loaded is out, with its reason. Where another one is chosen, that is remembered by
the key of the step that failed, so that a rebuild decides the same without trying it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from hubpub.build.layout import candidate_run
from hubpub.build.plan import Plan, trial_plan
from hubpub.build.run import Done, Origins, input_digests
from hubpub.build.task import Ref, Task
from hubpub.build.tasks import MEASUREMENTS, ClientTask, MetricsTask, TransformTask
from hubpub.errors import GateError, HubpubError, KilledError, MeasureError, OnnxFileError, StepError
from hubpub.gate import GateSpec, Verdict, judge
from hubpub.manifest import CandidateRecord, ChoiceRecord, Digest, candidate_file
from hubpub.measure.measurement import Measurement
from hubpub.recipe import BestBy, ChoiceSpec
from hubpub.store import FileDigest


class Shop(Protocol):
    """Where tasks are run; ``done`` holds what was done so far."""

    done: dict[str, Done]

    def has(self, task: Task, key: str, digests: Mapping[str, FileDigest]) -> bool:
        """Whether the task need not run."""

    def fetch(self, plan: Plan) -> None:
        """Bring what the tasks of a plan read from the sources, but for those that need not run."""

    def run(self, plan: Plan, tasks: Iterable[Task]) -> None:
        """Run them, after those that they need."""

    def text(self, step: str, path: str) -> bytes:
        """An output of a step that was done."""

    def failure(self, key: str) -> str | None:
        """Why the candidate whose step has this key was given up."""

    def reason(self, error: HubpubError) -> str:
        """What went wrong, in words that go into the manifest."""

    def give_up(self, key: str, reason: str) -> None:
        """Do not try the step with this key again while it is a candidate's."""


@dataclass(frozen=True)
class _Tried:
    """A candidate after its trial."""

    record: CandidateRecord
    figures: tuple[Measurement, ...] = ()
    where: str = ""
    """Of the step that failed."""
    reason: str = ""
    """What that step said."""

    @property
    def passed(self) -> bool:
        return self.record.state == "passed"


def decide(plan: Plan, shop: Shop) -> tuple[ChoiceRecord, ...]:
    """Make, measure and judge the candidates of each choice of ``plan``, whose preparation is done.

    Raises:
        GateError: of a choice no candidate passes.
        StepError: the candidate that is promoted by name, or that others are compared with, cannot be made.
        HubpubError: a step failed that is no candidate's own.
    """
    decided: tuple[ChoiceRecord, ...] = ()
    for choice in plan.choices:
        decided = (*decided, _decide(plan, choice, decided, shop))
    return decided


def files_at(path: str, ref: Ref, done: Mapping[str, Done], sources: Origins) -> dict[str, FileDigest]:
    """What is published at ``path`` with the bytes of ``ref``: the file, and the sidecars that its chain made."""
    if ref.origin in sources:
        return {path: sources[ref.origin][ref.path]}
    made = done[ref.origin]
    if not isinstance(made.task, TransformTask):
        return {path: made.result.outputs[ref.path]}
    new = PurePosixPath(path).name
    beside = [name for name in made.result.outputs if name != ref.path and not name.startswith(f"{ref.path}/")]
    if beside and new != ref.path:
        what = f"cannot be published as {path}: it has {len(beside)} files of external data, found by their names"
        fix = "keep its name and give it a folder, as in {candidate}/{stem}{suffix}"
        raise StepError(what, where=made.task.where, fix=fix)
    folder = PurePosixPath(path).parent
    return {
        str(folder / (name if name in beside else new + name.removeprefix(ref.path))): digest
        for name, digest in made.result.outputs.items()
    }


def _decide(plan: Plan, choice: str, decided: tuple[ChoiceRecord, ...], shop: Shop) -> ChoiceRecord:
    spec, where = plan.loaded.recipe.choices[choice], plan.loaded.where("choices", choice)
    tried: dict[str, _Tried] = {}
    # The one that the others are compared with goes before them.
    for name in sorted(spec.candidates, key=lambda name: name != spec.against):
        trial = trial_plan(plan, choice, name, decided)
        needed = name in (spec.against, spec.promote)
        tried[name] = _try(plan, choice, name, trial, shop, believe=not needed)
        if tried[name].record.state == "failed" and needed:
            reason = tried[name].record.reason
            why = "others are compared with it" if name == spec.against else "it is the one to be promoted"
            raise StepError(f"candidate {name} of {choice} {reason}", where=tried[name].where, fix=f"mend it: {why}")
        if spec.is_ladder and tried[name].passed:
            break
    chosen = _chosen(spec, tried)
    if chosen is None:
        reasons = "; ".join(f"{name}: {tried[name].record.reason}" for name in spec.candidates)
        what = f"no candidate passes its gates, so no release was made: {reasons}"
        raise GateError(what, where=where, fix="mend one, add one, or change a budget")
    for each in tried.values():
        if each.record.failed_key is not None:
            shop.give_up(each.record.failed_key, each.reason)
    records = []
    for name in spec.candidates:
        if name not in tried:
            record = CandidateRecord(name=name, state="not tried", reason=f"{chosen} passed before it")
        else:
            record = tried[name].record.model_copy(update={"state": "chosen"} if name == chosen else {})
        records.append(record)
    return ChoiceRecord(
        name=choice,
        rule=_rule(spec),
        chosen=chosen,
        runs=spec.runs,
        against=spec.against,
        candidates=tuple(records),
    )


def _rule(spec: ChoiceSpec) -> str:
    if isinstance(spec.promote, BestBy):
        return f"the {'least' if spec.promote.least else 'most'} {spec.promote.figure} of those that pass their gates"
    return "the first that passes its gates" if spec.is_ladder else "promoted by name"


def _chosen(spec: ChoiceSpec, tried: Mapping[str, _Tried]) -> str | None:
    if isinstance(spec.promote, str) and not spec.is_ladder:
        return spec.promote
    passed = [name for name in spec.candidates if name in tried and tried[name].passed]
    if not isinstance(spec.promote, BestBy):
        return passed[0] if passed else None
    figure, sign = spec.promote.figure, 1 if spec.promote.least else -1
    values = {
        name: sign * each.value
        for name in passed
        for each in tried[name].figures
        if each.key == figure and each.against is None and each.subset is None
    }
    return min(values, key=lambda name: values[name]) if values else None


def _try(
    plan: Plan, choice: str, candidate: str, trial: tuple[Plan, dict[str, Ref]], shop: Shop, *, believe: bool
) -> _Tried:
    """Make, measure and judge a candidate; ``believe`` that a step which failed before would fail again."""
    own = _own_tasks(plan, trial[0], choice, candidate)
    failed = _make(trial[0], own if believe else set(), own, shop)
    files = dict(_files(*trial, shop, all_of_them=failed is None))
    if failed is not None:
        task, key, reason = failed
        cannot = "cannot be measured" if isinstance(task, ClientTask | MetricsTask) else "cannot be made"
        said = f"{cannot}: {reason}"
        record = CandidateRecord(name=candidate, state="failed", reason=said, files=files, failed_key=key)
        return _Tried(record, where=task.where, reason=reason)
    spec = plan.loaded.recipe.choices[choice]
    figures = tuple(_figures(spec, candidate, shop))
    gates = [
        gate
        for gate in plan.loaded.recipe.choosing_gates(spec)
        if (gate.against or "").partition("/")[0] != candidate_run(gate.measure.partition("/")[0], candidate)
    ]
    verdicts = _judge(gates, figures, candidate, files)
    missed = [f"{verdict.gate}: {verdict.reason}" for verdict in verdicts if not verdict.passed]
    record = CandidateRecord(
        name=candidate,
        state="missed" if missed else "passed",
        reason="; ".join(missed) or _passed(len(verdicts)),
        files=files,
        verdicts=verdicts,
    )
    return _Tried(record, figures)


def _make(trial: Plan, believed: set[str], own: set[str], shop: Shop) -> tuple[Task, str, str] | None:
    """Run what a trial takes; the task of its own that failed, with its key and the reason, or None."""
    fetched = False
    for task in trial.work:
        origins = {**trial.sources, **{name: each.result.outputs for name, each in shop.done.items()}}
        digests = input_digests(task, origins)
        if digests is None:
            raise AssertionError(f"{task.name} was planned before what it needs")
        key = task.key(digests)
        known = shop.failure(key) if task.name in believed else None
        if known is not None:
            return task, key, known
        if not fetched and not shop.has(task, key, digests):
            shop.fetch(trial)
            fetched = True
        try:
            shop.run(trial, [task])
        except KilledError:
            raise
        except (StepError, OnnxFileError, MeasureError) as error:
            if task.name not in own:
                raise
            return task, key, shop.reason(error)
    return None


def _own_tasks(plan: Plan, trial: Plan, choice: str, candidate: str) -> set[str]:
    """The tasks that fail for this candidate alone: its chains, its runs, and scripts that nothing else reads."""
    readers: dict[str, set[str]] = {}
    for task in (*plan.tasks, *trial.work):
        for _, ref in task.inputs:
            readers.setdefault(ref.origin, set()).add(task.name)
    for published in plan.published:
        readers.setdefault(published.ref.origin, set()).add(published.path)
    own: set[str] = set()
    for name in reversed([task.name for task in trial.work]):  # readers come first
        is_named = name.startswith(f"choices/{choice}/{candidate}/") or name.endswith(candidate_run("", candidate))
        if is_named or readers.get(name, {""}) <= own:
            own.add(name)
    return own


def _passed(gates: int) -> str:
    return "no gate judges it" if gates == 0 else f"passes {gates} {'gate' if gates == 1 else 'gates'}"


def _files(trial: Plan, refs: Mapping[str, Ref], shop: Shop, *, all_of_them: bool) -> Iterator[tuple[str, Digest]]:
    """The candidate's files; of one that failed those that were made."""
    for path, ref in refs.items():
        if all_of_them or ref.origin in trial.sources or ref.origin in shop.done:
            for name, digest in files_at(path, ref, shop.done, trial.sources).items():
                yield name, Digest(sha256=digest.sha256, size=digest.size)


def _figures(spec: ChoiceSpec, candidate: str, shop: Shop) -> Iterator[Measurement]:
    """The figures of a candidate, called as they would be if it were published."""
    mark = candidate_run("", candidate)
    for run in spec.runs:
        for data in json.loads(shop.text(f"measurements/{candidate_run(run, candidate)}", MEASUREMENTS)):
            against = data["against"] and data["against"].replace(f"{mark}/", "/")
            yield Measurement.model_validate({**data, "run": run, "against": against})


def _judge(
    gates: Sequence[GateSpec], figures: Sequence[Measurement], candidate: str, files: Mapping[str, Digest]
) -> tuple[Verdict, ...]:
    """Judge them as `hubpub.gate.judge` does; what the candidate is compared with was measured just now."""
    digests = {name: digest for each in figures for name, digest in each.artifacts.items()}
    digests |= {candidate_file(path, candidate): file.sha256 for path, file in files.items()}
    return judge(gates, figures, digests)

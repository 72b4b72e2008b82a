"""From a recipe and its lock to a list of tasks, each after those that it needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import PurePosixPath

from hubpub.build.dropin import promised_files
from hubpub.build.run import Known, Origins, input_digests, sidecars, source_files
from hubpub.build.script import ScriptTask
from hubpub.build.seal import check_seals
from hubpub.build.task import EVERYTHING, Inputs, Ref, Task
from hubpub.build.tasks import (
    CALIBRATION,
    CalibratedTask,
    ClientTask,
    CorpusTask,
    DisjointTask,
    MetricsTask,
    TransformTask,
)
from hubpub.errors import HubpubError, nearest
from hubpub.recipe import LoadedRecipe, Lock, locked_file, members
from hubpub.source import SourceContext
from hubpub.store import FileDigest, Result, Store
from hubpub.transform.base import Calibrated


@dataclass(frozen=True)
class Published:
    """One entry under ``files``: where its bytes come from, and the variants that it belongs to."""

    path: str
    ref: Ref
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a build does. ``partial`` when not the whole recipe was asked for."""

    loaded: LoadedRecipe
    lock: Lock
    sources: Origins
    preparation: tuple[Task, ...]
    """Corpora and the proof that they are disjoint: first, because they can stop a build cheaply."""
    work: tuple[Task, ...]
    published: tuple[Published, ...]
    runs: tuple[str, ...]
    partial: bool

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks in the order in which they run."""
        return self.preparation + self.work


@dataclass(frozen=True)
class Forecast:
    """What a build would do now: ``state`` is cached, run, or waits (its inputs are not known yet)."""

    states: dict[str, str]
    bytes_to_fetch: dict[str, int]
    bytes_to_write: int
    """At least this much: steps that never ran are counted by the size of what they read."""


def make_plan(loaded: LoadedRecipe, lock: Lock, *, only: str | None = None, variant: str | None = None) -> Plan:
    """Lay out the tasks of a recipe, or of the part of it that ``only`` (a published path) or ``variant`` names.

    Raises:
        HubpubError: no such file or variant; a file that no locked source holds.
    """
    recipe = loaded.recipe
    sources = {name: _digests(lock, name) for name in recipe.sources}
    paths = _selected(loaded, only, variant)
    layout = _Layout(loaded, lock, sources)
    chains = {path: layout.published(path) for path in paths}
    runs = [name for name in recipe.measure if _complete(loaded, name, set(paths))]
    for name in runs:
        layout.run(name, {path: chains[path] for path in _files_of(loaded, name) if path in chains})
    needed = layout.needed([ref.origin for ref in chains.values()] + [f"measurements/{name}" for name in runs])
    owners = loaded.owners.get("files", {})
    corpora = {recipe.measure[name].corpus for name in runs}
    calibration = {name for name, corpus in recipe.corpora.items() if corpus.role == "calibration"}
    preparation = layout.preparation(corpora | calibration)
    check_seals([*preparation, *needed], recipe.corpora, sources)
    return Plan(
        loaded,
        lock,
        sources,
        preparation,
        needed,
        tuple(
            Published(path + each.path.removeprefix(ref.path), each, owners.get(path, ()))
            for path, ref in chains.items()
            for each in layout.members(ref)
        ),
        tuple(runs),
        partial=only is not None or variant is not None,
    )


RELEASE = "the release"
"""Origin of files that were built or published before; no source or step can be called so."""


def evaluation_plan(loaded: LoadedRecipe, lock: Lock, files: Mapping[str, FileDigest]) -> tuple[Plan, dict[str, str]]:
    """Lay out the measurements of a recipe on ``files`` that are there already.

    Returns:
        The plan, which publishes nothing, and by name why a run is left out.
    """
    sources = {name: _digests(lock, name) for name in loaded.recipe.sources}
    layout = _Layout(loaded, lock, {**sources, RELEASE: files})
    lacking = {name: _lacking(loaded, name, files) for name in loaded.recipe.measure}
    runs = [name for name, reason in lacking.items() if reason is None]
    for name in runs:
        given = {path: [*members(path, files), *sidecars(path, files)] for path in _files_of(loaded, name)}
        layout.run(name, {path: Ref(RELEASE, path) for paths in given.values() for path in paths})
    needed = layout.needed([f"measurements/{name}" for name in runs])
    corpora = {loaded.recipe.measure[name].corpus for name in runs}
    # Nothing is calibrated here, so there is nothing to keep apart.
    preparation = tuple(task for task in layout.preparation(corpora) if isinstance(task, CorpusTask))
    plan = Plan(loaded, lock, sources, preparation, needed, (), tuple(runs), partial=True)
    return plan, {name: reason for name, reason in lacking.items() if reason is not None}


def evaluated_files(loaded: LoadedRecipe, names: Collection[str]) -> list[str]:
    """Those of a release's files that the runs of a recipe are given, external data included."""
    given = {path for run in loaded.recipe.measure for path in _files_of(loaded, run)}
    wanted = {each for path in given for each in members(path, names) if each in names}
    return sorted(wanted | {beside for path in wanted for beside in sidecars(path, names)})


def _lacking(loaded: LoadedRecipe, run: str, files: Collection[str]) -> str | None:
    """Why a run cannot be made from ``files``."""
    missing = [path for path in _files_of(loaded, run) if members(path, files)[0] not in files]
    if missing:
        return f"there is no {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    reasons = ((other, _lacking(loaded, other, files)) for other in _compared_with(loaded, run))
    return next((f"run {other} is compared with: {reason}" for other, reason in reasons if reason), None)


def forecast(plan: Plan, store: Store, known: Known | None = None) -> Forecast:
    """Which tasks would run, and how many bytes would be fetched and written; touches no network."""
    origins: dict[str, dict[str, FileDigest]] = {name: dict(files) for name, files in plan.sources.items()}
    states: dict[str, str] = {}
    to_write = 0
    pending: list[Task] = []
    for task in plan.tasks:
        digests = input_digests(task, origins)
        result = None if digests is None else _result(task, digests, store, known)
        if result is not None:
            origins[task.name] = result.outputs
            states[task.name] = "cached"
            continue
        pending.append(task)
        states[task.name] = "waits" if digests is None else "run"
        read = (origins.get(ref.origin, {}).get(ref.path) for _, ref in task.inputs)
        to_write += sum(digest.size for digest in read if digest is not None)
    return Forecast(states, bytes_to_fetch(plan, store, pending), to_write)


def _result(task: Task, digests: dict[str, FileDigest], store: Store, known: Known | None) -> Result | None:
    key = task.key(digests)
    return (known.result(task, key, digests) if known else None) or store.result(key)


def bytes_to_fetch(plan: Plan, store: Store, pending: list[Task]) -> dict[str, int]:
    """What each source would have to download for ``pending`` tasks and for the files kept from it."""
    wanted = wanted_files(plan, pending)
    context = SourceContext(store, plan.loaded.folder)
    counts: dict[str, int] = {}
    for name, paths in wanted.items():
        spec, locked = plan.loaded.recipe.sources[name], plan.lock.sources[name]
        if count := spec.bytes_to_fetch(locked, sorted(paths), context):
            counts[name] = count
    return counts


def wanted_files(plan: Plan, pending: list[Task]) -> dict[str, set[str]]:
    """The files of each source that ``pending`` tasks read, that are published as they are, or that a client wants."""
    wanted = source_files(pending, plan.sources)
    for run in plan.runs:  # the finished release is loaded too, even where the runs themselves are cached
        for reference in plan.loaded.recipe.measure[run].via.references():
            origin, path = reference.split("/", 1)
            if origin in plan.sources:
                wanted.setdefault(origin, set()).add(path)
    for published in plan.published:
        if published.ref.origin in plan.sources:
            wanted.setdefault(published.ref.origin, set()).add(published.ref.path)
    replaced, promised = promised_files(plan)
    if replaced is not None and promised:
        wanted.setdefault(replaced, set()).update(promised)
    return wanted


def _digests(lock: Lock, name: str) -> dict[str, FileDigest]:
    return {path: pin.digest for path, pin in lock.sources[name].files.items()}


def _selected(loaded: LoadedRecipe, only: str | None, variant: str | None) -> list[str]:
    recipe = loaded.recipe
    if variant is not None and variant not in recipe.variants:
        known = ", ".join(recipe.variants) or "none"
        raise HubpubError(f"there is no variant {variant!r}{nearest(variant, recipe.variants)}", fix=f"known: {known}")
    if only is not None and only not in recipe.files:
        suggestion = nearest(only, recipe.files)
        raise HubpubError(f"the recipe publishes no file {only!r}{suggestion}", where=str(loaded.path))
    owners = loaded.owners.get("files", {})
    if only is not None and variant is not None and owners.get(only) and variant not in owners[only]:
        raise HubpubError(f"{only!r} is not of variant {variant!r}", fix=f"it is of {', '.join(owners[only])}")
    return [
        path
        for path in recipe.files
        if only in (None, path) and (variant is None or not owners.get(path) or variant in owners[path])
    ]


def _files_of(loaded: LoadedRecipe, run: str) -> list[str]:
    """The published files that a run is given."""
    patterns = loaded.recipe.measure[run].files
    return [path for path in loaded.recipe.files if any(fnmatchcase(path, pattern) for pattern in patterns)]


def _complete(loaded: LoadedRecipe, run: str, paths: set[str]) -> bool:
    """Whether ``paths`` hold all files of a run and of the runs that it is compared with."""
    others = _compared_with(loaded, run)
    return set(_files_of(loaded, run)) <= paths and all(_complete(loaded, other, paths) for other in others)


def _compared_with(loaded: LoadedRecipe, run: str) -> list[str]:
    recipe = loaded.recipe
    gates = (gate for gate in recipe.gates if gate.against and gate.measure.partition("/")[0] == run)
    others = [recipe.measure[run].reference, *(str(gate.against).partition("/")[0] for gate in gates)]
    return [other for other in dict.fromkeys(others) if other is not None and other != run]


def _timed(loaded: LoadedRecipe, run: str) -> bool:
    """Whether its own metrics, or those of a run that is compared with it, read its timings."""
    readers = [run, *(other for other in loaded.recipe.measure if run in _compared_with(loaded, other))]
    return any(metric.timings for name in readers for metric in loaded.recipe.measure[name].metric_specs())


class _Layout:
    """Collects tasks by name; a task asked for twice is one task."""

    def __init__(self, loaded: LoadedRecipe, lock: Lock, sources: Origins) -> None:
        self.loaded = loaded
        self.lock = lock
        self.sources = sources
        self.tasks: dict[str, Task] = {}

    def ref(self, reference: str, *loc: str | int) -> Ref:
        origin, path = reference.split("/", 1)
        if origin in self.sources:
            locked_file(origin, self.lock.sources[origin], path, where=self.loaded.where(*loc))
        else:
            self.script(origin)
        return Ref(origin, path)

    def script(self, name: str) -> None:
        if name not in self.tasks:
            step = self.loaded.recipe.steps[name]
            inputs = tuple(
                each
                for target, reference in step.inputs.items()
                for each in self._at(target, self.ref(reference, "steps", name, "inputs", target))
            )
            where = self.loaded.where("steps", name)
            self.tasks[name] = ScriptTask(name, step, self.loaded.folder, inputs, where=where)

    def published(self, path: str) -> Ref:
        """The ref of a published file: kept, or the last task of its chain."""
        rule = self.loaded.recipe.rule(path)
        ref = self.ref(rule.source, "files", path, "from")
        beside = [Ref(ref.origin, other) for other in sidecars(ref.path, self._siblings(ref))]
        named = [self.ref(reference, "files", path, "with", index) for index, reference in enumerate(rule.sidecars)]
        found = dict.fromkeys([ref, *beside, *named])
        inputs: Inputs = tuple(member for each in found for member in self._at(PurePosixPath(each.path).name, each))
        primary, target = PurePosixPath(ref.path).name, PurePosixPath(path).name
        for index, transform in enumerate(rule.chain):
            name = f"files/{path}#{index + 1}"
            where = self.loaded.where("files", path, "chain", index)
            if isinstance(transform, Calibrated) and transform.calibrate:
                corpus = (CALIBRATION, Ref(self.corpus(transform.calibrate.corpus), EVERYTHING))
                self.tasks[name] = CalibratedTask(name, transform, (*inputs, corpus), primary, target, where=where)
            else:
                self.tasks[name] = TransformTask(name, transform, inputs, primary, target, where=where)
            ref, inputs, primary = Ref(name, target), (("", Ref(name, EVERYTHING)),), target
        return ref

    def members(self, ref: Ref) -> tuple[Ref, ...]:
        """The files behind a ref: a folder that is an artifact stands for all below it."""
        if ref.origin.startswith("files/") or ref.origin == RELEASE:
            return (ref,)
        return tuple(Ref(ref.origin, path) for path in members(ref.path, self._siblings(ref)))

    def _at(self, name: str, ref: Ref) -> Inputs:
        """What appears as ``name``, a file or a folder."""
        return tuple((name + each.path.removeprefix(ref.path), each) for each in self.members(ref))

    def _siblings(self, ref: Ref) -> list[str]:
        if ref.origin in self.sources:
            return list(self.sources[ref.origin])
        return list(self.loaded.recipe.steps[ref.origin].outputs)

    def corpus(self, name: str) -> str:
        task = f"corpora/{name}"
        if task not in self.tasks:
            spec = self.loaded.recipe.corpora[name]
            inputs = tuple((reference, self.ref(reference, "corpora", name)) for reference in spec.references())
            self.tasks[task] = CorpusTask(task, spec, inputs, where=self.loaded.where("corpora", name))
        return task

    def run(self, name: str, files: dict[str, Ref]) -> None:
        """A client run and the metrics taken from it."""
        run, where = self.loaded.recipe.measure[name], self.loaded.where("measure", name)
        corpus = ("corpus", Ref(self.corpus(run.corpus), EVERYTHING))
        inputs = [corpus]
        for path, ref in files.items():
            if ref.origin.startswith("files/"):  # a chain brings the sidecars that it made
                inputs.append((str(PurePosixPath("files", path).parent), Ref(ref.origin, EVERYTHING)))
            else:
                inputs += self._at(f"files/{path}", ref)
        inputs += [
            (f"options/{reference}", self.ref(reference, "measure", name, "via")) for reference in run.via.references()
        ]
        self.tasks[f"runs/{name}"] = ClientTask(
            f"runs/{name}", run.via, tuple(inputs), where=where, timed=_timed(self.loaded, name)
        )
        others = _compared_with(self.loaded, name)
        compared = tuple((f"others/{other}", Ref(f"runs/{other}", EVERYTHING)) for other in others)
        mine = (corpus, ("run", Ref(f"runs/{name}", EVERYTHING)))
        self.tasks[f"measurements/{name}"] = MetricsTask(
            f"measurements/{name}", name, run, mine + compared, against=tuple(others), where=where
        )

    def preparation(self, corpora: set[str]) -> tuple[Task, ...]:
        names = [self.corpus(name) for name in self.loaded.recipe.corpora if name in corpora]
        if not names:
            return ()
        inputs = tuple((name.removeprefix("corpora/"), Ref(name, EVERYTHING)) for name in names)
        where = self.loaded.where("corpora")
        return (*(self.tasks[name] for name in names), DisjointTask("disjointness", inputs, where=where))

    def needed(self, goals: list[str]) -> tuple[Task, ...]:
        """The tasks behind ``goals``, sorted, without the corpora."""
        graph: dict[str, list[str]] = {}

        def visit(name: str) -> None:
            if name in self.tasks and name not in graph:
                graph[name] = [ref.origin for _, ref in self.tasks[name].inputs if ref.origin in self.tasks]
                for other in graph[name]:
                    visit(other)

        for goal in goals:
            visit(goal)
        return tuple(self.tasks[name] for name in TopologicalSorter(graph).static_order() if _is_work(name))


def _is_work(name: str) -> bool:
    return not name.startswith("corpora/")

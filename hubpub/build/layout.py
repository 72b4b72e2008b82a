"""From names in a recipe to tasks: files and their chains, runs and their metrics, corpora, candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import PurePosixPath

from hubpub.build.at_hand import refuse_missing
from hubpub.build.run import Origins, sidecars
from hubpub.build.script import ScriptTask
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
from hubpub.recipe import LoadedRecipe, Lock, locked_file, members
from hubpub.transform.base import Calibrated

RELEASE = "the release"
"""Origin of files that were built or published before; no source or step can be called so."""


def candidate_run(run: str, candidate: str) -> str:
    """Name of a run as it is made for a candidate; no run of a recipe can be called so."""
    return f"{run}@{candidate}"


class Layout:
    """Collects tasks by name; a task asked for twice is one task.

    Args:
        loaded: the recipe.
        lock: its lock.
        sources: files of each source; with `RELEASE` those that are measured instead of what the recipe would make.
        chosen: by choice, the candidate that is published.
    """

    def __init__(self, loaded: LoadedRecipe, lock: Lock, sources: Origins, chosen: Mapping[str, str]) -> None:
        self.loaded = loaded
        self.recipe = loaded.recipe
        self.lock = lock
        self.sources = sources
        self.chosen = chosen
        self.tasks: dict[str, Task] = {}

    def ref(self, reference: str, *loc: str | int) -> Ref:
        """A file of a source or step."""
        origin, path = reference.split("/", 1)
        if origin in self.sources:
            locked_file(origin, self.lock.sources[origin], path, where=self.loaded.where(*loc))
        else:
            self._script(origin)
        return Ref(origin, path)

    def published(self, path: str, candidate: str | None = None) -> Ref:
        """What is published at ``path``, or would be if ``candidate`` were chosen: kept, or the last of its chain."""
        choice = self.recipe.choice_of(path)
        if choice is None:
            return self._chain(path, None, ("files", path), f"files/{path}")
        candidate = candidate or self.chosen[choice]
        loc = ("choices", choice, "candidates", candidate, path)
        return self._chain(path, candidate, loc, f"choices/{choice}/{candidate}/{path}")

    def members(self, ref: Ref) -> tuple[Ref, ...]:
        """The files behind a ref: a folder that is an artifact stands for all below it."""
        if ref.origin == RELEASE or isinstance(self.tasks.get(ref.origin), TransformTask):
            return (ref,)
        return tuple(Ref(ref.origin, path) for path in members(ref.path, self._siblings(ref)))

    def run(self, name: str, files: Iterable[tuple[str, Ref]] | None = None) -> None:
        """A client run and the metrics taken from it; ``run@candidate`` as if that candidate were published.

        ``files`` are those that it is given, with their published names, where they are not to be made.
        """
        base, _, candidate = name.partition("@")
        run, where = self.recipe.measure[base], self.loaded.where("measure", base)
        if f"runs/{name}" in self.tasks:
            return
        corpus = ("corpus", Ref(self.corpus(run.corpus), EVERYTHING))
        inputs = [corpus]
        for path, ref in self._given(base, candidate) if files is None else files:
            if isinstance(self.tasks.get(ref.origin), TransformTask):  # a chain brings the sidecars that it made
                inputs.append((str(PurePosixPath("files", path).parent), Ref(ref.origin, EVERYTHING)))
            else:
                inputs += self._at(f"files/{path}", ref)
        inputs += [
            (f"options/{reference}", self.ref(reference, "measure", base, "via")) for reference in run.via.references()
        ]
        client = ClientTask(f"runs/{name}", run.via, tuple(inputs), where=where, timed=self._timed(base))
        others = self._compared_with(base, candidate)
        if files is not None:  # what is measured here has no candidates
            others = [other for other in others if "@" not in other]
        else:
            for other in others:
                self.run(other)
        compared = tuple((f"others/{other}", Ref(f"runs/{other}", EVERYTHING)) for other in others)
        mine = (corpus, ("run", Ref(f"runs/{name}", EVERYTHING)))
        own = {each: self._chosen_paths(each) for each in (name, *others) if "@" in each}
        metrics = MetricsTask(
            f"measurements/{name}", name, run, mine + compared, against=tuple(others), candidates=own, where=where
        )
        for task in (client, metrics):
            task.reads_sealed = not candidate
            self.tasks[task.name] = task

    def corpus(self, name: str) -> str:
        """The name of the task that prepares a corpus."""
        task = f"corpora/{name}"
        if task not in self.tasks:
            refuse_missing(self.loaded, self.lock, name)
            spec = self.recipe.corpora[name]
            inputs = tuple((reference, self.ref(reference, "corpora", name)) for reference in spec.references())
            self.tasks[task] = CorpusTask(task, spec, inputs, where=self.loaded.where("corpora", name))
        return task

    def preparation(self, corpora: set[str]) -> tuple[Task, ...]:
        """Corpora, in the order of the recipe, and the proof that they are disjoint."""
        names = [self.corpus(name) for name in self.recipe.corpora if name in corpora]
        if not names:
            return ()
        inputs = tuple((name.removeprefix("corpora/"), Ref(name, EVERYTHING)) for name in names)
        where = self.loaded.where("corpora")
        return (*(self.tasks[name] for name in names), DisjointTask("disjointness", inputs, where=where))

    def needed(self, goals: Iterable[str]) -> tuple[Task, ...]:
        """The tasks behind ``goals``, sorted, without the corpora."""
        graph: dict[str, list[str]] = {}

        def visit(name: str) -> None:
            if name in self.tasks and name not in graph:
                graph[name] = [ref.origin for _, ref in self.tasks[name].inputs if ref.origin in self.tasks]
                for other in graph[name]:
                    visit(other)

        for goal in goals:
            visit(goal)
        order = TopologicalSorter(graph).static_order()
        return tuple(self.tasks[name] for name in order if not name.startswith("corpora/"))

    def _script(self, name: str) -> None:
        if name not in self.tasks:
            step = self.recipe.steps[name]
            inputs = tuple(
                each
                for target, reference in step.inputs.items()
                for each in self._at(target, self.ref(reference, "steps", name, "inputs", target))
            )
            where = self.loaded.where("steps", name)
            self.tasks[name] = ScriptTask(name, step, self.loaded.folder, inputs, where=where)

    def _chain(self, path: str, candidate: str | None, loc: tuple[str, ...], prefix: str) -> Ref:
        rule = self.recipe.rule(path, candidate)
        ref = self.ref(rule.source, *loc, "from")
        beside = [Ref(ref.origin, other) for other in sidecars(ref.path, self._siblings(ref))]
        named = [self.ref(reference, *loc, "with", index) for index, reference in enumerate(rule.sidecars)]
        found = dict.fromkeys([ref, *beside, *named])
        inputs: Inputs = tuple(member for each in found for member in self._at(PurePosixPath(each.path).name, each))
        primary, target = PurePosixPath(ref.path).name, PurePosixPath(path).name
        for index, transform in enumerate(rule.chain):
            name = f"{prefix}#{index + 1}"
            where = self.loaded.where(*loc, "chain", index)
            if isinstance(transform, Calibrated) and transform.calibrate:
                corpus = (CALIBRATION, Ref(self.corpus(transform.calibrate.corpus), EVERYTHING))
                self.tasks[name] = CalibratedTask(name, transform, (*inputs, corpus), primary, target, where=where)
            else:
                self.tasks[name] = TransformTask(name, transform, inputs, primary, target, where=where)
            ref, inputs, primary = Ref(name, target), (("", Ref(name, EVERYTHING)),), target
        return ref

    def _at(self, name: str, ref: Ref) -> Inputs:
        """What appears as ``name``, a file or a folder."""
        return tuple((name + each.path.removeprefix(ref.path), each) for each in self.members(ref))

    def _siblings(self, ref: Ref) -> list[str]:
        if ref.origin in self.sources:
            return list(self.sources[ref.origin])
        return list(self.recipe.steps[ref.origin].outputs)

    def _given(self, run: str, candidate: str) -> list[tuple[str, Ref]]:
        own = self.recipe.decided_by(run)
        return [
            (path, self.published(path, candidate if candidate and self.recipe.choice_of(path) == own else None))
            for path in self.recipe.given(run)
        ]

    def _compared_with(self, run: str, candidate: str) -> list[str]:
        """The other runs; where a candidate is measured, as they are for this candidate."""
        own = self.recipe.decided_by(run)
        others = [
            candidate_run(other, candidate) if candidate and self._is_decided_by(other, own) else other
            for other in self.recipe.compared_with(run)
        ]
        return [other for other in dict.fromkeys(others) if other != candidate_run(run, candidate)]

    def _is_decided_by(self, run: str, choice: str | None) -> bool:
        return "@" not in run and choice is not None and self.recipe.decided_by(run) == choice

    def _chosen_paths(self, run: str) -> tuple[str, ...]:
        choice = self.recipe.decided_by(run.partition("@")[0])
        return self.recipe.choices[choice].paths if choice else ()

    def _timed(self, run: str) -> bool:
        """Whether its own metrics read its timings, or differences of a run that is compared with it."""
        measure = self.recipe.measure
        if any(metric.timings for metric in measure[run].metric_specs()):
            return True
        readers = (other for other in measure if run in self.recipe.compared_with(other))
        return any(metric.timings and metric.deltas for name in readers for metric in measure[name].metric_specs())

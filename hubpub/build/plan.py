"""From a recipe and its lock to a list of tasks, each after those that it needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from hubpub.build.at_hand import settle
from hubpub.build.dropin import promised_files
from hubpub.build.elsewhere import not_here, refuse_to_judge
from hubpub.build.layout import RELEASE, Layout, candidate_run
from hubpub.build.run import Known, Origins, input_digests, sidecars, source_files
from hubpub.build.seal import check_seals
from hubpub.build.task import Ref, Task
from hubpub.build.tasks import CorpusTask
from hubpub.errors import HubpubError, nearest
from hubpub.manifest import ChoiceRecord, MissingCorpus
from hubpub.recipe import LoadedRecipe, Lock, members, other_path
from hubpub.source import SourceContext
from hubpub.store import FileDigest, Result, Store


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
    missing: dict[str, MissingCorpus]
    """Corpora that stand-ins took the place of."""
    partial: bool
    choices: tuple[str, ...] = ()
    """Those that decide about what is published or measured, in the order in which they are decided."""
    decided: tuple[ChoiceRecord, ...] = ()
    """What became of them; without it every candidate's steps are among the tasks."""
    trials: tuple[str, ...] = ()
    """The runs of candidates, as ``run@candidate``."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    """The runs that this machine cannot make, and why."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks in the order in which they run."""
        return self.preparation + self.work


@dataclass(frozen=True)
class Forecast:
    """What a build would do now: ``state`` is cached, run, waits (its inputs are not known yet) or perhaps (a rung)."""

    states: dict[str, str]
    bytes_to_fetch: dict[str, int]
    bytes_to_write: int
    """At least this much: steps that never ran are counted by the size of what they read."""


def make_plan(
    loaded: LoadedRecipe,
    lock: Lock,
    *,
    only: str | None = None,
    variant: str | None = None,
    decided: tuple[ChoiceRecord, ...] = (),
) -> Plan:
    """Lay out the tasks of a recipe, or of the part of it that ``only`` (a published path) or ``variant`` names.

    Of a choice that is not ``decided`` yet every candidate is laid out, as if the first (or the one that is promoted by
    name) were chosen.

    Raises:
        HubpubError: no such file or variant; a file that no locked source holds; a gate or choice on a run that this
            machine cannot make.
    """
    loaded, missing = settle(loaded, lock)
    recipe = loaded.recipe
    sources = {name: _digests(lock, name) for name in recipe.sources}
    paths = _selected(loaded, only, variant)
    chosen = {name: _usual_candidate(loaded, name) for name in recipe.choices}
    chosen |= {each.name: each.chosen for each in decided}
    layout = Layout(loaded, lock, sources, chosen)
    choices = _choices_behind(loaded, paths)
    owners = _owners(loaded)
    published = [Published(path, layout.published(path), owners.get(path, ())) for path in paths]
    for name in choices:
        spec = recipe.choices[name]
        for candidate in _made(loaded, name, decided) if spec.publish_others else ():
            published += [
                Published(other_path(spec.publish_others or "", path, candidate), ref, owners.get(path, ()))
                for path in spec.paths
                if path in paths and candidate != chosen[name] and (ref := layout.published(path, candidate))
            ]
    wanted = [name for name in recipe.measure if _complete(loaded, name, set(paths))]
    not_run = {name: reason for name in wanted if (reason := not_here(recipe, name))}
    refuse_to_judge(loaded, choices, not_run)
    runs = [name for name in wanted if name not in not_run]
    trials = [
        candidate_run(run, candidate)
        for name in choices
        for candidate in _made(loaded, name, decided)
        for run in recipe.choices[name].runs
    ]
    for name in (*trials, *runs):
        layout.run(name)
    goals = [each.ref.origin for each in published] + [f"measurements/{name}" for name in (*trials, *runs)]
    needed = layout.needed(goals)
    corpora = {recipe.measure[name.partition("@")[0]].corpus for name in (*trials, *runs)}
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
            Published(each.path + one.path.removeprefix(each.ref.path), one, each.variants)
            for each in published
            for one in layout.members(each.ref)
        ),
        tuple(runs),
        missing,
        partial=only is not None or variant is not None,
        choices=tuple(choices),
        decided=decided,
        trials=tuple(trials),
        not_run=not_run,
    )


def _usual_candidate(loaded: LoadedRecipe, choice: str) -> str:
    """The candidate that is promoted by name, or the first."""
    spec = loaded.recipe.choices[choice]
    return str(spec.promote) if spec.promote in spec.candidates else next(iter(spec.candidates))


def trial_plan(
    plan: Plan, choice: str, candidate: str, decided: tuple[ChoiceRecord, ...]
) -> tuple[Plan, dict[str, Ref]]:
    """What it takes to make and to measure a candidate, those before it ``decided``; nothing of it is published.

    Returns:
        The plan, which has the same preparation, and by published path where the candidate's bytes come from.
    """
    layout = Layout(plan.loaded, plan.lock, plan.sources, {each.name: each.chosen for each in decided})
    spec = plan.loaded.recipe.choices[choice]
    runs = [candidate_run(run, candidate) for run in spec.runs]
    for name in runs:
        layout.run(name)
    refs = {path: layout.published(path, candidate) for path in spec.paths}
    work = layout.needed([*(ref.origin for ref in refs.values()), *(f"measurements/{name}" for name in runs)])
    return replace(plan, work=work, published=(), runs=()), refs


def evaluation_plan(loaded: LoadedRecipe, lock: Lock, files: Mapping[str, FileDigest]) -> tuple[Plan, dict[str, str]]:
    """Lay out the measurements of a recipe on ``files`` that are there already.

    Returns:
        The plan, which publishes nothing, and by name why a run is left out.
    """
    loaded, missing = settle(loaded, lock)
    sources = {name: _digests(lock, name) for name in loaded.recipe.sources}
    layout = Layout(loaded, lock, {**sources, RELEASE: files}, {})
    lacking = {name: _lacking(loaded, name, files) for name in loaded.recipe.measure}
    runs = [name for name, reason in lacking.items() if reason is None]
    for name in runs:
        given = [each for path in loaded.recipe.given(name) for each in (*members(path, files), *sidecars(path, files))]
        layout.run(name, [(path, Ref(RELEASE, path)) for path in dict.fromkeys(given)])
    needed = layout.needed([f"measurements/{name}" for name in runs])
    corpora = {loaded.recipe.measure[name].corpus for name in runs}
    # Nothing is calibrated here, so there is nothing to keep apart.
    preparation = tuple(task for task in layout.preparation(corpora) if isinstance(task, CorpusTask))
    plan = Plan(loaded, lock, sources, preparation, needed, (), tuple(runs), missing, partial=True)
    return plan, {name: reason for name, reason in lacking.items() if reason is not None}


def evaluated_files(loaded: LoadedRecipe, names: Collection[str]) -> list[str]:
    """Those of a release's files that the runs of a recipe are given, external data included."""
    given = {path for run in loaded.recipe.measure for path in loaded.recipe.given(run)}
    wanted = {each for path in given for each in members(path, names) if each in names}
    return sorted(wanted | {beside for path in wanted for beside in sidecars(path, names)})


def _lacking(loaded: LoadedRecipe, run: str, files: Collection[str]) -> str | None:
    """Why a run cannot be made from ``files``."""
    missing = [path for path in loaded.recipe.given(run) if members(path, files)[0] not in files]
    if missing:
        return f"there is no {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    others = (other for other in loaded.recipe.compared_with(run) if other in loaded.recipe.measure)
    reasons = ((other, _lacking(loaded, other, files)) for other in others)
    lacking = next((f"run {other} is compared with: {reason}" for other, reason in reasons if reason), None)
    return lacking or not_here(loaded.recipe, run)


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
        states[task.name] = "perhaps" if _is_lower_rung(plan, task.name) else "waits" if digests is None else "run"
        read = (origins.get(ref.origin, {}).get(ref.path) for _, ref in task.inputs)
        to_write += sum(digest.size for digest in read if digest is not None)
    return Forecast(states, bytes_to_fetch(plan, store, pending), to_write)


def _is_lower_rung(plan: Plan, task: str) -> bool:
    """Whether a step is that of a rung which is tried only if those above it fail; so while nothing is decided."""
    choices = () if plan.decided else plan.choices
    for choice, spec in ((name, plan.loaded.recipe.choices[name]) for name in choices):
        lower = list(spec.candidates)[1:] if spec.is_ladder else ()
        marks = tuple(candidate_run("", each) for each in lower)
        run = task.partition("/")[2].partition("@")[0]
        is_run = task.endswith(marks) and run in {each for run in spec.runs for each in plan.loaded.recipe.behind(run)}
        if is_run or task.startswith(tuple(f"choices/{choice}/{each}/" for each in lower)):
            return True
    return False


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
    if only is not None and only not in recipe.paths:
        suggestion = nearest(only, recipe.paths)
        raise HubpubError(f"the recipe publishes no file {only!r}{suggestion}", where=str(loaded.path))
    owners = _owners(loaded)
    if only is not None and variant is not None and owners.get(only) and variant not in owners[only]:
        raise HubpubError(f"{only!r} is not of variant {variant!r}", fix=f"it is of {', '.join(owners[only])}")
    return [
        path
        for path in recipe.paths
        if only in (None, path) and (variant is None or not owners.get(path) or variant in owners[path])
    ]


def _owners(loaded: LoadedRecipe) -> dict[str, tuple[str, ...]]:
    """The variants that each published path belongs to."""
    chosen = {
        path: owners
        for name, owners in loaded.owners.get("choices", {}).items()
        for path in loaded.recipe.choices[name].paths
    }
    return loaded.owners.get("files", {}) | chosen


def _complete(loaded: LoadedRecipe, run: str, paths: set[str]) -> bool:
    """Whether ``paths`` hold all files of a run and of the runs that it is compared with."""
    return all(set(loaded.recipe.given(each)) <= paths for each in loaded.recipe.behind(run))


def _choices_behind(loaded: LoadedRecipe, paths: Collection[str]) -> list[str]:
    """The choices that decide about ``paths``, and those before them that decide what they are measured with."""
    recipe = loaded.recipe
    found = [name for name, choice in recipe.choices.items() if set(choice.paths) & set(paths)]
    for name in found:
        given = {
            path for run in recipe.choices[name].runs for each in recipe.behind(run) for path in recipe.given(each)
        }
        found += [other for other in {recipe.choice_of(path) for path in given} if other and other not in found]
    return [name for name in recipe.choices if name in found]


def _made(loaded: LoadedRecipe, choice: str, decided: tuple[ChoiceRecord, ...]) -> list[str]:
    """The candidates that were made and measured; while nothing is decided, all."""
    record = next((each for each in decided if each.name == choice), None)
    if record is None:
        return list(loaded.recipe.choices[choice].candidates)
    return [each.name for each in record.candidates if each.state in ("chosen", "passed", "missed")]

"""What must be true of a recipe beyond its schema, and can be told without any byte of its sources."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

from hubpub.corpus.spec import Labels
from hubpub.errors import Problem, nearest
from hubpub.gate import GateSpec, impossible
from hubpub.recipe.check_choices import choices, other_paths
from hubpub.recipe.check_corpora import stand_ins
from hubpub.recipe.check_measure import clients_and_metrics, differences_and_parts
from hubpub.recipe.document import Document, Loc
from hubpub.recipe.folders import members
from hubpub.recipe.model import PATTERNS, REFERENCE, PublishSpec, Recipe, RunSpec
from hubpub.recipe.variants import report
from hubpub.transform.base import Calibrated

RESERVED = ("readme.md", "hubpub.json", "recipe", "measurements")
"""Names at the top of a release that hubpub writes itself, case folded."""

RESERVED_STEPS = ("disjointness",)
"""Names of steps that hubpub adds itself."""

_GIT_WORDS = ("head", "fetch_head", "merge_head", "orig_head")

_MAX_SEGMENT, _MAX_PATH = 255, 1024
"""Bytes: NAME_MAX of common file systems, PATH_MAX of macOS."""


def check(recipe: Recipe, document: Document, folder: Path) -> list[Problem]:
    """All problems, in the order of the file."""
    of_files = (_names, _references, _local_files, _published_paths, choices, _cycles, _seals, stand_ins, _calibrations)
    of_measure = (_runs, _gates, clients_and_metrics, differences_and_parts)
    parts = (*of_files, *of_measure, _template, _publish)
    return report(document, (found for part in parts for found in part(recipe, folder)))


Found = Iterator[tuple[Loc, str]]


def template_file(folder: Path, name: str) -> Path | None:
    """The Jinja template ``name``: in ``templates/`` beside the recipe, or beside the recipe's folder."""
    places = (folder / "templates", folder.absolute().parent / "templates")
    return next((file for place in places if (file := place / f"{name}.md.j2").is_file()), None)


def unsafe_path(path: str) -> str | None:
    """Why ``path`` may not be used as a name below a folder of ours; None if it may."""
    parts = path.split("/")
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if "\\" in path or "\0" in path:
        return "holds a backslash or a NUL"
    if any(unicodedata.category(char) == "Cc" for char in path):
        return "holds a control character"
    if path.startswith("/") or path[1:2] == ":":
        return "is absolute"
    if ".." in parts:
        return "leaves its folder"
    if "" in parts or "." in parts:
        return "has an empty or `.` part"
    if max(lengths) > _MAX_SEGMENT or sum(lengths) + len(parts) > _MAX_PATH:
        return "is too long for a file name"
    return None


def _names(recipe: Recipe, _: Path) -> Found:
    for name in recipe.steps:
        if name in recipe.sources:
            yield ("steps", name), "is the name of a source already"
    for section, names in (("sources", recipe.sources), ("steps", recipe.steps)):
        for name in RESERVED_STEPS:
            if name in names:
                yield (section, name), "is the name of a step that hubpub adds itself; choose another"


def _references(recipe: Recipe, _: Path) -> Found:
    for loc, reference in _all_references(recipe):
        origin, slash, path = reference.partition("/")
        if not slash:
            yield loc, f"{reference!r} is not {PATTERNS[REFERENCE]}"
        elif why := unsafe_path(path):
            yield loc, f"{reference!r} {why}"
        elif origin in recipe.steps:
            if not set(members(path, recipe.steps[origin].outputs)) <= set(recipe.steps[origin].outputs):
                suggestion = nearest(path, recipe.steps[origin].outputs)
                yield loc, f"step {origin!r} does not make {path!r}{suggestion}"
        elif origin not in recipe.sources:
            suggestion = nearest(origin, [*recipe.sources, *recipe.steps])
            yield loc, f"there is no source or step {origin!r}{suggestion}"


def _all_references(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    for name, step in recipe.steps.items():
        for target, reference in step.inputs.items():
            yield ("steps", name, "inputs", target), reference
    for loc, rule in recipe.rules():
        yield (*loc, "from"), rule.source
        for index, reference in enumerate(rule.sidecars):
            yield (*loc, "with", index), reference
    for name, corpus in recipe.corpora.items():
        yield from _label_files(("corpora", name, "defaults"), corpus.defaults)
        for index, dataset in enumerate(corpus.datasets):
            for number, reference in enumerate(dataset.files):
                yield ("corpora", name, "datasets", index, "files", number), reference
        for index, clip in enumerate(corpus.clips):
            yield ("corpora", name, "clips", index, "audio"), clip.audio
            yield from _label_files(("corpora", name, "clips", index), clip)
    for name, run in recipe.measure.items():
        for reference in run.via.references():
            yield ("measure", name, "via"), reference


def _label_files(loc: Loc, labels: Labels) -> Iterator[tuple[Loc, str]]:
    for field in ("text_from", "turns_from", "scored_from"):
        if (reference := getattr(labels, field)) is not None:
            yield (*loc, field), reference


def _local_files(recipe: Recipe, folder: Path) -> Found:
    for name, step in recipe.steps.items():
        loc: Loc = ("steps", name)
        why = _not_beside(folder, step.script)
        if why:
            yield (*loc, "script"), f"{step.script!r} {why}"
        if step.requirements is not None or not why:
            requirements = requirements_path(step.script, step.requirements)
            if why := _not_beside(folder, requirements):
                yield (*loc, "requirements"), f"{requirements!r} {why}"
        inputs: list[tuple[Loc, str]] = [((*loc, "inputs", target), target) for target in step.inputs]
        outputs: list[tuple[Loc, str]] = [((*loc, "outputs", index), path) for index, path in enumerate(step.outputs)]
        yield from _unsafe(inputs + outputs)
        yield from _clashes(inputs)
        yield from _clashes(outputs)


def _not_beside(folder: Path, path: str) -> str | None:
    if why := unsafe_path(path):
        return why
    try:
        if not (folder / path).is_file():
            return "is not a file beside the recipe"
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            return "is a link that leaves the recipe's folder"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _unsafe(paths: Iterable[tuple[Loc, str]]) -> Found:
    for loc, path in paths:
        if why := unsafe_path(path):
            yield loc, f"{path!r} {why}"


def requirements_path(script: str, declared: str | None) -> str:
    """The hash-pinned requirements of a script: as declared, or beside it."""
    return declared or str(PurePosixPath(script).with_suffix(".requirements.txt"))


def _published_paths(recipe: Recipe, _: Path) -> Found:
    paths: list[tuple[Loc, str]] = [(("files", path), path) for path in recipe.files]
    for name, choice in recipe.choices.items():
        first = next(iter(choice.candidates))
        paths += [(("choices", name, "candidates", first, path), path) for path in choice.paths]
        paths += [(("choices", name, "publish_others"), path) for path in other_paths(choice)]
    yield from _unsafe(paths)
    for loc, path in paths:
        if path.split("/")[0].casefold() in RESERVED:
            yield loc, f"{path.split('/')[0]!r} is written by hubpub itself"
    yield from _clashes(paths)


def _clashes(paths: Sequence[tuple[Loc, str]]) -> Found:
    """Names that some file system cannot hold side by side."""
    files: dict[str, str] = {}
    for loc, path in paths:
        if (folded := _folded(path)) in files:
            other = files[folded]
            yield loc, f"two files are called {path!r}" + (f" ({other!r} on some systems)" if other != path else "")
        files.setdefault(folded, path)
    folders = {str(parent): path for folded, path in files.items() for parent in PurePosixPath(folded).parents}
    for loc, path in paths:
        if (inside := folders.get(_folded(path))) is not None:
            yield loc, f"{path!r} is a file here and a folder of {inside!r}"


def _folded(path: str) -> str:
    """The same for names that are one where case or Unicode form is ignored, as on macOS."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _cycles(recipe: Recipe, _: Path) -> Found:
    inputs = {
        name: [reference.split("/", 1)[0] for reference in step.inputs.values()] for name, step in recipe.steps.items()
    }
    yield from _cycle("steps", inputs)
    runs = {name: [run.reference] if run.reference else [] for name, run in recipe.measure.items()}
    for gate in recipe.gates:
        name, other = gate.measure.split("/")[0], (gate.against or "").split("/")[0]
        if name in runs and other != name:
            runs[name].append(other)
    yield from _cycle("measure", runs)


def _cycle(section: str, needs: dict[str, list[str]]) -> Found:
    graph = {name: [other for other in dict.fromkeys(others) if other in needs] for name, others in needs.items()}
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            ring: list[str] = error.args[1][::-1]
            start = min(ring, key=list(needs).index)
            at = ring.index(start)
            ring = [*ring[at:-1], *ring[:at], start]
            yield (section, start), f"depends on itself: {' → '.join(ring)}"
            graph[ring[0]].remove(ring[1])  # the next cycle, if there is one
        else:
            return


def _seals(recipe: Recipe, _: Path) -> Found:
    """What a sealed corpus consists of, nothing else may name; `build` compares the bytes too."""
    sealed = {
        reference: name for name, corpus in recipe.corpora.items() if corpus.sealed for reference in corpus.references()
    }
    for loc, reference in _all_references(recipe):
        named_by_sealed = loc[0] == "corpora" and recipe.corpora[str(loc[1])].sealed
        if reference in sealed and not named_by_sealed:
            owner = sealed[reference]
            yield loc, f"{reference!r} belongs to the sealed corpus {owner!r}: only `measure` may read it"


def _calibrations(recipe: Recipe, _: Path) -> Found:
    for place, rule in recipe.rules():
        for index, transform in enumerate(rule.chain):
            if not isinstance(transform, Calibrated):
                continue
            loc: Loc = (*place, "chain", index)
            if transform.calibrate is None:
                if transform.calibration_required:
                    what = f"{transform.transform} needs `calibrate`: a corpus, and the features that the model takes"
                    yield loc, what
                continue
            name = transform.calibrate.corpus
            corpus = recipe.corpora.get(name)
            if corpus is None:
                suggestion = nearest(name, recipe.corpora)
                yield (*loc, "calibrate", "corpus"), f"there is no corpus {name!r}{suggestion}"
            elif corpus.role != "calibration":
                yield (*loc, "calibrate", "corpus"), f"{name!r} is for {corpus.role}; calibrate on another"


def _runs(recipe: Recipe, _: Path) -> Found:
    for name, run in recipe.measure.items():
        loc: Loc = ("measure", name)
        yield from _run_names(recipe, name)
        corpus = recipe.corpora.get(run.corpus)
        if corpus is None:
            yield (*loc, "corpus"), f"there is no corpus {run.corpus!r}{nearest(run.corpus, recipe.corpora)}"
        elif corpus.role != "evaluation":
            yield (*loc, "corpus"), f"{run.corpus!r} is for {corpus.role}; what it was tuned on proves nothing"
        for index, pattern in enumerate(run.files):
            if not any(fnmatchcase(path, pattern) for path in recipe.paths):
                yield (*loc, "files", index), f"no published file matches {pattern!r}{nearest(pattern, recipe.paths)}"
        if run.reference is not None and run.reference not in recipe.measure:
            yield (*loc, "reference"), f"there is no run {run.reference!r}{nearest(run.reference, recipe.measure)}"
        elif run.reference is not None and recipe.measure[run.reference].corpus != run.corpus:
            other = recipe.measure[run.reference].corpus
            yield (*loc, "reference"), f"{run.reference!r} runs over {other!r}, this one over {run.corpus!r}"
        given: set[str] = set()
        for index, metric in enumerate(run.metric_specs()):
            if twice := given.intersection(metric.gives):
                yield (*loc, "metrics", index), f"{', '.join(sorted(twice))} is measured by this run already"
            given.update(metric.gives)
            if metric.needs_against and run.reference is None:
                yield (*loc, "metrics", index), f"{metric.metric} compares with another run: name it under `reference`"
            if corpus is not None and metric.metric in ("wer", "cer") and not corpus.has_texts:
                yield (*loc, "metrics", index), f"{metric.metric} needs transcripts, and {run.corpus!r} has none"


def _run_names(recipe: Recipe, name: str) -> Found:
    """What a run leaves in the release is called after it."""
    if name.casefold().endswith(".jsonl"):
        yield ("measure", name), "ends in .jsonl, as the file with what another run gave"
    if name.casefold().endswith(".timings"):
        yield ("measure", name), "ends in .timings, as the file with the timings of another run may"
    for other in recipe.measure:
        if other == name:
            return
        if other.casefold() == name.casefold():
            yield ("measure", name), f"differs from run {other!r} by case only; both leave files called after them"


def _gates(recipe: Recipe, _: Path) -> Found:
    for index, gate in enumerate(recipe.gates):
        sides = [(field, figure) for field, figure in (("measure", gate.measure), ("against", gate.against)) if figure]
        wrong: list[tuple[Loc, str]] = [
            (("gates", index, field), why)
            for field, figure in sides
            if (why := _no_figure(recipe, figure, of_candidates=field == "against"))
        ]
        yield from wrong
        if reason := _impossible(recipe, gate):
            yield ("gates", index), f"can never pass: {reason}"
        if gate.against is not None and not wrong:
            (mine, metric), (other, other_metric) = gate.measure.split("/"), gate.against.split("/")
            if metric != other_metric:
                yield ("gates", index, "against"), f"{metric} is not compared with {other_metric}"
            runs = [recipe.run(each) for each in (mine, other)]
            if len({run.corpus for run in runs if run}) > 1:
                yield ("gates", index, "against"), "the two runs are over different corpora, so no pairs can be made"


def _no_figure(recipe: Recipe, key: str, *, of_candidates: bool) -> str | None:
    """Why no ``run/metric`` of this name will be there to judge."""
    name, metric = key.split("/")
    run = recipe.run(name) if of_candidates else recipe.measure.get(name)
    if run is None and "@" in name:
        fix = "name it under `against` of a choice that has this run" if of_candidates else "put it under `against`"
        return f"{name!r} is the run of a candidate, and none is compared with here; {fix}"
    if run is None:
        return f"there is no run {name!r}{nearest(name, recipe.measure)}"
    known = [figure for spec in run.metric_specs() for figure in spec.gives]
    if metric not in known:
        return f"run {name!r} does not measure {metric!r}" + (
            nearest(metric, known) or f"; it measures {', '.join(known)}"
        )
    return None


def _impossible(recipe: Recipe, gate: GateSpec) -> str | None:
    """Why a gate cannot pass, as far as the recipe's own texts tell; texts in files are counted by the build."""
    run = recipe.measure.get(gate.measure.partition("/")[0])
    corpus = recipe.corpora.get(run.corpus) if run else None
    if run is None or corpus is None or corpus.sample is not None or corpus.datasets:
        return None
    if any(corpus.labels(clip).text_from is not None for clip in corpus.clips):
        return None
    texts = [*(clip.text for clip in corpus.clips), *(prompt.text for prompt in corpus.prompts)]
    return impossible_gate(gate, run, texts)


def impossible_gate(gate: GateSpec, run: RunSpec, texts: Sequence[str | None]) -> str | None:
    """Why ``gate`` on ``run`` can never pass on clips with these texts; None if it can, or only a run can tell."""
    figure = gate.measure.partition("/")[2]
    metric = next((metric for metric in run.metric_specs() if figure in metric.gives), None)
    units = metric.units(texts) if metric else None
    return None if units is None else impossible(gate, units)


def _template(recipe: Recipe, folder: Path) -> Found:
    file = template_file(folder, recipe.card.template)
    if file is None:
        yield ("card", "template"), f"there is no templates/{recipe.card.template}.md.j2 beside or above the recipe"
    elif not file.resolve().is_relative_to(file.parent.parent.resolve()):
        yield ("card", "template"), f"{file.name} is a link that leaves the folder of the templates"


def _publish(recipe: Recipe, _: Path) -> Found:
    spec = recipe.publish
    if spec is None:
        return
    yield from _git_names(spec)
    replaced = spec.drop_in_for
    if replaced is not None and replaced not in recipe.sources:
        yield ("publish", "drop_in_for"), f"there is no source {replaced!r}{nearest(replaced, recipe.sources)}"
    for index, name in enumerate(spec.load):
        if name not in recipe.measure:
            yield ("publish", "load", index), f"there is no run {name!r}{nearest(name, recipe.measure)}"
        elif name in spec.load[:index]:
            yield ("publish", "load", index), f"run {name!r} is named already"
    yield from _unsafe((("publish", "keep", index), pattern) for index, pattern in enumerate(spec.keep))
    if spec.repo in recipe.card.base_model:
        loc = ("card", "base_model", recipe.card.base_model.index(spec.repo))
        yield loc, f"{spec.repo!r} is where the release goes, and no repo is its own base model"


def _git_names(spec: PublishSpec) -> Found:
    for field, name in (("branch", spec.branch), ("tag", spec.tag)):
        if name is None:
            continue
        if name.casefold() in _GIT_WORDS or name.casefold().startswith("refs/"):
            yield ("publish", field), f"{name!r} means something else to git; choose another name"
        elif any(part.endswith(".lock") for part in name.split("/")):
            yield ("publish", field), f"{name!r} has a part that ends in .lock, which git refuses"
        elif re.fullmatch(r"[0-9a-f]{40}", name):
            yield ("publish", field), f"{name!r} would be taken for a commit; choose another name"
    if spec.tag == spec.branch:
        yield ("publish", "tag"), f"{spec.tag!r} is the branch too, so nobody can tell which of them is meant"

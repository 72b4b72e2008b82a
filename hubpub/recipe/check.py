"""What must be true of a recipe beyond its schema, and can be told without any byte of its sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

from hubpub.errors import Problem, nearest
from hubpub.gate import GateSpec, impossible
from hubpub.recipe.document import Document, Loc
from hubpub.recipe.model import Recipe, RunSpec

RESERVED = ("README.md", "hubpub.json", "recipe")
"""Names at the top of a release that hubpub writes itself."""


def check(recipe: Recipe, document: Document, folder: Path) -> list[Problem]:
    """All problems, in the order of the file."""
    found = [
        document.problem(loc, message)
        for part in (_names, _references, _local_files, _published_paths, _cycles, _runs, _gates, _template)
        for loc, message in part(recipe, folder)
    ]
    return sorted(set(found), key=lambda problem: (problem.line, problem.column, problem.message))


Found = Iterator[tuple[Loc, str]]


def template_file(folder: Path, name: str) -> Path | None:
    """The Jinja template ``name``: in ``templates/`` beside the recipe, or beside the recipe's folder."""
    places = (folder / "templates", folder.absolute().parent / "templates")
    return next((file for place in places if (file := place / f"{name}.md.j2").is_file()), None)


def unsafe_path(path: str) -> str | None:
    """Why ``path`` may not be used as a name below a folder of ours; None if it may."""
    if "\\" in path or "\0" in path:
        return "holds a backslash or a NUL"
    if path.startswith("/") or PurePosixPath(path).is_absolute() or path[1:2] == ":":
        return "is absolute"
    parts = path.split("/")
    if ".." in parts:
        return "leaves its folder"
    if "" in parts or "." in parts:
        return "has an empty or `.` part"
    if any(ord(char) < 32 for char in path):
        return "holds a control character"
    return None


def _names(recipe: Recipe, _: Path) -> Found:
    for name in recipe.steps:
        if name in recipe.sources:
            yield ("steps", name), "is the name of a source already"


def _references(recipe: Recipe, _: Path) -> Found:
    for loc, reference in _all_references(recipe):
        origin, path = reference.split("/", 1)
        why = unsafe_path(path)
        if why:
            yield loc, f"{reference!r} {why}"
        elif origin in recipe.steps:
            if path not in recipe.steps[origin].outputs:
                suggestion = nearest(path, recipe.steps[origin].outputs)
                yield loc, f"step {origin!r} does not make {path!r}{suggestion}"
        elif origin not in recipe.sources:
            suggestion = nearest(origin, [*recipe.sources, *recipe.steps])
            yield loc, f"there is no source or step {origin!r}{suggestion}"


def _all_references(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    for name, step in recipe.steps.items():
        for target, reference in step.inputs.items():
            yield ("steps", name, "inputs", target), reference
    for path in recipe.files:
        rule = recipe.rule(path)
        yield ("files", path, "from"), rule.source
        for index, reference in enumerate(rule.sidecars):
            yield ("files", path, "with", index), reference
    for name, corpus in recipe.corpora.items():
        for index, clip in enumerate(corpus.clips):
            yield ("corpora", name, "clips", index, "audio"), clip.audio
            if clip.text_from is not None:
                yield ("corpora", name, "clips", index, "text_from"), clip.text_from
    for name, run in recipe.measure.items():
        for reference in run.via.references():
            yield ("measure", name, "via"), reference


def _local_files(recipe: Recipe, folder: Path) -> Found:
    for name, step in recipe.steps.items():
        for field, path in (
            ("script", step.script),
            ("requirements", requirements_path(step.script, step.requirements)),
        ):
            why = unsafe_path(path)
            if why:
                yield ("steps", name, field), f"{path!r} {why}"
            elif not (folder / path).is_file():
                yield ("steps", name, field), f"{path!r} is not a file beside the recipe"
            elif not (folder / path).resolve().is_relative_to(folder.resolve()):
                yield ("steps", name, field), f"{path!r} is a link that leaves the recipe's folder"
        for target in (*step.inputs, *step.outputs):
            if why := unsafe_path(target):
                yield ("steps", name), f"{target!r} {why}"
        for paths in (tuple(step.inputs), step.outputs):
            for loc, message in _clashes(("steps", name), paths):
                yield loc, message


def requirements_path(script: str, declared: str | None) -> str:
    """The hash-pinned requirements of a script: as declared, or beside it."""
    return declared or str(PurePosixPath(script).with_suffix(".requirements.txt"))


def _published_paths(recipe: Recipe, _: Path) -> Found:
    for path in recipe.files:
        loc: Loc = ("files", path)
        why = unsafe_path(path)
        if why:
            yield loc, f"{path!r} {why}"
        elif path.split("/")[0] in RESERVED:
            yield loc, f"{path.split('/')[0]!r} is written by hubpub itself"
    yield from _clashes(("files",), tuple(recipe.files))


def _clashes(loc: Loc, paths: tuple[str, ...]) -> Found:
    """Names that some file system cannot hold side by side."""
    folded: dict[str, str] = {}
    for path in paths:
        other = folded.setdefault(path.casefold(), path)
        if other is not path:
            yield (*loc, path), f"two files are called {path!r}" + (f" ({other!r} but for case)" * (other != path))
    folders = {str(parent).casefold(): path for path in paths for parent in PurePosixPath(path).parents}
    for path in paths:
        if path.casefold() in folders:
            yield (*loc, path), f"{path!r} is a file here and a folder of {folders[path.casefold()]!r}"


def _cycles(recipe: Recipe, _: Path) -> Found:
    graph = {
        name: {origin for reference in step.inputs.values() if (origin := reference.split("/", 1)[0]) in recipe.steps}
        for name, step in recipe.steps.items()
    }
    yield from _cycle("steps", graph)
    runs = {name: {run.reference} - {None} for name, run in recipe.measure.items()}
    yield from _cycle("measure", {name: {str(other) for other in others} for name, others in runs.items()})


def _cycle(section: str, graph: dict[str, set[str]]) -> Found:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring = error.args[1]
        yield (section, ring[0]), f"depends on itself: {' → '.join(reversed(ring))}"


def _runs(recipe: Recipe, _: Path) -> Found:
    for name, run in recipe.measure.items():
        loc: Loc = ("measure", name)
        corpus = recipe.corpora.get(run.corpus)
        if corpus is None:
            yield (*loc, "corpus"), f"there is no corpus {run.corpus!r}{nearest(run.corpus, recipe.corpora)}"
        elif corpus.role != "evaluation":
            yield (*loc, "corpus"), f"{run.corpus!r} is for {corpus.role}; what it was tuned on proves nothing"
        for index, pattern in enumerate(run.files):
            if not any(fnmatchcase(path, pattern) for path in recipe.files):
                yield (*loc, "files", index), f"no published file matches {pattern!r}{nearest(pattern, recipe.files)}"
        if run.reference is not None and run.reference not in recipe.measure:
            yield (*loc, "reference"), f"there is no run {run.reference!r}{nearest(run.reference, recipe.measure)}"
        elif run.reference is not None and recipe.measure[run.reference].corpus != run.corpus:
            other = recipe.measure[run.reference].corpus
            yield (*loc, "reference"), f"{run.reference!r} runs over {other!r}, this one over {run.corpus!r}"
        for index, metric in enumerate(run.metric_specs()):
            if metric.needs_against and run.reference is None:
                yield (*loc, "metrics", index), f"{metric.metric} compares with another run: name it under `reference`"
            if corpus is not None and metric.metric in ("wer", "cer"):
                silent = [clip.audio for clip in corpus.clips if clip.text is None and clip.text_from is None]
                if len(silent) == len(corpus.clips):
                    yield (*loc, "metrics", index), f"{metric.metric} needs transcripts, and {run.corpus!r} has none"


def _gates(recipe: Recipe, _: Path) -> Found:
    for index, gate in enumerate(recipe.gates):
        for field, figure in (("measure", gate.measure), ("against", gate.against)):
            if figure is None:
                continue
            name, _slash, metric = figure.partition("/")
            run = recipe.measure.get(name)
            if run is None:
                yield ("gates", index, field), f"there is no run {name!r}{nearest(name, recipe.measure)}"
            elif metric not in (known := [figure for spec in run.metric_specs() for figure in spec.gives]):
                hint = nearest(metric, known) or f"; it measures {', '.join(known)}"
                yield ("gates", index, field), f"run {name!r} does not measure {metric!r}{hint}"
        if reason := _impossible(recipe, gate):
            yield ("gates", index), f"can never pass: {reason}"
        if gate.against is not None:
            run = recipe.measure.get(gate.measure.partition("/")[0])
            other = gate.against.partition("/")[0]
            if run is not None and other in recipe.measure and recipe.measure[other].corpus != run.corpus:
                yield ("gates", index, "against"), "the two runs are over different corpora, so no pairs can be made"


def _impossible(recipe: Recipe, gate: GateSpec) -> str | None:
    """Why a gate cannot pass, as far as the recipe's own texts tell; texts in files are counted by the build."""
    name, _, figure = gate.measure.partition("/")
    run = recipe.measure.get(name)
    corpus = recipe.corpora.get(run.corpus) if run else None
    if run is None or corpus is None or any(clip.text_from is not None for clip in corpus.clips):
        return None
    return impossible_gate(gate, run, [clip.text for clip in corpus.clips])


def impossible_gate(gate: GateSpec, run: RunSpec, texts: Sequence[str | None]) -> str | None:
    """Why ``gate`` on ``run`` can never pass on clips with these transcripts; None if it can, or only a run can tell."""
    figure = gate.measure.partition("/")[2]
    metric = next((metric for metric in run.metric_specs() if figure in metric.gives), None)
    units = metric.units(texts) if metric else None
    return None if units is None else impossible(gate, units)


def _template(recipe: Recipe, folder: Path) -> Found:
    if template_file(folder, recipe.card.template) is None:
        yield ("card", "template"), f"there is no templates/{recipe.card.template}.md.j2 beside or above the recipe"

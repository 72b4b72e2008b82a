"""What must be true of runs and gates, so that every figure that is asked for can be had; told before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from hubpub.errors import nearest
from hubpub.measure.metrics._text import ErrorRate
from hubpub.measure.metrics.base import Metric
from hubpub.measure.result import Kind
from hubpub.recipe.document import Loc
from hubpub.recipe.model import Recipe, RunSpec

Found = Iterator[tuple[Loc, str]]

_WORDS: dict[Kind, str] = {
    "text": "transcripts", "arrays": "the model's outputs", "turns": "speaker turns", "audio": "audio",
}  # fmt: skip


def clients_and_metrics(recipe: Recipe, _: Path) -> Found:
    """Runs whose client cannot open its model, or does not make what a metric needs."""
    for name, run in recipe.measure.items():
        loc: Loc = ("measure", name)
        given = recipe.given(name)
        for path in run.via.opens():
            if path not in given:
                yield (*loc, "via", "model"), f"{path!r} is not among the files of this run{_instead(path, given)}"
        corpus = recipe.corpora.get(run.corpus)
        if corpus is not None and run.via.takes == "audio" and corpus.prompts:
            yield (*loc, "corpus"), f"{run.corpus!r} holds prompts, and the client {run.via.client!r} listens to audio"
        if corpus is not None and run.via.takes == "text" and not corpus.has_texts:
            yield (*loc, "corpus"), f"the client {run.via.client!r} says texts, and {run.corpus!r} has none"
        if corpus is not None and not isinstance(run.audio, str):
            ids = [corpus.prompt_name(index) for index in range(len(corpus.prompts))]
            for index, name in enumerate(run.audio):
                if corpus.prompts and name not in ids:
                    yield (*loc, "audio", index), f"{run.corpus!r} has no prompt {name!r}{nearest(name, ids)}"
        for index, metric in enumerate(run.metric_specs()):
            yield from (((*loc, "metrics", index), why) for why in _unmet(recipe, run, metric))


def _instead(path: str, given: Sequence[str]) -> str:
    return nearest(path, given) or (f"; these are {', '.join(given[:4])}" if given else "")


def _unmet(recipe: Recipe, run: RunSpec, metric: Metric) -> Iterator[str]:
    """Why a metric cannot be taken from a run."""
    reference = recipe.measure.get(run.reference or "")
    for kind in metric.needs:
        if kind not in run.via.makes:
            yield f"{metric.metric} needs {_WORDS[kind]}, and the client {run.via.client!r} makes none"
        elif reference is not None and kind not in reference.via.makes and (metric.needs_against or metric.deltas):
            client = reference.via.client
            yield f"{metric.metric} needs {_WORDS[kind]} of {run.reference!r} too, and its client {client!r} makes none"
    corpus = recipe.corpora.get(run.corpus)
    if metric.metric == "der" and "turns" in run.via.makes and corpus is not None and not corpus.has_turns:
        yield f"der needs to know who speaks when, and no clip of {run.corpus!r} says so; give it `turns_from`"
    if not isinstance(metric, ErrorRate) or "section" not in metric.strata:
        return
    if corpus is not None and corpus.tells_when and metric.of_transcripts:
        return  # each stretch has its place
    if run.reference is None:
        yield "sections are told by the segments of another run: name it under `reference`"
    elif reference is not None and not _tells_times(reference):
        what = f"sections are told by segments, and {run.reference!r} takes each clip in one pass"
        yield f"{what}; give it a `segment` or `word_times`"


def _tells_times(run: RunSpec) -> bool:
    """Whether its transcripts come in pieces."""
    segment = getattr(run.via, "segment", None)
    return getattr(segment, "by", "none") != "none" or getattr(run.via, "word_times", False)


def differences_and_parts(recipe: Recipe, _: Path) -> Found:
    """Gates on differences that no metric gives, or on parts of the corpus that have no figures."""
    for index, gate in enumerate(recipe.gates):
        metric = recipe.metric(gate.measure)
        if metric is None:
            continue
        figure = gate.measure.partition("/")[2]
        if gate.against is not None and figure == gate.against.partition("/")[2] and figure not in metric.deltas:
            with_deltas = [name for name in metric.deltas if name != figure]
            instead = (
                f"; of this metric only {', '.join(with_deltas)} is" if with_deltas else "; judge the figure itself"
            )
            yield ("gates", index, "against"), f"{figure} is not taken as a difference to another run{instead}"
        if gate.subset is not None and (why := _no_part(gate.subset, metric, paired=gate.against is not None)):
            yield ("gates", index, "subset"), why


def _no_part(subset: str, metric: Metric, *, paired: bool) -> str | None:
    """Why no figure of ``metric`` bears such a name."""
    kinds: list[str] = list(metric.strata) if isinstance(metric, ErrorRate) else []
    if getattr(metric, "per_clip", False) and not paired:
        kinds.append("clip")
    kind = subset.partition(":")[0]
    if any(fnmatchcase(each, kind) for each in kinds):
        return None
    known = f"there are figures by {', '.join(kinds)}" if kinds else "there are none for parts of the corpus"
    return f"{metric.metric} gives no figures by {kind!r}: {known}" + (
        "; add it to `strata`" if isinstance(metric, ErrorRate) else ""
    )

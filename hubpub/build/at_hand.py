"""Corpora as the lock lets them be: names of dataset files written out, stand-ins where recordings are not at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hubpub.corpus.spec import CorpusSpec, DatasetSpec, Provenance
from hubpub.errors import SourceError
from hubpub.manifest import Missing, MissingCorpus
from hubpub.recipe import LoadedRecipe, Lock
from hubpub.recipe.model import ChoiceSpec, FileRule, Recipe
from hubpub.source import LocalSource
from hubpub.source.names import matches
from hubpub.transform.base import Calibrated


def settle(loaded: LoadedRecipe, lock: Lock) -> tuple[LoadedRecipe, dict[str, MissingCorpus]]:
    """The recipe as it can be built now, and what is not at hand for all that it says.

    A corpus gives way to its stand-in as a whole, wherever it is used. Stand-ins that are not needed are left out. A
    corpus without one is left as it is: `refuse_missing` tells when it is needed.
    """
    recipe = loaded.recipe
    corpora = {name: _written_out(spec, lock) for name, spec in recipe.corpora.items()}
    missing = {
        name: MissingCorpus(stand_in=spec.stand_in, clips=clips, supply=_supply(recipe, lock, spec))
        for name, spec in corpora.items()
        if spec.stand_in is not None and (clips := tuple(_missing(recipe, lock, spec)))
    }
    instead = {name: each.stand_in for name, each in missing.items()}
    for name, each in missing.items():
        spec, count = corpora[each.stand_in], len(each.clips)
        took = f"{name}, of which {count} recording{'s are' if count > 1 else ' is'} not at hand"
        others = f"{spec.stand_in_for}; " if spec.stand_in_for else ""
        corpora[each.stand_in] = spec.model_copy(update={"stand_in_for": f"{others}{took}"})
    changed = _replaced(recipe, instead)
    idle = {spec.stand_in for spec in corpora.values() if spec.stand_in} - set(_used(changed))
    kept = {name: spec for name, spec in corpora.items() if name not in idle and name not in instead}
    return replace(loaded, recipe=changed.model_copy(update={"corpora": kept})), missing


def refuse_missing(loaded: LoadedRecipe, lock: Lock, name: str) -> None:
    """Stop where a corpus is needed that is not at hand and has no stand-in that is.

    Raises:
        SourceError: naming every recording, and how to get it.
    """
    recipe, spec = loaded.recipe, loaded.recipe.corpora[name]
    if clips := tuple(_missing(recipe, lock, spec)):
        told = ", ".join(_say(clip) for clip in clips)
        what = f"{len(clips)} recording{'s' if len(clips) > 1 else ''} of {name!r} not at hand: {told}"
        raise SourceError(
            what, where=loaded.where("corpora", name), fix=f"{_supply(recipe, lock, spec)}, or give a stand_in"
        )


def notes(missing: Mapping[str, MissingCorpus]) -> Iterator[str]:
    """What the user should know, a line for each corpus."""
    for name, each in missing.items():
        told = ", ".join(_say(clip) for clip in each.clips)
        yield (
            f"{each.stand_in} takes the place of {name}, and the release is provisional; not at hand: {told}. "
            f"To supply: {each.supply}"
        )


def _say(clip: Missing) -> str:
    known = (clip.provenance.speaker, clip.provenance.title)
    about = ", ".join(filter(None, known))
    return f"{clip.audio.partition('/')[2]}" + (f" ({about})" if about else "")


def _supply(recipe: Recipe, lock: Lock, spec: CorpusSpec) -> str:
    """How to get what is missing, and where to put it."""
    missing = (reference for reference in spec.references() if _gone(recipe, lock, reference))
    sources = (recipe.sources[origin] for origin in dict.fromkeys(each.partition("/")[0] for each in missing))
    return "; ".join(
        f"{source.supply} (folder {source.path}, beside the recipe)"
        for source in sources
        if isinstance(source, LocalSource)
    )


def _gone(recipe: Recipe, lock: Lock, reference: str) -> bool:
    """Whether a file is one that a person has to supply, and was not there when its source was locked."""
    origin, _, path = reference.partition("/")
    source = recipe.sources.get(origin)
    supplied = isinstance(source, LocalSource) and source.supply is not None
    return supplied and path not in lock.sources[origin].files


def _missing(recipe: Recipe, lock: Lock, spec: CorpusSpec) -> Iterator[Missing]:
    """Clips that lack their recording or a label file."""
    for clip in spec.clips:
        if any(_gone(recipe, lock, each) for each in (clip.audio, *spec.labels(clip).label_files())):
            yield Missing(id=clip.name, audio=clip.audio, crop=clip.crop, provenance=spec.provenance(clip))
    for dataset in spec.datasets:
        for reference in (each for each in dataset.files if _gone(recipe, lock, each)):
            known = {
                field: getattr(dataset, field) or getattr(spec.defaults, field) for field in Provenance.model_fields
            }
            yield Missing(id=reference, audio=reference, crop=None, provenance=Provenance(**known))


def _written_out(spec: CorpusSpec, lock: Lock) -> CorpusSpec:
    """The same with the names that the patterns of its datasets stand for; one that covers nothing stays."""

    def names(reference: str) -> list[str]:
        origin, _, pattern = reference.partition("/")
        locked = lock.sources.get(origin)
        if "*" not in pattern or locked is None:
            return [reference]
        return [f"{origin}/{name}" for name in sorted(locked.files) if matches(pattern, name)] or [reference]

    def whole(dataset: DatasetSpec) -> DatasetSpec:
        files = dict.fromkeys(name for reference in dataset.files for name in names(reference))
        return dataset.model_copy(update={"files": tuple(files)})

    return spec.model_copy(update={"datasets": tuple(whole(dataset) for dataset in spec.datasets)})


def _replaced(recipe: Recipe, instead: Mapping[str, str]) -> Recipe:
    """With other corpora in the place of some."""

    def entry(given: str | FileRule) -> str | FileRule:
        if isinstance(given, str):
            return given
        chain: list[Any] = []
        for transform in given.chain:
            if isinstance(transform, Calibrated) and transform.calibrate and transform.calibrate.corpus in instead:
                spec = transform.calibrate.model_copy(update={"corpus": instead[transform.calibrate.corpus]})
                chain.append(transform.model_copy(update={"calibrate": spec}))
            else:
                chain.append(transform)
        return given.model_copy(update={"chain": tuple(chain)})

    def choice(spec: ChoiceSpec) -> ChoiceSpec:
        candidates = {
            name: {path: entry(each) for path, each in files.items()} for name, files in spec.candidates.items()
        }
        return spec.model_copy(update={"candidates": candidates})

    changed: dict[str, Any] = {
        "files": {path: entry(given) for path, given in recipe.files.items()},
        "choices": {name: choice(spec) for name, spec in recipe.choices.items()},
        "measure": {
            name: run.model_copy(update={"corpus": instead.get(run.corpus, run.corpus)})
            for name, run in recipe.measure.items()
        },
    }
    return recipe.model_copy(update=changed)


def _used(recipe: Recipe) -> Iterator[str]:
    """Corpora that something is measured or calibrated on."""
    yield from (run.corpus for run in recipe.measure.values())
    for _, rule in recipe.rules():
        for transform in rule.chain:
            if isinstance(transform, Calibrated) and transform.calibrate:
                yield transform.calibrate.corpus

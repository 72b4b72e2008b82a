"""What must be true of corpora, so that one can take the place of another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hubpub.errors import nearest
from hubpub.recipe.document import Loc
from hubpub.recipe.model import Recipe
from hubpub.source import LocalSource

Found = Iterator[tuple[Loc, str]]


def stand_ins(recipe: Recipe, _: Path) -> Found:
    """Corpora that name another one for when they are not at hand."""
    for name, corpus in recipe.corpora.items():
        loc, other = ("corpora", name, "stand_in"), recipe.corpora.get(corpus.stand_in or "")
        if corpus.stand_in is None:
            continue
        if other is None:
            yield loc, f"there is no corpus {corpus.stand_in!r}{nearest(corpus.stand_in, recipe.corpora)}"
        elif other.role != corpus.role:
            yield loc, f"{corpus.stand_in!r} is for {other.role}, and {name!r} for {corpus.role}"
        elif other.stand_in is not None:
            yield loc, f"{corpus.stand_in!r} may itself be not at hand; name one that always is"
        elif not any(_is_supplied(recipe, reference) for reference in corpus.references()):
            yield (
                loc,
                f"all of {name!r} is always at hand; a recording that may be not comes from a source with `supply`",
            )
        if other is not None and not other.has_texts and corpus.has_texts:
            for run, spec in recipe.measure.items():
                if spec.corpus == name and any(metric.metric in ("wer", "cer") for metric in spec.metric_specs()):
                    yield loc, f"run {run!r} needs transcripts, and {corpus.stand_in!r} has none"


def _is_supplied(recipe: Recipe, reference: str) -> bool:
    source = recipe.sources.get(reference.partition("/")[0])
    return isinstance(source, LocalSource) and source.supply is not None

"""What must be true of ladders and rosters: what they choose by is measured, says something, and is not sealed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hubpub.errors import nearest
from hubpub.recipe.document import Loc
from hubpub.recipe.model import FIRST, IN_OTHER_NAMES, BestBy, ChoiceSpec, Recipe

Found = Iterator[tuple[Loc, str]]

_FIELD = re.compile(r"\{([^{}]*)\}")


def choices(recipe: Recipe, _: Path) -> Found:
    """All that is wrong with the choices of a recipe."""
    for name, choice in recipe.choices.items():
        loc: Loc = ("choices", name)
        yield from _paths(recipe, choice, loc)
        yield from _candidates(choice, loc)
        wrong = list(_runs(recipe, name))
        yield from wrong
        yield from _promote(recipe, choice, loc, runs_are_known=not wrong)
        yield from _against(choice, loc)
        yield from _others(choice, loc)


def other_path(pattern: str, path: str, candidate: str) -> str:
    """Where the file ``path`` of a candidate that is not chosen is published; ``pattern`` is ``publish_others``."""
    place = PurePosixPath(path)
    values = {"stem": place.name.removesuffix(place.suffix), "candidate": candidate, "suffix": place.suffix}
    return str(place.parent / _FIELD.sub(lambda match: values[match.group(1)], pattern))


def other_paths(choice: ChoiceSpec) -> list[str]:
    """Every path that ``publish_others`` may publish; none while its pattern is wrong."""
    if choice.publish_others is None or list(_others(choice, ())):
        return []
    others = [name for name in choice.candidates if name != choice.promote]
    return [other_path(choice.publish_others, path, name) for name in others for path in choice.paths]


def _paths(recipe: Recipe, choice: ChoiceSpec, loc: Loc) -> Found:
    for candidate, files in choice.candidates.items():
        if lacking := [path for path in choice.paths if path not in files]:
            yield (*loc, "candidates", candidate), f"does not give {lacking[0]!r}, which another candidate gives"
    for path in choice.paths:
        owner = recipe.choice_of(path)
        if path in recipe.files:
            yield loc, f"{path!r} stands under `files` too"
        elif owner != loc[1]:
            yield loc, f"{path!r} is decided by the choice {owner!r} already"


def _candidates(choice: ChoiceSpec, loc: Loc) -> Found:
    known: dict[str, str] = {}
    for name in choice.candidates:
        if name == FIRST:
            yield (*loc, "candidates", name), f"is what `promote: {FIRST}` says; choose another name"
        other = known.setdefault(name.casefold(), name)
        if other != name:
            yield (*loc, "candidates", name), f"differs from {other!r} by case only; both leave files called after them"


def _runs(recipe: Recipe, name: str) -> Found:
    choice, order = recipe.choices[name], list(recipe.choices)
    for index, run in enumerate(choice.runs):
        loc: Loc = ("choices", name, "runs", index)
        if run not in recipe.measure:
            yield loc, f"there is no run {run!r}{nearest(run, recipe.measure)}"
            continue
        if run in choice.runs[:index]:
            yield loc, f"{run!r} is named already"
        corpus = recipe.corpora.get(recipe.measure[run].corpus)
        if corpus is not None and corpus.sealed:
            yield loc, f"{run!r} runs over the sealed corpus {recipe.measure[run].corpus!r}: nothing is chosen by it"
        if name not in (recipe.choice_of(path) for path in recipe.given(run)):
            yield loc, f"{run!r} is given none of the files that are chosen here"
        for each in recipe.behind(run):
            given = {recipe.choice_of(path) for path in recipe.given(each)}
            for other in order[order.index(name) + 1 :]:
                if other in given:
                    told = f"{run!r}" if each == run else f"{run!r} is compared with {each!r}, which"
                    what = f"{told} is given files of {other!r} too, which is decided later"
                    yield loc, f"{what}; put that choice first, or choose the files of both together"


def _promote(recipe: Recipe, choice: ChoiceSpec, loc: Loc, *, runs_are_known: bool) -> Found:
    promote = choice.promote
    if isinstance(promote, BestBy):
        yield from _best(recipe, choice, promote, (*loc, "promote"))
    elif promote == FIRST:
        if runs_are_known and not recipe.choosing_gates(choice):
            what = "no gate on these runs judges anything but timings, so whatever is made first would pass"
            yield (*loc, "promote"), f"{what}; add a gate"
    elif promote not in choice.candidates:
        hint = nearest(promote, [FIRST, *choice.candidates])
        yield (*loc, "promote"), f"there is no candidate {promote!r}{hint or f'; or write `{FIRST}`'}"


def _best(recipe: Recipe, choice: ChoiceSpec, best: BestBy, loc: Loc) -> Found:
    run, _, figure = best.figure.partition("/")
    metric = recipe.metric(best.figure)
    if run not in choice.runs or run not in recipe.measure:
        yield loc, f"{run!r} is not one of the runs of this choice{nearest(run, choice.runs)}"
    elif metric is None:
        known = [name for spec in recipe.measure[run].metric_specs() for name in spec.gives]
        yield loc, f"run {run!r} does not measure {figure!r}{nearest(figure, known)}"
    elif metric.timings:
        yield loc, f"{figure} differs from build to build, and so would the choice; judge it by a gate"


def _against(choice: ChoiceSpec, loc: Loc) -> Found:
    if choice.against is None:
        return
    if choice.against not in choice.candidates:
        hint = nearest(choice.against, choice.candidates)
        yield (*loc, "against"), f"there is no candidate {choice.against!r}{hint}"
    elif choice.is_ladder and choice.against != next(iter(choice.candidates)):
        yield (*loc, "against"), "a ladder may end before it; only its first rung is there to compare with"


def _others(choice: ChoiceSpec, loc: Loc) -> Found:
    pattern = choice.publish_others
    if pattern is None:
        return
    place: Loc = (*loc, "publish_others")
    used = _FIELD.findall(pattern)
    if unknown := [field for field in used if field not in IN_OTHER_NAMES]:
        known = ", ".join(f"{{{field}}}" for field in IN_OTHER_NAMES)
        yield place, f"{{{unknown[0]}}} stands for nothing here; known: {known}"
    elif not {"stem", "candidate"} <= set(used):
        yield place, "needs {stem} and {candidate}, so that no two files get one name"
    elif choice.is_ladder:
        yield place, "the other rungs of a ladder failed or were not made, so they are not published"

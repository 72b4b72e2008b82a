"""Runs that this machine cannot make, such as those of Core ML where there is none: not run, and said so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from hubpub.errors import Problem, RecipeError
from hubpub.recipe import LoadedRecipe
from hubpub.recipe.model import Recipe


def not_here(recipe: Recipe, run: str) -> str | None:
    """Why a machine like this one cannot make a run, or one that it is compared with; None where it can."""
    for each in recipe.behind(run):
        if reason := recipe.measure[each].via.not_here():
            return reason if each == run else f"run {each} is compared with: {reason}"
    return None


def refuse_to_judge(loaded: LoadedRecipe, choices: Iterable[str], not_run: Mapping[str, str]) -> None:
    """Stop before anything is made where what cannot be measured here decides: missing, it would fail its gate.

    Args:
        loaded: the recipe.
        choices: those that have to be decided.
        not_run: why, by run.

    Raises:
        RecipeError: a gate, a choice or the check after publishing takes such a run.
    """
    recipe = loaded.recipe
    judged = ((("gates", index), gate.measure.partition("/")[0]) for index, gate in enumerate(recipe.gates))
    chosen = (
        (("choices", choice, "runs", index), run)
        for choice in choices
        for index, run in enumerate(recipe.choices[choice].runs)
    )
    loads = recipe.publish.load if recipe.publish else ()
    loaded_back = ((("publish", "load", index), run) for index, run in enumerate(loads))
    fix = "build it where it can run, or leave this out and measure the release there with `hubpub eval`"
    problems: list[Problem] = [
        loaded.document.problem(loc, f"run {run} is not run here: {not_run[run]}; {fix}")
        for loc, run in chain(judged, chosen, loaded_back)
        if run in not_run
    ]
    if problems:
        raise RecipeError(problems)


def notes(not_run: Mapping[str, str]) -> Iterator[str]:
    """What the user should know, a line for each reason."""
    for reason in dict.fromkeys(not_run.values()):
        yield f"not run: {reason}: {', '.join(run for run, why in not_run.items() if why == reason)}"

"""Which locked sources moved upstream, and whether a lock made now would change a byte of the release."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hubpub.build.pins import obey_lock
from hubpub.build.plan import Plan, make_plan
from hubpub.errors import SourceError
from hubpub.recipe import load_recipe
from hubpub.report import Silent
from hubpub.source import Sighting, SourceContext
from hubpub.store import Store

State = Literal["current", "newer", "moved", "yanked", "changed", "gone", "unknown"]
STATES: dict[State, str] = {
    "current": "as locked",
    "newer": "as locked; a newer version exists",
    "moved": "moved, the same bytes",
    "yanked": "yanked upstream, the same bytes",
    "changed": "moved, other bytes",
    "gone": "gone",
    "unknown": "cannot be asked",
}
"""Every state in words, from harmless to not known."""


@dataclass(frozen=True)
class Outlook:
    """What became of one source of a recipe since it was locked."""

    recipe: Path
    source: str
    label: str
    state: State
    locked: str
    """The revision in the lock."""
    now: str
    """The revision that a lock made now would hold, or the newer version; the locked one where that is not known."""
    files: tuple[str, ...] = ()
    """Files that the release is made from and that have other bytes now, or are gone."""
    why: str | None = None

    @property
    def changes(self) -> bool:
        """Whether a lock made now would hold other bytes for the release, or none."""
        return self.state in ("changed", "gone")


def outdated(recipes: Iterable[Path], store: Store) -> Iterator[Outlook]:
    """Ask for every source of ``recipes``, one cheap request each; reads locks, writes nothing.

    Raises:
        RecipeError: a recipe is not valid; before anything is asked, as the next one.
        LockError: a lock is missing, or does not answer its recipe.
    """
    plans = []
    for path in recipes:
        loaded = load_recipe(path)
        plans.append(make_plan(loaded, obey_lock(loaded, store, Silent(), locked=True)))
    for plan in plans:
        for name in plan.sources:
            yield _outlook(plan, name, store)


def _outlook(plan: Plan, name: str, store: Store) -> Outlook:
    spec, locked = plan.loaded.recipe.sources[name], plan.lock.sources[name]

    def say(state: State, now: str = locked.revision, files: tuple[str, ...] = (), why: str | None = None) -> Outlook:
        return Outlook(plan.loaded.path, name, spec.label, state, locked.revision, now, files, why)

    try:
        seen = spec.watch(locked, SourceContext(store, plan.loaded.folder))
    except SourceError as error:
        return say("unknown", why=str(error))
    if seen.gone:
        return say("gone", why=seen.gone)
    if files := _used(plan, name, seen):
        return say("changed", seen.revision, files)
    if seen.yanked:
        return say("yanked", seen.newer or seen.revision, why=seen.yanked)
    if seen.revision != locked.revision:
        return say("moved", seen.revision)
    return say("newer", seen.newer) if seen.newer else say("current")


def _used(plan: Plan, name: str, seen: Sighting) -> tuple[str, ...]:
    """The changed files that the release is made from; others may be locked too."""
    used = {ref.path for task in plan.tasks for _, ref in task.inputs if ref.origin == name}
    used |= {published.ref.path for published in plan.published if published.ref.origin == name}
    return tuple(path for path in seen.changed if path in used)

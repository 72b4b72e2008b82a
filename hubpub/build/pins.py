"""The lock file: resolving sources, and obeying what was resolved."""

from __future__ import annotations

from hubpub.errors import DigestMismatch, LockError
from hubpub.recipe import LoadedRecipe, Lock, lock_path, read_lock, write_lock
from hubpub.report import Reporter
from hubpub.source import LocalSource, LockedSource, SourceContext, SourceSpec
from hubpub.store import Store


def update_lock(loaded: LoadedRecipe, store: Store, reporter: Reporter) -> Lock:
    """Resolve every source anew and write the lock file."""
    return _resolve(loaded, list(loaded.recipe.sources), Lock(version=1, sources={}), store, reporter)


def obey_lock(loaded: LoadedRecipe, store: Store, reporter: Reporter, *, locked: bool) -> Lock:
    """The lock of a recipe; sources that it does not answer yet are resolved and written, unless ``locked``.

    So are those that a person supplies files for, when there are more than it lists.

    Raises:
        LockError: ``locked``, and the lock is missing or does not answer the recipe.
    """
    lock = read_lock(loaded.path)
    known = lock.sources if lock else {}
    context = SourceContext(store, loaded.folder)
    stale = [
        name
        for name, spec in loaded.recipe.sources.items()
        if name not in known or known[name].asked != spec.asked() or (not locked and _more(spec, known[name], context))
    ]
    if not stale and lock is not None:
        return Lock(version=1, sources={name: known[name] for name in loaded.recipe.sources})
    if locked:
        what = "is missing" if lock is None else f"does not answer the recipe for: {', '.join(stale)}"
        raise LockError(what, where=str(lock_path(loaded.path)), fix="run `hubpub lock` and look at what changed")
    return _resolve(loaded, stale, Lock(version=1, sources=known), store, reporter)


def check_local_files(loaded: LoadedRecipe, lock: Lock, store: Store) -> None:
    """Refuse local files that were edited since they were locked: their old bytes, kept in the store, would be used.

    Raises:
        DigestMismatch: naming the first one. (One that is gone is no problem as long as the store has it.)
    """
    for name, spec in loaded.recipe.sources.items():
        if isinstance(spec, LocalSource):
            for path, pin in lock.sources[name].files.items():
                file = loaded.folder / spec.path / path
                if file.is_file() and (found := store.digest(file)) != pin.digest:
                    raise DigestMismatch(f"{spec.path}/{path}", expected=pin.sha256, got=found.sha256)


def _more(spec: SourceSpec, locked: LockedSource, context: SourceContext) -> bool:
    """Whether files that a person has to supply arrived since."""
    return (
        isinstance(spec, LocalSource) and spec.supply is not None and bool(set(spec.present(context)) - {*locked.files})
    )


def _resolve(loaded: LoadedRecipe, names: list[str], old: Lock, store: Store, reporter: Reporter) -> Lock:
    context = SourceContext(store, loaded.folder)
    sources = {name: old.sources[name] for name in loaded.recipe.sources if name in old.sources}
    for name in names:
        spec = loaded.recipe.sources[name]
        reporter.start(name, f"resolve {spec.label}", None)
        sources[name] = spec.resolve(context)
        reporter.end(name, f"{sources[name].revision}, {len(sources[name].files)} files")
    lock = Lock(version=1, sources=dict(sorted(sources.items())))
    write_lock(loaded.path, lock)
    return lock

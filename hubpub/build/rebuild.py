"""What ``hubpub build`` is pointed at: a recipe, or a release that holds its own recipe, here or on the Hub."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from hubpub.errors import RecipeError, ReleaseError
from hubpub.manifest import MANIFEST, Manifest, read_manifest
from hubpub.recipe import load_recipe, unsafe_path
from hubpub.source import HubSource, LocalSource, SourceContext
from hubpub.store import Store
from hubpub.store.files import storage_errors

_REMOTE = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")
_RECIPE = "recipe/"


@contextlib.contextmanager
def recipe_of(where: str, store: Store) -> Iterator[tuple[Path, str, Manifest | None]]:
    """The recipe file that ``where`` names, the name of its release, and the release that it was found in.

    Raises:
        RecipeError: the recipe is not valid.
        ReleaseError: the release is damaged, holds no recipe, or cannot be built from itself.
        SourceError: the Hub does not have it.
    """
    if not where.startswith("hf://") and not Path(where).is_dir():
        yield Path(where), load_recipe(Path(where)).recipe.name, None
        return
    with store.scratch("rebuild") as folder:  # a copy: the release that is read may be the one that is replaced
        bring = _download if where.startswith("hf://") else _copy
        manifest = bring(where, folder, store)
        recipe = folder / manifest.recipe
        yield recipe, _check(manifest, recipe, where), manifest


def _copy(where: str, folder: Path, store: Store) -> Manifest:
    """What the manifest lists under ``recipe/``, and nothing that merely lies there."""
    release = Path(where)
    manifest = read_manifest(release)
    for path in _recorded(manifest, where):
        source, target = release / path, folder / path
        if not source.resolve().is_relative_to(release.resolve()) or not source.is_file():
            raise ReleaseError(f"{path} is missing", where=where)
        with storage_errors(f"copy {path}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if store.digest(target).sha256 != manifest.records[path].sha256:
            raise ReleaseError(f"{path} is not what the manifest records", where=where)
    return manifest


def release_source(where: str, *include: str) -> HubSource:
    """The files ``include`` of the release at ``hf://OWNER/REPO[@REVISION]``.

    Raises:
        ReleaseError: ``where`` is not such an address.
    """
    match = _REMOTE.fullmatch(where)
    try:
        if match is None:
            raise ValueError(where)
        return HubSource.model_validate(
            {"hub": match["repo"], "revision": match["revision"] or "main", "include": include}
        )
    except (ValueError, ValidationError) as error:
        raise ReleaseError("is not hf://OWNER/REPO or hf://OWNER/REPO@REVISION", where=where) from error


def _download(where: str, folder: Path, store: Store) -> Manifest:
    spec = release_source(where, MANIFEST, f"{_RECIPE}**")
    context = SourceContext(store, folder)
    locked = spec.resolve(context)
    spec.fetch(locked, list(locked.files), context, lambda _: None)
    store.place(locked.files[MANIFEST].digest, folder / MANIFEST)
    manifest = read_manifest(folder)
    for path in _recorded(manifest, where):
        pin = locked.files.get(path)
        if pin is None or pin.sha256 != manifest.records[path].sha256:
            raise ReleaseError(f"{path} is not what the manifest records", where=where)
        store.place(pin.digest, folder / path)
    return manifest


def _recorded(manifest: Manifest, where: str) -> list[str]:
    paths = [path for path in manifest.records if path.startswith(_RECIPE)]
    if bad := [path for path in paths if unsafe_path(path)]:
        raise ReleaseError(f"its manifest lists {bad[0]!r}, which {unsafe_path(bad[0])}", where=where)
    if manifest.recipe not in paths:
        raise ReleaseError("holds no recipe to build it again from", where=where)
    return paths


def _check(manifest: Manifest, recipe: Path, where: str) -> str:
    """The recipe's name, if the whole release can be built from what it holds."""
    if manifest.partial:
        fix = "build the whole recipe first"
        raise ReleaseError("is only a part of a release and does not hold all that it takes", where=where, fix=fix)
    try:
        loaded = load_recipe(recipe).recipe
    except RecipeError as error:  # named as the reader knows it, not by our copy
        shown = f"{where.rstrip('/')}/{manifest.recipe}"
        raise RecipeError([replace(problem, file=shown) for problem in error.problems]) from error
    if local := [
        f"{name} ({spec.path})"
        for name, spec in loaded.sources.items()
        if isinstance(spec, LocalSource) and (name not in manifest.sources or manifest.sources[name].files)
    ]:
        raise ReleaseError(
            f"cannot be built from itself: it was made from local folders, which no release holds: {', '.join(local)}",
            where=where,
            fix="use its recipe where these folders are: `hubpub build RECIPE`, or `hubpub eval … --recipe RECIPE`",
        )
    return loaded.name

"""What ``hubpub build`` is pointed at: a recipe, or a release that holds its own recipe, here or on the Hub."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from hubpub.errors import ReleaseError
from hubpub.manifest import MANIFEST, Manifest, read_manifest
from hubpub.recipe import load_recipe
from hubpub.source import HubSource, SourceContext
from hubpub.store import Store, sha256_of

_REMOTE = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")


@contextlib.contextmanager
def recipe_of(where: str, store: Store) -> Iterator[tuple[Path, str, Manifest | None]]:
    """The recipe file that ``where`` names, the name of its release, and the release that it was found in.

    Raises:
        RecipeError: the recipe is not valid.
        ReleaseError: the release is damaged, or holds no recipe.
        SourceError: the Hub does not have it.
    """
    if where.startswith("hf://"):
        match = _REMOTE.fullmatch(where)
        if match is None:
            raise ReleaseError("is not hf://OWNER/REPO or hf://OWNER/REPO@REVISION", where=where)
        with store.scratch("rebuild") as folder:
            _download(match["repo"], match["revision"] or "main", folder, store)
            yield _recipe_in(folder)
    elif Path(where).is_dir():
        with store.scratch("rebuild") as folder:  # the release that is read may be the one that is replaced
            shutil.copytree(Path(where) / "recipe", folder / "recipe") if (Path(where) / "recipe").is_dir() else None
            if (Path(where) / MANIFEST).is_file():
                shutil.copyfile(Path(where) / MANIFEST, folder / MANIFEST)
            yield _recipe_in(folder, shown=where)
    else:
        yield Path(where), load_recipe(Path(where)).recipe.name, None


def _download(repo: str, revision: str, folder: Path, store: Store) -> None:
    spec = HubSource.model_validate({"hub": repo, "revision": revision, "include": [MANIFEST, "recipe/**"]})
    context = SourceContext(store, folder)
    locked = spec.resolve(context)
    spec.fetch(locked, list(locked.files), context, lambda _: None)
    for path, pin in locked.files.items():
        store.place(pin.digest, folder / path)


def _recipe_in(folder: Path, shown: str | None = None) -> tuple[Path, str, Manifest]:
    manifest = read_manifest(folder)
    for path, record in manifest.records.items():
        if path.startswith("recipe/"):
            file = folder / path
            if ".." in Path(path).parts or not file.is_file() or sha256_of(file).sha256 != record.sha256:
                raise ReleaseError(f"{path} is not what the manifest records", where=shown or str(folder))
    recipe = folder / manifest.recipe
    if manifest.recipe not in manifest.records or not recipe.is_file():
        raise ReleaseError("holds no recipe to build it again from", where=shown or str(folder))
    return recipe, manifest.name, manifest

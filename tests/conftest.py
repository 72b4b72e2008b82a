"""Real weights and real speech for the tests: fetched once, by the recipes' own locks, through hubpub itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubpub.recipe import load_recipe, read_lock
from hubpub.source import SourceContext
from hubpub.store import Store, default_root

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "whisper-tiny.en.yaml"


@pytest.fixture(scope="session")
def shared_store() -> Store:
    """The user's own store: what is there is not fetched again. Tests that write use stores of their own."""
    return Store(default_root())


@pytest.fixture(scope="session")
def source_files(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every locked file of the Whisper recipe's sources, as ``<source>/<path>``."""
    loaded, lock = load_recipe(RECIPE), read_lock(RECIPE)
    assert lock is not None
    folder = tmp_path_factory.mktemp("sources")
    for name, locked in lock.sources.items():
        context = SourceContext(shared_store, loaded.folder)
        loaded.recipe.sources[name].fetch(locked, list(locked.files), context, lambda _: None)
        for path, pin in locked.files.items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(shared_store.path(pin.sha256), folder / name / path)
    return folder

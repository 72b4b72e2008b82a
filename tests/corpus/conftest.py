from __future__ import annotations

from pathlib import Path

import pytest

from hubpub.source import PypiSource, SourceContext
from hubpub.store import Store


@pytest.fixture(scope="session")
def pyannote(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test data of pyannote.audio, by hubpub's own fetching."""
    source = PypiSource.model_validate(
        {"pypi": "pyannote.audio", "version": "4.0.7", "dist": "sdist", "include": ["src/pyannote/audio/sample/*"]}
    )
    folder = tmp_path_factory.mktemp("pyannote")
    context = SourceContext(shared_store, folder)
    locked = source.resolve(context)
    source.fetch(locked, list(locked.files), context, lambda _: None)
    for path, pin in locked.files.items():
        (folder / Path(path).name).symlink_to(shared_store.path(pin.sha256))
    return folder

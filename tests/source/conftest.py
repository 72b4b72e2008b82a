"""A fresh store for every test, pip configured for it alone, and no real waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hubpub.source import SourceContext
from hubpub.store import Store


@pytest.fixture
def context(tmp_path: Path) -> Iterator[SourceContext]:
    folder = tmp_path / "recipes"
    folder.mkdir()
    with Store(tmp_path / "store") as store:
        yield SourceContext(store, folder)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a download would have waited between tries."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def pip_options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set pip's options for this test only, as its variables; nothing of the machine's configuration is left."""

    def use(**options: str) -> None:
        for name in list(os.environ):
            if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_RETRIES", "2")
        for name, value in options.items():
            monkeypatch.setenv(f"PIP_{name.upper()}", value)

    return use

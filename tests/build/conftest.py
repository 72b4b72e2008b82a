"""A toy project, built once for all tests that only look, copied for those that change something."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "source"))  # the loopback servers
sys.path.insert(0, str(Path(__file__).parents[1] / "measure"))  # made-up runs

from toy_fixtures import copied, finished, project, small, step, store

__all__ = ["copied", "finished", "pip_index", "project", "small", "step", "store"]


@pytest.fixture
def pip_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Make one package index the only one that pip is configured for."""

    def use(url: str) -> None:
        for name in list(os.environ):
            if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))

    return use

"""A Hub on loopback for each test, spoken to in both ways: Xet, which users have, and LFS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up import Stage, make_release

from hubpub.localhub import LocalHub


@pytest.fixture(params=["xet", "lfs"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with LocalHub(tmp_path / "hub") as hub:
        yield Stage(hub, tmp_path, xet=request.param == "xet", token=hub.token())


@pytest.fixture
def lfs_stage(tmp_path: Path) -> Iterator[Stage]:
    """For what does not depend on how contents travel."""
    with LocalHub(tmp_path / "hub") as hub:
        yield Stage(hub, tmp_path, xet=False, token=hub.token())


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return make_release(tmp_path / "release")

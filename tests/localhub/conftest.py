"""A Hub for each test, and a plain HTTP client for what the real one never sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hub_client import Ask

from hubpub.localhub import LocalHub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    """Small pages and small parts, so that few files and bytes reach paging and multipart."""
    with LocalHub(tmp_path / "hub", page_size=3, multipart_bytes=1 << 20) as running:
        yield running


@pytest.fixture
def ask(hub: LocalHub) -> Iterator[Ask]:
    """One plain request."""
    with httpx2.Client(base_url=hub.endpoint, timeout=30) as client:

        def send(method: str, path: str, *, token: str | None = None, **rest: object) -> httpx2.Response:
            headers = dict(rest.pop("headers", {}))  # type: ignore[call-overload]
            if token:
                headers["authorization"] = f"Bearer {token}"
            return client.request(method, path, headers=headers, **rest)  # type: ignore[arg-type]

        yield send


@pytest.fixture
def model(hub: LocalHub, tmp_path: Path) -> Path:
    """A folder that is seeded as ``tester/model``: a large and a small file, an empty one, an odd name."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.onnx").write_bytes(bytes(range(256)) * 20000)
    (folder / "config.json").write_text("{}")
    (folder / "empty").touch()
    (folder / "sub" / "ü ñ.txt").write_text("text")
    hub.seed("tester/model", folder, message="seeded", tag="v1")
    return folder

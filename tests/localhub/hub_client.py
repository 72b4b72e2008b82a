"""Runs pieces of code with the real client in a process of their own: it reads its settings when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx2

Ask = Callable[..., httpx2.Response]
"""``ask(method, path, token=…, …)``: one plain request."""

PRELUDE = """
import io, json, os, sys, warnings
from pathlib import Path
from huggingface_hub import *
from huggingface_hub.errors import *
api = HfApi()
def say(value): print(json.dumps(value), flush=True)
"""


class _Hub(Protocol):
    @property
    def endpoint(self) -> str: ...

    def same_token(self) -> str: ...


def client_environment(hub: _Hub, home: Path, *, xet: bool, token: str | None = None, **env: str) -> dict[str, str]:
    """The variables that a client of ``hub`` needs; ``token`` is by default one that may write, ``""`` is none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "GITHUB_"))}
    kept |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": hub.same_token() if token is None else token,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "PYTHONWARNINGS": "ignore",
    }
    return kept | env


def start_client(
    hub: _Hub, code: str, home: Path, *, xet: bool, token: str | None = None, **env: str
) -> subprocess.Popen[str]:
    """Start it and go on."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        env=client_environment(hub, home, xet=xet, token=token, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_client(
    hub: _Hub, code: str, *, xet: bool, token: str | None = None, timeout: float = 120, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` behind ``PRELUDE`` with a fresh HF_HOME; what it ``say``s is in ``stdout``, a JSON a line."""
    with tempfile.TemporaryDirectory() as home:
        process = start_client(hub, code, Path(home), xet=xet, token=token, **env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"the client did not end:\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)

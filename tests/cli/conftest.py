"""The toy project of the build's tests, and the command line in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "source"))
sys.path.insert(0, str(Path(__file__).parents[1] / "build"))

from toy_fixtures import copied, finished, project, store

__all__ = ["copied", "finished", "project", "run", "store"]


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Said]]:
    """Run the command line in this process, from an empty folder."""
    from hubpub.cli import main

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = signal.getsignal(signal.SIGINT)

    def call(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["hubpub", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return Said(code if isinstance(code, int) else 0, out, err)

    yield call
    signal.signal(signal.SIGINT, before)

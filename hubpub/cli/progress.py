"""How a build is shown: bars on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from hubpub.report import Reporter, Silent


@contextlib.contextmanager
def reporter(*, quiet: bool) -> Iterator[Reporter]:
    """The reporter that fits standard error."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        with Bars() as bars:
            yield bars
    else:
        yield Lines()


class Lines:
    """A line when something begins and a line when it ends, on standard error."""

    def __init__(self) -> None:
        self._started = 0.0

    def start(self, name: str, what: str, total: int | None) -> None:
        """Say what begins."""
        self._started = time.monotonic()
        print(f"{name}: {what}{_of(total)}", file=sys.stderr, flush=True)

    def advance(self, count: int) -> None:
        """Lines do not grow."""

    def end(self, name: str, outcome: str) -> None:
        """Say how it ended and how long it took."""
        print(f"{name}: {outcome}, {time.monotonic() - self._started:.1f} s", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Say it."""
        print(text, file=sys.stderr, flush=True)


class Bars:
    """A bar with bytes and time left for what runs; a line for what is done."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=24),
            DownloadColumn(table_column=Column(no_wrap=True, min_width=16)),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: object = None
        self._started = 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, name: str, what: str, total: int | None) -> None:
        """Show a bar."""
        self._started = time.monotonic()
        self._task = self._progress.add_task(f"{name}  {what}", total=total)

    def advance(self, count: int) -> None:
        """Let it grow."""
        self._progress.advance(self._task, count)  # type: ignore[arg-type]

    def end(self, name: str, outcome: str) -> None:
        """Replace it by a line."""
        self._progress.remove_task(self._task)  # type: ignore[arg-type]
        seconds = f"{time.monotonic() - self._started:.1f} s"
        self._console.print(f"✓ {name}  {outcome}  {seconds}", markup=False)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, markup=False)


def _of(total: int | None) -> str:
    from hubpub.cli.common import size

    return f", {size(total)}" if total else ""

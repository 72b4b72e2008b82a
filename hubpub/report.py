"""What a build tells whoever watches; `cli` shows it as bars, lines or JSON."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives the events of a build, in order, from one thread."""

    def start(self, name: str, what: str, total: int | None) -> None:
        """A piece of work begins; ``total`` bytes, if known."""

    def advance(self, count: int) -> None:
        """``count`` more bytes of it are done."""

    def end(self, name: str, outcome: str) -> None:
        """It is done: ``outcome`` is a few words, such as ``cached`` or a size."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Silent:
    """Tells nobody."""

    def start(self, name: str, what: str, total: int | None) -> None:
        """Ignore."""

    def advance(self, count: int) -> None:
        """Ignore."""

    def end(self, name: str, outcome: str) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


def counted(n: int, unit: str) -> str:
    """``1 word``, ``2 words``."""
    if n == 1:
        unit = unit.removesuffix("es") if unit.endswith("sses") else unit.removesuffix("s")
    return f"{n} {unit}"

"""Options that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hubpub.manifest import ChoiceRecord

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False, metavar="RECIPE")]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="Cache folder. Default: HUBPUB_CACHE, or the platform's cache folder.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Locked = Annotated[bool, typer.Option("--locked", help="Resolve nothing: fail if the lock file does not answer.")]
Only = Annotated[str | None, typer.Option(help="Only this published file.", metavar="FILE", show_default=False)]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Workers that share the clips of a run of which nothing is timed. Default: one for each thread of its "
        "client, one for a model of more than half a gigabyte.",
        show_default=False,
    ),
]
Variant = Annotated[str | None, typer.Option(help="Only this variant.", metavar="NAME", show_default=False)]


def print_json(data: Any) -> None:
    """One document on standard output."""
    typer.echo(json.dumps(data, indent=1, ensure_ascii=False))


def shown(path: Path) -> str:
    """``path`` from the working folder, where it lies below that."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def place(where: str) -> str:
    """A path that exists as it is; ``OWNER/REPO[@REVISION]``, with or without ``hf://``, as ``hf://…@REVISION``."""
    if Path(where).exists():
        return where
    from hubpub.publish.verify import remote_address

    address = remote_address(where)
    return f"hf://{address[0]}@{address[1]}" if address else where


def printable(text: str) -> str:
    """Without what could drive a terminal: a repo's file names may be a stranger's."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def size(count: int) -> str:
    """Bytes for people."""
    from hubpub.card.figures import size as written

    return written(count)


def choices_in_words(choices: Iterable[ChoiceRecord]) -> Iterator[str]:
    """A line for each candidate of each ladder or roster."""
    for choice in choices:
        for each in choice.candidates:
            size_of_all = f", {size(sum(file.size for file in each.files.values()))}" if each.files else ""
            yield printable(f"{choice.name}: {each.name}: {each.state}{size_of_all}: {each.reason}")

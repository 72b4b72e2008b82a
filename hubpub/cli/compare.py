"""``hubpub compare``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubpub.cli.common import AsJson, CacheFolder, Quiet, place, print_json, printable, size
from hubpub.report import counted

if TYPE_CHECKING:
    from hubpub.build.compare import Compared, FigureRow

_SIDE = "A release folder, its hubpub.json, an evaluation, or OWNER/REPO[@REVISION]."


def compare(
    old: Annotated[str, typer.Argument(help=_SIDE, show_default=False, metavar="A")],
    new: Annotated[str, typer.Argument(help="The same; differences are B less A.", show_default=False, metavar="B")],
    cache: CacheFolder = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put two releases or evaluations side by side: files and sizes, figures, and differences paired by utterance.

    Nothing is measured; a repo that hubpub did not publish is measured first by `hubpub eval`.

    Example: hubpub compare OWNER/REPO@v1.0 dist/whisper-tiny.en
    """
    from hubpub.build.compare import compare as compare_sides
    from hubpub.build.measured import open_measured
    from hubpub.store import Store, default_root

    with Store(cache or default_root()) as store, ExitStack() as stack:
        sides = [open_measured(place(where), store, stack) for where in (old, new)]
        found = compare_sides(*sides)
    if json:
        print_json(as_json(found))
    elif not quiet:
        show(found)


def show(found: Compared) -> None:
    """The tables that a person reads."""
    typer.echo(f"A: {printable(found.old)}\nB: {printable(found.new)}")
    totals = [sum(side or 0 for side in column) for column in zip(*((e.old, e.new) for e in found.files), strict=True)]
    if totals:
        rows: list[tuple[str, ...]] = [
            (printable(each.path), _size(each.old), _size(each.new), "same" if each.same else "")
            for each in found.files
            if not each.same
        ]
        equal = [each for each in found.files if each.same]
        if equal:
            rows.append(
                (
                    f"{counted(len(equal), 'files')}, the same bytes",
                    *[size(sum(each.new or 0 for each in equal))] * 2,
                    "",
                )
            )
        rows.append(("all", size(totals[0]), size(totals[1]), _percent(*totals)))
        _table(("file", "A", "B", ""), rows)
    figures = [(printable(each.key), _figure(each.old), _figure(each.new), _delta(each)) for each in found.figures]
    if figures:
        _table(("figure", "A", "B", "B − A, paired"), figures)
    if found.disagreements:
        differing = [(printable(each.run.removeprefix("B:")), _figure(each)) for each in found.disagreements]
        _table(("transcripts that differ", "of the words of A"), differing)


def as_json(found: Compared) -> dict[str, Any]:
    """The same for programs."""

    def brief(measured: Any) -> dict[str, Any] | None:
        keys = ("value", "low", "high", "unit", "n", "n_unit", "interval")
        return {key: getattr(measured, key) for key in keys} if measured else None

    return {
        "a": found.old,
        "b": found.new,
        "files": [vars(each) for each in found.files],
        "figures": [
            {
                "key": each.key,
                "a": brief(each.old),
                "b": brief(each.new),
                "delta": brief(each.delta),
                "note": each.note,
            }
            for each in found.figures
        ],
        "disagreements": {each.run.removeprefix("B:"): brief(each) for each in found.disagreements},
    }


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    typer.echo()


def _size(count: int | None) -> str:
    return "–" if count is None else size(count)


def _percent(old: int, new: int) -> str:
    return f"{100 * new / old:.1f} % of A" if old else ""


def _figure(measured: Any) -> str:
    from hubpub.card.figures import figure

    return figure(measured.model_dump()) if measured else "–"


def _delta(row: FigureRow) -> str:
    if row.delta is not None:
        return _figure(row.delta)
    return row.note or "" if row.old is not None and row.new is not None else ""

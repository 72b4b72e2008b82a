"""``hubpub diff``, and how differences are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubpub.cli.common import AsJson, print_json, printable, size
from hubpub.report import counted

if TYPE_CHECKING:
    from hubpub.publish.diff import Diff, FigureChange
    from hubpub.publish.publish import Comparison

Repo = Annotated[
    str | None,
    typer.Option(help="The repo, instead of the recipe's `publish.repo`.", metavar="OWNER/NAME", show_default=False),
]
Branch = Annotated[
    str | None, typer.Option(help="The branch, instead of the recipe's `publish.branch`.", show_default=False)
]

_MOST_ROWS = 30
"""Rows of a kind that are shown; `--json` has all."""


def diff(
    release: Annotated[Path, typer.Argument(help="A release folder.", show_default=False)],
    repo: Repo = None,
    branch: Branch = None,
    json: AsJson = False,
) -> None:
    """Show what publishing a release would change: files by hash, bytes to send, and the card's figures, old and new.

    Nothing but the published manifest is downloaded (and card and timings, where only these differ).

    Example: hubpub diff dist/whisper-tiny.en
    """
    from hubpub.cli.progress import Lines
    from hubpub.publish.publish import Options
    from hubpub.publish.publish import diff as compare

    comparison = compare(release, Options(repo=repo, branch=branch), Lines())
    if json:
        print_json(as_json(comparison))
    else:
        show(comparison)


def show(comparison: Comparison) -> None:
    """The table that a person reads."""
    spec, remote, found = comparison.spec, comparison.remote, comparison.diff
    place = f"{spec.repo} ({spec.branch})"
    release = f"{comparison.release.manifest.name} {comparison.release.short}"
    if remote.commit is None:
        typer.echo(f"{release} against {place}, which does not exist yet, or this login may not see it")
    elif not remote.branch_exists:
        typer.echo(f"{release} against main of {spec.repo} at {remote.commit[:12]}: {spec.branch} does not exist yet")
    else:
        typer.echo(f"{release} against {place} at {remote.commit[:12]}")
    if found.stands:
        timings = "; only timings differ" if len(found.same) < len(comparison.release.files) else ""
        typer.echo(f"nothing to publish: it holds this release{timings}")
        return
    _show_files(found)
    _show_figures(found.figures)


def _show_files(found: Diff) -> None:
    rows = [
        *(("added", each.path, size(each.new or 0), each.source) for each in found.added),
        *(("changed", each.path, _sizes(each.old or 0, each.new or 0), each.source) for each in found.changed),
        *(("removed", each.path, size(each.old or 0), None) for each in found.removed),
        *(("kept", each.path, size(each.old or 0), None) for each in found.kept),
    ]
    width = max((len(printable(row[1])) for row in rows), default=0)
    counts: dict[str, int] = {}
    for kind, path, sizes, source in rows:
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _MOST_ROWS:
            there = f", as {printable(source)} there" if source else ""
            typer.echo(f"  {kind:8} {printable(path):{width}}  {sizes}{there}")
    for kind, count in counts.items():
        if count > _MOST_ROWS:
            typer.echo(f"  {kind:8} and {count - _MOST_ROWS} more")
    if found.same:
        typer.echo(
            f"  {'same':8} {counted(len(found.same), 'files')}, {size(sum(each.new or 0 for each in found.same))}"
        )
    typer.echo(f"to send: at most {size(found.bytes_to_send)}")


def _sizes(old: int, new: int) -> str:
    return size(new) if old == new else f"{size(old)} → {size(new)}"


def _show_figures(figures: Sequence[FigureChange]) -> None:
    """Figures that are the same in each build first, then timings, each as old → new; those of parts are counted."""
    for observed, title in ((False, "figures"), (True, "timings and memory")):
        chosen = [each for each in figures if each.observed == observed and not each.partial]
        width = max((len(printable(each.key)) for each in chosen), default=0)
        if chosen:
            typer.echo(f"{title}:")
        for each in chosen[:_MOST_ROWS]:
            old, new = (_figure(measured) for measured in (each.old, each.new))
            typer.echo(f"  {printable(each.key):{width}}  {old} → {new}")
        if len(chosen) > _MOST_ROWS:
            typer.echo(f"  and {len(chosen) - _MOST_ROWS} more")
    if parts := sum(each.partial for each in figures):
        typer.echo(f"  and {parts} figures of single clips or parts: see --json")


def _figure(measured: Any) -> str:
    from hubpub.card.figures import figure

    return figure(measured.model_dump()) if measured else "none"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The same for programs."""
    spec, remote, found = comparison.spec, comparison.remote, comparison.diff

    def rows(changes: Iterable[Any]) -> list[dict[str, Any]]:
        return [{"path": each.path, "old": each.old, "new": each.new, "sends": each.sends} for each in changes]

    def brief(measured: Any) -> dict[str, Any] | None:
        keys = ("value", "low", "high", "unit", "n", "n_unit")
        return {key: getattr(measured, key) for key in keys} if measured else None

    return {
        "release": str(comparison.release.folder),
        "digest": comparison.release.manifest.digest,
        "repo": spec.repo,
        "branch": spec.branch,
        "head": remote.commit,
        "branch_exists": remote.branch_exists,
        "stands": found.stands,
        "added": rows(found.added),
        "changed": rows(found.changed),
        "removed": rows(found.removed),
        "kept": rows(found.kept),
        "same": rows(found.same),
        "bytes_to_send": found.bytes_to_send,
        "figures": [
            {"key": each.key, "observed": each.observed, "old": brief(each.old), "new": brief(each.new)}
            for each in found.figures
        ],
    }

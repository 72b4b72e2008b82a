"""``hubpub outdated``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubpub.cli.common import AsJson, CacheFolder, Quiet, print_json

if TYPE_CHECKING:
    from hubpub.build.outdated import Outlook

CHANGES = 5
"""Exit code when a lock made now would change a byte."""


def outdated(
    recipes: Annotated[
        list[Path] | None,
        typer.Argument(help="Recipes. Default: all of recipes/*.yaml.", metavar="[RECIPE]...", show_default=False),
    ] = None,
    cache: CacheFolder = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Ask which locked sources moved upstream, and whether that would change a byte; changes nothing.

    Exit code 0: a lock made now would give the same bytes. 5: it would give others, or a source is gone. 1: a source
    could not be asked.

    Example: hubpub outdated recipes/whisper-tiny.en.yaml
    """
    from hubpub.build.outdated import STATES
    from hubpub.build.outdated import outdated as ask
    from hubpub.errors import HubpubError
    from hubpub.store import Store, default_root

    paths = recipes or sorted(Path("recipes").glob("*.yaml"))
    if not paths:
        raise HubpubError("there is no recipe in recipes/", fix="name one")
    with Store(cache or default_root()) as store:
        found: list[Outlook] = []
        for each in ask(paths, store):
            if not (json or quiet):
                if not found or found[-1].recipe != each.recipe:
                    typer.echo(f"{each.recipe}:")
                typer.echo(f"  {each.source:16} {STATES[each.state]:35} {each.label}{_more(each)}")
            elif quiet and each.state == "unknown":
                typer.echo(f"{each.recipe}: {each.source}: {each.why}", err=True)
            found.append(each)
    code = (
        1 if any(each.state == "unknown" for each in found) else CHANGES if any(each.changes for each in found) else 0
    )
    if json:
        print_json(
            {
                "exit_code": code,
                "sources": [
                    {
                        "recipe": str(each.recipe),
                        "source": each.source,
                        "name": each.label,
                        "state": each.state,
                        "changes": each.changes,
                        "locked": each.locked,
                        "now": each.now,
                        "files": each.files,
                        "why": each.why,
                    }
                    for each in found
                ],
            }
        )
    raise typer.Exit(code)


def _more(each: Outlook) -> str:
    revisions = f"{_short(each.locked)} → {_short(each.now)}" if each.now != each.locked else ""
    return "".join(f": {part}" for part in (revisions, ", ".join(each.files), each.why) if part)


def _short(revision: str) -> str:
    """A commit or digest in twelve characters, a version as it is."""
    digits = revision.removeprefix("sha256:")
    return digits[:12] if len(digits) >= 40 else revision

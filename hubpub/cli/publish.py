"""``hubpub publish``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubpub.cli.common import AsJson, Quiet, print_json, shown
from hubpub.cli.diff import Branch, Repo, as_json, show
from hubpub.report import counted

if TYPE_CHECKING:
    from hubpub.publish.publish import Published


def publish(
    release: Annotated[
        Path | None,
        typer.Argument(help="A release folder. Default: the one in dist/ that was finished last.", show_default=False),
    ] = None,
    repo: Repo = None,
    branch: Branch = None,
    pull_request: Annotated[bool, typer.Option("--pr", help="Open a pull request instead of committing.")] = False,
    tag: Annotated[
        str | None, typer.Option(help="Tag for the commit, instead of the recipe's `publish.tag`.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    provisional: Annotated[bool, typer.Option("--provisional", help="Publish provisional artifacts too.")] = False,
    rediff: Annotated[
        bool, typer.Option("--rediff", help="Compare anew, up to three times, when somebody else moves the branch.")
    ] = False,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="First line of the commit.", show_default=False)
    ] = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a repo on the Hub equal to a release, in one commit, and verify every file of it; or change nothing.

    The token comes from HF_TOKEN, from `hf auth login`, or from trusted publishing (HF_OIDC_RESOURCE).
    Exit code 3: the release must not be published; 4: somebody else moved the branch.

    Example: hubpub publish dist/whisper-tiny.en --dry-run
    """
    from hubpub.build.last import last_release
    from hubpub.cli.progress import Lines
    from hubpub.publish.publish import Options
    from hubpub.publish.publish import publish as run
    from hubpub.report import Silent

    silent = quiet or json
    folder = release or last_release(Path("dist"))
    if release is None and not silent:
        typer.echo(f"release: {shown(folder.resolve())}")
    options = Options(
        repo=repo,
        branch=branch,
        tag=tag,
        pull_request=pull_request,
        dry_run=dry_run,
        provisional=provisional,
        rediff=rediff,
        message=message,
        bars=sys.stderr.isatty() and not silent,
    )
    done = run(folder, options, Silent() if silent else Lines(), compared=None if silent else show)
    if json:
        print_json(_as_json(done, dry_run=dry_run))
    elif not quiet:
        for line in _outcome(done, dry_run=dry_run):
            typer.echo(line)


def _outcome(done: Published, *, dry_run: bool) -> list[str]:
    """The last lines: where it is, and what was verified."""
    if dry_run:
        return ["dry run: nothing was changed"]
    lines = [*done.loaded]
    if done.opened:
        state = "holds this release already" if done.opened.found else "opened"
        lines.append(f"pull request {state}: {done.opened.url}, {counted(done.verified, 'files')} verified by hash")
    elif done.landed:
        how = "found published, its answer had been lost" if done.landed.recognised else "published"
        lines.append(f"{how}: {done.landed.url}, {counted(done.verified, 'files')} verified by hash")
    if done.tagged:
        lines.append(f"tag: {done.tagged}")
    return lines


def _as_json(done: Published, *, dry_run: bool) -> dict[str, object]:
    opened, landed = done.opened, done.landed
    state = "dry-run" if dry_run else "pull-request" if opened else "published" if landed else "unchanged"
    return {
        "ok": True,
        "state": state,
        "commit": opened.commit if opened else landed.commit if landed else done.comparison.remote.commit,
        "url": opened.url if opened else landed.url if landed else None,
        "pull_request": opened.number if opened else None,
        "recognised": bool(landed and landed.recognised),
        "verified": done.verified,
        "loaded": list(done.loaded),
        "tag": done.tagged,
        "diff": as_json(done.comparison),
    }

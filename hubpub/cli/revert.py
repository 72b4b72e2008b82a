"""``hubpub revert``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hubpub.cli.common import AsJson, Quiet, print_json, printable
from hubpub.report import counted


def revert(
    repo: Annotated[str, typer.Argument(help="The repo.", metavar="OWNER/NAME", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(
            help="Commit, tag or branch to go back to. Default: the newest commit with other files than the head.",
            metavar="REVISION",
            show_default=False,
        ),
    ] = None,
    branch: Annotated[str, typer.Option(help="The branch that is changed.")] = "main",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Bring back the files of an earlier commit of a repo, in one new commit; large files are not sent again.

    Exit code 4: somebody else moved the branch.

    Example: hubpub revert owner/name --to v1 --dry-run
    """
    from hubpub.cli.progress import Lines
    from hubpub.publish.revert import revert as run
    from hubpub.report import Silent

    done = run(repo, Silent() if quiet or json else Lines(), to=to, branch=branch, dry_run=dry_run)
    if json:
        print_json({"ok": True, **asdict(done)})
    elif not quiet:
        typer.echo(f"{repo} ({branch}) from {done.before[:12]} to {done.to[:12]} {printable(done.title)}".rstrip())
        for kind, paths in (("restored", done.restored), ("removed", done.removed)):
            for path in paths:
                typer.echo(f"  {kind:8} {printable(path)}")
        if not (done.restored or done.removed):
            typer.echo("nothing to do: the files are equal")
        elif dry_run:
            typer.echo("dry run: nothing was changed")
        else:
            typer.echo(f"reverted: {done.url}, {counted(done.verified, 'files')} verified by hash")

"""``hubpub hub``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hubpub.cli.common import AsJson, Quiet, print_json

app = typer.Typer(help="Run a Hub on loopback, to rehearse publishing and loading.", no_args_is_help=True)

Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the Hub. Default: HUBPUB_HUB, or a folder in the platform's folder for data.",
        show_default=False,
    ),
]


class RepoType(StrEnum):
    """Kinds of repo."""

    model = "model"
    dataset = "dataset"


@app.command()
def serve(
    root: Root = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 0,
    xet: Annotated[bool, typer.Option(" /--no-xet", help="Speak LFS only.", show_default=False)] = True,
    json: AsJson = False,
) -> None:
    """Serve the Hub until Ctrl-C; it prints the variables that a client needs.

    Example: hubpub hub serve --port 5555
    """
    import signal

    from hubpub.localhub import LocalHub
    from hubpub.localhub.roots import default_root

    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # they wait until sigwait asks for them
    with LocalHub(root or default_root(), port=port, xet=xet) as hub:
        token = hub.same_token()
        if json:
            tokens = {"token": token, "read_token": hub.same_token("read"), "admin": hub.admin}
            print_json({"endpoint": hub.endpoint, **tokens})
        else:
            typer.echo(f"export HF_ENDPOINT={hub.endpoint} HF_TOKEN={token}")
            typer.echo(f"# a token that only reads: HF_TOKEN={hub.same_token('read')}")
            typer.echo("# Ctrl-C ends it")
        signal.sigwait(ends)


@app.command()
def seed(
    folder: Annotated[Path, typer.Argument(help="The files of the repo.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME", show_default=False)],
    root: Root = None,
    type: Annotated[RepoType, typer.Option(help="Kind of repo.")] = RepoType.model,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Seed",
    tag: Annotated[str | None, typer.Option(help="A tag for the commit.", show_default=False)] = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put a folder under a repo id of the Hub, by one commit; again, for the next commit of its history.

    Example: hubpub hub seed dist/whisper-tiny.en me/whisper-tiny.en-onnx --tag v1
    """
    from hubpub.localhub.roots import default_root
    from hubpub.localhub.seed import seed_root

    commit = seed_root(root or default_root(), repo, folder, repo_type=type.value, message=message, tag=tag)
    if json:
        print_json({"repo": repo, "commit": commit})
    elif not quiet:
        typer.echo(f"{repo}: commit {commit}")

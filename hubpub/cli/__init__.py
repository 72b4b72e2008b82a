"""The command line: one small file per verb, each parses, calls one function, and prints."""

from __future__ import annotations

import os
import re
import signal
import sys

import typer

from hubpub import __version__
from hubpub.cli import (
    build,
    cache,
    check,
    compare,
    diff,
    evaluate,
    hub,
    lock,
    outdated,
    plan,
    publish,
    revert,
    schema,
    verify,
)
from hubpub.cli.common import print_json
from hubpub.errors import HubpubError

app = typer.Typer(
    name="hubpub",
    help="Build, measure and release model repos for the Hugging Face Hub, from one recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich takes longer to import than everything else together
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hubpub {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Build, measure and release model repos for the Hugging Face Hub, from one recipe."""


app.command("check")(check.check)
app.command("plan")(plan.plan)
app.command("lock")(lock.lock)
app.command("outdated")(outdated.outdated)
app.command("build")(build.build)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("diff")(diff.diff)
app.command("publish")(publish.publish)
app.command("revert")(revert.revert)
app.command("verify")(verify.verify)
app.command("schema")(schema.schema)
app.add_typer(cache.app, name="cache")
app.add_typer(hub.app, name="hub")


class _InterruptedError(BaseException):
    """Ctrl-C. Not KeyboardInterrupt: typer catches that and ends without a word."""


def main() -> None:
    """Entry point: errors become one clear line each on stderr, and the exit code says which kind."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime 1.31 reports usage, and leaves a file in TMPDIR
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except HubpubError as error:
        lines = [_printable(line) for line in str(error).splitlines()]
        for line in lines:
            print(f"hubpub: {line}", file=sys.stderr)
        if "--json" in sys.argv:
            print_json({"ok": False, "exit_code": error.exit_code, "errors": lines})
        sys.exit(error.exit_code)
    except _InterruptedError:
        print("hubpub: interrupted; what was done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone
        sys.exit(141)
    except OSError as error:  # standard output that cannot be written
        where = f"{error.filename}: " if error.filename else ""
        print(f"hubpub: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)


def _interrupt(_number: int, _frame: object) -> None:
    raise _InterruptedError


def _printable(line: str) -> str:
    """Without what could drive a terminal: messages quote what scripts print and how strangers name their files."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in plain)

"""``hubpub eval``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from hubpub.cli.common import AsJson, CacheFolder, Jobs, Locked, Quiet, place, print_json, printable, shown
from hubpub.cli.progress import reporter


def evaluate(
    release: Annotated[
        str,
        typer.Argument(
            help="A folder of published files, or OWNER/REPO[@REVISION] on the Hub.",
            show_default=False,
            metavar="RELEASE",
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Whose measurements are made: a recipe, or another release. Default: the release's own recipe.",
            show_default=False,
        ),
    ] = None,
    locked: Locked = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for the figures. Default: evaluations/<release>.", show_default=False
        ),
    ] = None,
    jobs: Jobs = None,
    cache: CacheFolder = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe's measurements on what is built or published already, for `hubpub compare` to put side by side.

    Exit code 3: a budget was missed; the figures are written all the same.

    Example: hubpub eval me/tiny@v1 --recipe recipes/whisper-tiny.en.yaml
    """
    from hubpub.build.evaluate import evaluate as run_evaluation
    from hubpub.build.rebuild import recipe_of
    from hubpub.card.figures import figure
    from hubpub.errors import GateError
    from hubpub.store import Store, default_root

    where = place(release)
    with (
        Store(cache or default_root()) as store,
        reporter(quiet=quiet or json) as report,
        recipe_of(place(recipe) if recipe else where, store) as (path, _, own),
    ):
        folder = output or Path("evaluations") / re.sub(r"[^\w.@-]+", "-", release.removeprefix("hf://")).strip("-.")
        done = run_evaluation(where, path, store, report, output=folder, locked=locked or own is not None, jobs=jobs)
    found = done.evaluation
    missed = found.missed()
    if json:
        print_json(
            {
                "evaluation": str(done.folder),
                "of": found.of,
                "ran": done.ran,
                "left_out": found.left_out,
                "figures": [
                    {key: getattr(each, key) for key in ("run", "metric", "against", "subset", "value", "low", "high")}
                    for each in found.measurements
                ],
                "budgets": [
                    {"budget": str(each.gate), "passed": each.passed, "why": each.reason} for each in found.verdicts
                ],
            }
        )
    elif not quiet:
        typer.echo(f"{printable(found.of)}, measured as {printable(found.name)} says")
        for each in found.measurements:
            if each.subset is None:
                less = f" − {each.against}" if each.against else ""
                typer.echo(f"  {printable(each.key + less)}: {figure(each.model_dump())}, n = {each.n} {each.n_unit}")
        for run, reason in found.left_out.items():
            typer.echo(f"  {printable(run)}: not measured: {printable(reason)}")
        for verdict in (verdict for verdict in found.verdicts if verdict.passed):
            typer.echo(f"budget met: {printable(str(verdict.gate))}: {verdict.reason}")
        typer.echo(f"written: {shown(done.folder.resolve())}")
    if missed and json:
        raise typer.Exit(GateError.exit_code)
    if missed:
        raise GateError("\n".join(missed))

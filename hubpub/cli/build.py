"""``hubpub build``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubpub.cli.common import (
    AsJson,
    CacheFolder,
    Jobs,
    Locked,
    Only,
    Quiet,
    Variant,
    choices_in_words,
    print_json,
    shown,
    size,
)
from hubpub.cli.progress import reporter
from hubpub.report import counted


def build(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe, a release folder, or hf://OWNER/REPO[@REVISION]: a release is built again from itself.",
            show_default=False,
            metavar="RECIPE",
        ),
    ],
    only: Only = None,
    variant: Variant = None,
    locked: Locked = False,
    published: Annotated[
        bool, typer.Option("--published", help="Take every step with the same key from the release that is published.")
    ] = False,
    reuse: Annotated[
        str | None,
        typer.Option(
            help="The same, from this release: a folder, or hf://OWNER/REPO[@REVISION].",
            metavar="RELEASE",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Release folder. Default: dist/<name of the recipe>.", show_default=False),
    ] = None,
    jobs: Jobs = None,
    cache: CacheFolder = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build the release of a recipe: fetch, transform, measure, judge, and leave a finished folder.

    Exit code 3: a budget was missed, and no release was made.

    Example: hubpub build recipes/whisper-tiny.en.yaml
    """
    from hubpub.build import build as run_build
    from hubpub.build.rebuild import recipe_of
    from hubpub.store import Store, default_root

    with (
        Store(cache or default_root()) as store,
        reporter(quiet=quiet or json) as report,
        recipe_of(recipe, store) as (path, name, release),
    ):
        built = run_build(
            path,
            store,
            report,
            output=output or Path("dist") / name,
            locked=locked or release is not None,
            only=only,
            variant=variant,
            published=published,
            reuse=reuse,
            jobs=jobs,
        )
    verdicts = built.manifest.all_verdicts()
    same = None if release is None or built.manifest.partial else release.digest == built.manifest.digest
    if json:
        print_json(
            {
                "release": str(built.folder),
                "digest": built.manifest.digest,
                "unchanged": built.unchanged,
                "same_as_release": same,
                "ran": built.ran,
                "cached": built.cached,
                "published": built.published,
                "bytes_fetched": built.bytes_fetched,
                "files": {path: file.size for path, file in built.manifest.files.items()},
                "choices": {choice.name: choice.chosen for choice in built.manifest.choices},
                "not_run": built.manifest.not_run,
                "budgets": [{"budget": str(each.gate), "passed": each.passed, "why": each.reason} for each in verdicts],
            }
        )
    elif not quiet:
        for line in choices_in_words(built.manifest.choices):
            typer.echo(line)
        for each in verdicts:
            typer.echo(f"budget met: {each.gate}: {each.reason}")
        state = "unchanged" if built.unchanged else "finished"
        total = sum(file.size for file in built.manifest.files.values())
        taken = f", {len(built.published)} of them as published" if built.published else ""
        typer.echo(
            f"{state}: {shown(built.folder)}, {counted(len(built.manifest.files), 'files')}, {size(total)}; "
            f"{counted(len(built.ran), 'steps')} run, {len(built.cached)} cached{taken}, "
            f"{size(built.bytes_fetched)} fetched"
        )
        if same is not None:
            typer.echo("the same content as the release" if same else "NOT the same content as the release")

"""``hubpub lock``."""

from __future__ import annotations

import typer

from hubpub.cli.common import AsJson, CacheFolder, Quiet, RecipePath, print_json
from hubpub.cli.progress import reporter
from hubpub.report import counted


def lock(recipe: RecipePath, cache: CacheFolder = None, json: AsJson = False, quiet: Quiet = False) -> None:
    """Resolve every source of a recipe anew and write its lock file.

    Example: hubpub lock recipes/whisper-tiny.en.yaml
    """
    from hubpub.build import lock as make_lock
    from hubpub.recipe import lock_path
    from hubpub.store import Store, default_root

    with Store(cache or default_root()) as store, reporter(quiet=quiet or json) as report:
        made = make_lock(recipe, store, report)
    if json:
        print_json({"lock": str(lock_path(recipe)), "sources": made.model_dump(mode="json")["sources"]})
    elif not quiet:
        for name, source in made.sources.items():
            typer.echo(f"{name}: {source.name} {source.revision}, {counted(len(source.files), 'files')}")
        typer.echo(f"wrote {lock_path(recipe)}")

"""``hubpub check``."""

from __future__ import annotations

import typer

from hubpub.cli.common import AsJson, Quiet, RecipePath, print_json


def check(recipe: RecipePath, json: AsJson = False, quiet: Quiet = False) -> None:
    """Check a recipe, and say everything that is wrong with it.

    Example: hubpub check recipes/whisper-tiny.en.yaml
    """
    from hubpub.errors import RecipeError
    from hubpub.recipe import load_recipe

    try:
        loaded = load_recipe(recipe)
    except RecipeError as error:
        if json:
            print_json({"ok": False, "problems": [vars(problem) for problem in error.problems]})
            raise typer.Exit(error.exit_code) from error
        raise
    counts = {
        "sources": len(loaded.recipe.sources),
        "files": len(loaded.recipe.paths),
        "runs": len(loaded.recipe.measure),
        "gates": len(loaded.recipe.gates),
    }
    if json:
        print_json({"ok": True, "name": loaded.recipe.name, **counts})
    elif not quiet:
        typer.echo(f"{recipe}: ok ({', '.join(f'{count} {what}' for what, count in counts.items())})")

"""``hubpub schema``."""

from __future__ import annotations

from hubpub.cli.common import print_json


def schema() -> None:
    """Print the JSON Schema of recipes, so that editors complete and check them.

    Example: hubpub schema > recipe.schema.json
    """
    from hubpub.recipe import recipe_schema

    print_json(recipe_schema())

"""From a YAML file to a checked recipe; every problem found is reported, with its place and a suggestion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hubpub.errors import RecipeError, nearest
from hubpub.recipe.check import check
from hubpub.recipe.document import Document, Loc, dotted, read_document
from hubpub.recipe.model import Recipe
from hubpub.recipe.variants import expand


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that passed all checks that need no bytes of its sources."""

    recipe: Recipe
    path: Path
    document: Document
    owners: dict[str, dict[str, tuple[str, ...]]]
    """Section → entry → the variants that it belongs to; empty where there are no variants."""

    @property
    def folder(self) -> Path:
        """The folder that every path in the recipe is relative to, and may not leave."""
        return self.path.parent

    @property
    def sha256(self) -> str:
        """Digest of the recipe file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def where(self, *loc: str | int) -> str:
        """``file:line:column: field`` of a value, for errors found later."""
        line, column = self.document.place(loc)
        return f"{self.path}:{line}:{column}: {dotted(loc)}"


def load_recipe(path: Path) -> LoadedRecipe:
    """Read, expand and check the recipe at ``path``.

    Raises:
        RecipeError: with every problem that was found.
    """
    document, owners = expand(read_document(path))
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        problems = [document.problem(*_explain(details)) for details in error.errors(include_url=False)]
        raise RecipeError(sorted(set(problems), key=lambda problem: (problem.line, problem.column))) from error
    problems = check(recipe, document, path.parent)
    if problems:
        raise RecipeError(problems)
    return LoadedRecipe(recipe, path, document, owners)


def _explain(details: ErrorDetails) -> tuple[Loc, str]:
    """Place and message of one pydantic error, in words that need no pydantic."""
    loc, schema = _follow([part for part in details["loc"] if part != "[key]"])
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        known = sorted(_properties(schema))
        suggestion = nearest(str(loc[-1]), known) or f"; known here: {', '.join(known)}"
        return loc, f"unknown key{suggestion}"
    if kind == "missing":
        return loc, "is missing"
    if kind == "string_type" and isinstance(value, int | float):
        return loc, f"must be text: put it in quotes, '{value}'"
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        expected = details.get("ctx", {}).get("expected") or details.get("ctx", {}).get("expected_tags", "")
        words = [word.strip(" '") for word in str(expected).replace(" or ", ", ").split(",")]
        tag = details.get("ctx", {}).get("tag", value)
        return loc, f"{tag!r} is not one of {', '.join(words)}{nearest(str(tag), words)}"
    if kind == "union_tag_not_found":
        return loc, f"the key {details.get('ctx', {}).get('discriminator', '')} is missing: it says which kind this is"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    shown = (
        "" if isinstance(value, dict | list) or value is None or kind.startswith("value_error") else f", got {value!r}"
    )
    return loc, message[:1].lower() + message[1:] + shown[:100]


@cache
def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe."""
    schema = Recipe.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hubpub recipe", **schema}


def _follow(loc: Sequence[str | int]) -> tuple[Loc, list[dict[str, Any]]]:
    """Drop from pydantic's location the names of union branches, which the recipe does not contain.

    Returns:
        The location in the recipe, and the schemas of the value that holds its last part.
    """
    schemas = [recipe_schema()]
    kept: list[str | int] = []
    holder = schemas
    for index, part in enumerate(loc):
        below = [step for schema in _branches(schemas) for step in _descend(schema, part)]
        if below or index == len(loc) - 1:
            kept.append(part)
            holder, schemas = schemas, below
    return tuple(kept), holder


def _branches(schemas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Resolve references and unions."""
    found: list[dict[str, Any]] = []
    for schema in schemas:
        if "$ref" in schema:
            found += _branches([recipe_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]]])
        elif "anyOf" in schema or "oneOf" in schema:
            found += _branches([*schema.get("anyOf", []), *schema.get("oneOf", [])])
        else:
            found.append(schema)
    return found


def _descend(schema: dict[str, Any], part: str | int) -> list[dict[str, Any]]:
    if isinstance(part, int):
        items = schema.get("items") or (schema.get("prefixItems", []) + [None] * (part + 1))[part]
        return [items] if isinstance(items, dict) else []
    if part in schema.get("properties", {}):
        return [schema["properties"][part]]
    keyed = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
    return [value for value in keyed if isinstance(value, dict)]


def _properties(schemas: list[dict[str, Any]]) -> set[str]:
    return {name for schema in _branches(schemas) for name in schema.get("properties", {})}

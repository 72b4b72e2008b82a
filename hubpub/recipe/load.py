"""From a YAML file to a checked recipe; every problem found is reported, with its place and a suggestion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hubpub.errors import Problem, RecipeError, nearest
from hubpub.recipe.check import check
from hubpub.recipe.document import Document, Loc, dotted, read_document
from hubpub.recipe.model import PATTERNS, Recipe
from hubpub.recipe.schema import branches, descend, properties, recipe_schema
from hubpub.recipe.variants import expand, report


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
        recipe = _validate(document)
    except ValidationError as error:
        raise RecipeError(_problems(error, document)) from error
    problems = check(recipe, document, path.parent)
    if problems:
        raise RecipeError(problems)
    return LoadedRecipe(recipe, path, document, owners)


def _validate(document: Document) -> Recipe:
    """Build the models; a number that came from a lone placeholder becomes text where text is wanted."""
    try:
        return Recipe.model_validate(document.data)
    except ValidationError as error:
        wanted = [_follow(details["loc"], document.data)[0] for details in error.errors() if _wants_text(details)]
        if not document.lone.intersection(wanted):
            raise
        for loc in document.lone.intersection(wanted):
            holder = document.data
            for part in loc[:-1]:
                holder = holder[part]
            holder[loc[-1]] = document.written[loc]
        return Recipe.model_validate(document.data)


def _wants_text(details: ErrorDetails) -> bool:
    return details["type"] == "string_type"


def _problems(error: ValidationError, document: Document) -> list[Problem]:
    explained = [_explain(details, document) for details in error.errors(include_url=False)]
    # pydantic counts the valid entries only, so a list of bad ones is also called too short.
    deeper = {loc[:length] for loc, _, _ in explained for length in range(len(loc))}
    return report(document, ((loc, said) for loc, kind, said in explained if kind != "too_short" or loc not in deeper))


def _explain(details: ErrorDetails, document: Document) -> tuple[Loc, str, str]:
    """Place, kind and message of one pydantic error, in words that need no pydantic."""
    loc, known = _follow(details["loc"], document.data)
    return loc, details["type"], _say(details, loc, known, document)


def _say(details: ErrorDetails, loc: Loc, known: set[str], document: Document) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return "unknown key" + (nearest(str(loc[-1]), known) or f"; known here: {', '.join(sorted(known))}")
        case "missing":
            return "is missing"
        case "string_type" if value is None:
            return "must be text, and nothing stands here"
        case "string_type" if isinstance(value, int | float):
            return f"must be text: put it in quotes, '{document.written.get(loc, value)}'"
        case "string_type":
            return "must be text"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a mapping (`key: value`)"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "too_short" | "too_long":
            bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
            return f"must have {bound} entries"
        case "string_pattern_mismatch" if context.get("pattern") in PATTERNS:
            return f"{value!r} is not {PATTERNS[context['pattern']]}"
        case "literal_error" | "enum" | "union_tag_invalid":
            expected = str(context.get("expected", context.get("expected_tags")))
            words = [word.strip(" '") for word in expected.replace(" or ", ", ").split(",")]
            chosen = str(context.get("tag", value))
            return f"{chosen!r} is not one of {', '.join(words)}{nearest(chosen, words)}"
        case "union_tag_not_found":
            return f"the key {context.get('discriminator', '')} is missing: it says which kind this is"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if isinstance(value, str | int | float) and kind not in ("value_error", "clip", "source_kind"):
        message += f", got {str(document.written.get(loc, repr(value)))[:100]}"
    return message[:1].lower() + message[1:]


def _follow(loc: Sequence[str | int], data: Any) -> tuple[Loc, set[str]]:
    """Drop from pydantic's location what is not in the recipe: the names of union members, and its mark of a key.

    Returns:
        The location in the recipe, and the keys that the schema knows beside its last part.
    """
    schemas: list[dict[str, Any]] = [recipe_schema()]
    kept: list[str | int] = []
    known: set[str] = set()
    for index, part in enumerate(loc):
        here = branches(schemas, data)
        held = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if held or (index == len(loc) - 1 and part in properties(here)):
            kept.append(part)
            known = properties(here)
            schemas = descend(here, part)
            inside = isinstance(data, dict) or (isinstance(data, list) and isinstance(part, int) and part < len(data))
            data = data[part] if held and inside else None
    return tuple(kept), known

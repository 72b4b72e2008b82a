"""The JSON Schema of recipes, for editors and for suggestions in errors."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from hubpub.recipe.model import NAME, Recipe
from hubpub.recipe.variants import EXPANDED

Schema = dict[str, Any]

_PLACEHOLDER = {"type": "string", "pattern": r"\$\{[^{}]+\}"}
_NAME_WITH_PLACEHOLDERS = r"^[A-Za-z0-9$][A-Za-z0-9._${}-]*$"


@cache
def recipe_schema() -> Schema:
    """JSON Schema of a recipe as a user writes it: with placeholders, where there may be some."""
    schema = copy.deepcopy(Recipe.model_json_schema(by_alias=True))
    _close(schema)
    _require_kinds(schema, schema["$defs"])
    opened: set[str] = set()
    for section in EXPANDED:
        _open(schema["properties"][section], schema["$defs"], opened)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "hubpub recipe"}


def _close(schema: Any) -> None:
    """Refuse names that match no pattern, as the models do; drop what pydantic alone knows, of byte sizes."""
    if isinstance(schema, dict):
        for unknown in ("gt", "lt"):
            schema.pop(unknown, None)
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for below in schema.values():
            _close(below)
    elif isinstance(schema, list):
        for below in schema:
            _close(below)


def _require_kinds(schema: Any, defs: dict[str, Schema]) -> None:
    """Make the key that tells the members of a union apart a required one, also where a model has a default for it."""
    if isinstance(schema, dict):
        if "discriminator" in schema:
            for reference in schema["discriminator"]["mapping"].values():
                member = defs[reference.rsplit("/", 1)[1]]
                member["required"] = sorted({*member.get("required", []), schema["discriminator"]["propertyName"]})
        for below in schema.values():
            _require_kinds(below, defs)
    elif isinstance(schema, list):
        for below in schema:
            _require_kinds(below, defs)


def _open(schema: Schema, defs: dict[str, Schema], opened: set[str]) -> None:
    """Let ``schema``, and what lies below it, take placeholders of variants."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name not in opened:
            opened.add(name)
            _open(defs[name], defs, opened)
    elif schema.get("type") in ("integer", "number", "boolean") or "enum" in schema or "pattern" in schema:
        if "const" not in schema:  # these tell the members of a union apart
            about: Schema = {key: schema.pop(key) for key in ("title", "description", "default") if key in schema}
            bare = dict(schema)
            schema.clear()
            schema |= {**about, "anyOf": [bare, _PLACEHOLDER]}
        return
    if NAME in schema.get("patternProperties", {}):
        schema["patternProperties"] = {_NAME_WITH_PLACEHOLDERS: schema["patternProperties"][NAME]}
    keyed = [*schema.get("properties", {}).values(), *schema.get("patternProperties", {}).values()]
    items = [schema.get("items"), schema.get("additionalProperties"), *schema.get("prefixItems", [])]
    for below in (*keyed, *items, *schema.get("anyOf", []), *schema.get("oneOf", [])):
        if isinstance(below, dict):
            _open(below, defs, opened)


def branches(schemas: list[Schema], value: Any = None) -> list[Schema]:
    """Resolve references and unions; of the members of a union those that ``value`` seems to be meant for."""
    found: list[Schema] = []
    for schema in schemas:
        if "$ref" in schema:
            found += branches([recipe_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]]])
        elif "anyOf" in schema or "oneOf" in schema:
            found += branches([*schema.get("anyOf", []), *schema.get("oneOf", [])])
        else:
            found.append(schema)
    if not isinstance(value, dict):
        return found
    fits = [_fit(schema, value) for schema in found]
    return [schema for schema, fit in zip(found, fits, strict=True) if fit == max(fits)]


def _fit(schema: Schema, value: dict[str, Any]) -> tuple[int, int]:
    """How many of the keys that the schema needs, and that it knows, ``value`` has; none if it says what else it is."""
    known = {name: schema["properties"][name] for name in value if name in schema.get("properties", {})}
    if any("const" in below and value[name] != below["const"] for name, below in known.items()):
        return (0, 0)
    return len(known.keys() & schema.get("required", [])), len(known)


def descend(schemas: list[Schema], part: str | int) -> list[Schema]:
    """The schemas of the value at key or index ``part``."""
    found = []
    for schema in schemas:
        if isinstance(part, int):
            items = [schema.get("items"), *schema.get("prefixItems", [])[part : part + 1]]
            found += [item for item in items if isinstance(item, dict)]
        elif part in schema.get("properties", {}):
            found.append(schema["properties"][part])
        else:
            keyed = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
            found += [value for value in keyed if isinstance(value, dict)]
    return found


def properties(schemas: list[Schema]) -> set[str]:
    """Keys that one of ``schemas`` knows."""
    return {name for schema in schemas for name in schema.get("properties", {})}

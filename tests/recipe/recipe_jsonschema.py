"""What a JSON Schema (draft 2020-12) says of a value: the part of the standard that recipe schemas use, and no more."""

from __future__ import annotations

import re
from typing import Any

Schema = dict[str, Any]

ANNOTATIONS = {"title", "description", "default", "discriminator", "$schema", "$defs"}
CHECKED = {
    "$ref", "type", "const", "enum", "anyOf", "oneOf", "properties", "required", "additionalProperties",
    "patternProperties", "propertyNames", "minProperties", "items", "prefixItems", "minItems", "maxItems", "minLength",
    "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
}  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),), "integer": (int,),
    "number": (int, float),
}  # fmt: skip


def accepts(schema: Schema, value: Any, root: Schema) -> bool:
    """Whether ``value`` is valid."""
    if "$ref" in schema and not accepts(resolve(schema["$ref"], root), value, root):
        return False
    if "type" in schema and not _is(schema["type"], value):
        return False
    if "const" in schema and not _equal(value, schema["const"]):
        return False
    if "enum" in schema and not any(_equal(value, each) for each in schema["enum"]):
        return False
    if "anyOf" in schema and not any(accepts(each, value, root) for each in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(accepts(each, value, root) for each in schema["oneOf"]) != 1:
        return False
    if isinstance(value, dict):
        return _object(schema, value, root)
    if isinstance(value, list):
        return _array(schema, value, root)
    if isinstance(value, str):
        fits = "pattern" not in schema or re.search(schema["pattern"], value) is not None
        return fits and _within(schema, len(value), "minLength", "maxLength")
    if isinstance(value, int | float) and not isinstance(value, bool):
        above = "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"]
        below = "exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"]
        return above and below and _within(schema, value, "minimum", "maximum")
    return True


def resolve(reference: str, root: Schema) -> Schema:
    name = reference.removeprefix("#/$defs/")
    assert name in root["$defs"], reference
    found: Schema = root["$defs"][name]
    return found


def subschemas(schema: Schema) -> list[Schema]:
    """``schema`` and all schemas within it."""
    below: list[Any] = [schema.get(name) for name in ("items", "additionalProperties", "propertyNames")]
    for name in ("anyOf", "oneOf", "prefixItems"):
        below += schema.get(name, [])
    for name in ("properties", "patternProperties", "$defs"):
        below += schema.get(name, {}).values()
    return [schema, *(found for each in below if isinstance(each, dict) for found in subschemas(each))]


def _is(kind: str, value: Any) -> bool:
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _within(schema: Schema, number: float, least: str, most: str) -> bool:
    return bool(schema.get(least, number) <= number <= schema.get(most, number))


def _object(schema: Schema, value: dict[str, Any], root: Schema) -> bool:
    if not all(name in value for name in schema.get("required", [])) or len(value) < schema.get("minProperties", 0):
        return False
    for name, item in value.items():
        if not accepts(schema.get("propertyNames", {}), name, root):
            return False
        fitting = [schema["properties"][name]] if name in schema.get("properties", {}) else []
        fitting += [each for pattern, each in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
        if not fitting:
            other = schema.get("additionalProperties", True)
            fitting = [other] if isinstance(other, dict) else []
            if other is False:
                return False
        if not all(accepts(each, item, root) for each in fitting):
            return False
    return True


def _array(schema: Schema, value: list[Any], root: Schema) -> bool:
    first = schema.get("prefixItems", [])
    rest = schema.get("items", {})
    return _within(schema, len(value), "minItems", "maxItems") and all(
        accepts(first[index] if index < len(first) else rest, item, root) for index, item in enumerate(value)
    )

"""The JSON Schema says what the models say."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from recipe_jsonschema import ANNOTATIONS, CHECKED, accepts, resolve, subschemas
from recipe_tools import BASE, changed

from hubpub.recipe import Recipe, load_recipe, recipe_schema
from hubpub.recipe.document import parse_document, read_document

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SCHEMA = recipe_schema()


def data_of(text: str) -> Any:
    return parse_document(Path("recipe.yaml"), text.encode()).data


def schema_accepts(data: Any) -> bool:
    return accepts(SCHEMA, data, SCHEMA)


def models_accept(data: Any) -> bool:
    try:
        Recipe.model_validate(data)
    except ValidationError:
        return False
    return True


def test_it_is_a_schema_that_everybody_can_read() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    for schema in subschemas(SCHEMA):
        assert set(schema) <= ANNOTATIONS | CHECKED
        if "$ref" in schema:
            resolve(schema["$ref"], SCHEMA)
        if "type" in schema:
            assert schema["type"] in ("object", "array", "string", "integer", "number", "boolean", "null")
        for pattern in [schema.get("pattern"), *schema.get("patternProperties", {})]:
            assert pattern is None or re.compile(pattern)
        assert set(schema.get("required", [])) <= schema.get("properties", {}).keys() | set(schema.get("required", []))


def test_nothing_takes_keys_that_nobody_knows() -> None:
    for schema in subschemas(SCHEMA):
        if "properties" in schema or "patternProperties" in schema:
            assert schema["additionalProperties"] is False, schema.get("title")


def test_everything_that_a_user_writes_is_explained() -> None:
    obvious = {"by", "client", "dist", "metric", "repo_type", "transform"}  # they name one of a few kinds
    bare = [
        f"{schema.get('title')}.{name}"
        for schema in subschemas(SCHEMA)
        for name, below in schema.get("properties", {}).items()
        if not below.get("description") and name not in obvious
    ]
    assert bare == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_recipes_are_accepted(path: Path) -> None:
    assert schema_accepts(read_document(path).data)
    assert load_recipe(path).recipe.version == 1


def test_the_base_recipe_is_accepted() -> None:
    assert schema_accepts(data_of(BASE))
    assert models_accept(data_of(BASE))


def test_placeholders_are_accepted_where_there_may_be_some() -> None:
    text = changed("steps:\n  convert:", "variants: {v: {n: 4, f: 0.5}}\nsteps:\n  convert:")
    text = changed("max: 0.5, min_n: 4", "max: '${f}', min_n: '${n}'", text)
    text = changed("naming: single", "naming: single, min_tensor_bytes: '${n}'", text)
    text = changed("model: model.onnx,", "model: model.onnx, threads: '${n}',", text)
    text = changed("  sharded:\n", "  'sharded-${variant}':\n", text)
    text = changed("    files: [model.onnx]\n", "    files: ['${variant}.onnx', model.onnx]\n", text)
    text = changed("  vocab.json: convert/vocab.json\n", "  vocab.json: convert/vocab.json\n  v.onnx: '${n}/x'\n", text)
    assert schema_accepts(data_of(text))
    for old, new in (
        ("version: 1\n", "version: '${n}'\n"),
        ('version: "1.0"', "version: {}"),
        ("role: calibration", "role: '${v}'"),
    ):
        assert not schema_accepts(data_of(changed(old, new, text)))
    assert not schema_accepts(data_of(changed("template: plain", "template: '${v}'", text)))


def places(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(data, dict | list):
        for key, item in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places(item, (*path, key))


def at(data: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        data = data[part]
    return data


DATA = data_of(BASE)
PLACES = list(places(DATA))


def without(path: tuple[str | int, ...]) -> Any:
    data = copy.deepcopy(DATA)
    del at(data, path[:-1])[path[-1]]
    return data


def replaced(path: tuple[str | int, ...], value: Any) -> Any:
    data = copy.deepcopy(DATA)
    at(data, path[:-1])[path[-1]] = value
    return data


# What this schema does not say: that the clips of a corpus are told apart and documented, that one of two is needed.
BEYOND = {"source", "license", "max", "min", "text", "text_from", "crop", "include", "clips"}


def test_what_the_models_accept_the_schema_accepts() -> None:
    """An editor must not mark what is right."""
    wrong = [path for path in PLACES if models_accept(without(path)) and not schema_accepts(without(path))]
    assert wrong == []
    for value in (None, [], {}, "", "§", "x/y", -1, 0.5, 7, ["x"], {"x": "y"}, "§" * 500):
        wrong = [
            path
            for path in PLACES
            if models_accept(replaced(path, value)) and not schema_accepts(replaced(path, value))
        ]
        assert wrong == [], f"{value!r}"


def test_what_the_models_refuse_for_its_shape_the_schema_refuses() -> None:
    missing = [
        path
        for path in PLACES
        if not models_accept(without(path)) and schema_accepts(without(path)) and path[-1] not in BEYOND
    ]
    assert [path for path in missing if path[-1] not in ("defaults", 0)] == []
    unknown = [
        path
        for path in [(), *PLACES]
        if isinstance(at(DATA, path), dict)
        and path != ("sources",)
        and schema_accepts(replaced((*path, "un known"), "x"))
    ]
    assert [path for path in unknown if not models_accept(replaced((*path, "un known"), "x"))] == []
    for value in (None, [], {}, ["§"], {"§": "§"}):
        wrong = [
            path
            for path in PLACES
            if schema_accepts(replaced(path, value))
            and not models_accept(replaced(path, value))
            and path[-1] not in BEYOND
        ]
        assert [path for path in wrong if path[-1] not in ("defaults", "clips")] == [], value


def test_the_schema_has_room_for_what_the_models_call_by_another_name() -> None:
    rule = SCHEMA["$defs"]["FileRule"]["properties"]
    assert {"from", "with", "chain"} == rule.keys()

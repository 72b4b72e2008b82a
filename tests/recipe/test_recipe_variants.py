"""The matrix: what is written out, what is shared, and what cannot be."""

# ruff: noqa: E501 (tables with a case in each line)
from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_tools import BASE, changed, problems, write_recipe

from hubpub.errors import RecipeError
from hubpub.recipe import LoadedRecipe, ScriptStep, load_recipe
from hubpub.recipe.document import Document, parse_document
from hubpub.recipe.model import FileRule
from hubpub.recipe.variants import expand

HERE = Path("recipe.yaml")
MATRIX = "variants:\n  small: {bits: 4, budget: 0.90}\n  large: {bits: 8, budget: 0.5}\n"

Owners = dict[str, dict[str, tuple[str, ...]]]


def expanded(text: str) -> tuple[Document, Owners]:
    return expand(parse_document(HERE, text.encode()))


def refused(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        expanded(text)
    lines = str(caught.value).split("\n")
    assert all(line.isprintable() for line in lines)
    return [line.removeprefix("recipe.yaml:") for line in lines]


def loaded(folder: Path, text: str) -> LoadedRecipe:
    return load_recipe(write_recipe(folder, text))


def test_without_variants_nothing_changes() -> None:
    text = "steps: {a: {x: 1, y: [b, $HOME, 'a $ b']}}\ngates: [{m: 1}, {m: 2}]\nname: ${kept}\n"
    document, owners = expanded(text)
    assert document.data == parse_document(HERE, text.encode()).data
    assert owners == {"steps": {"a": ()}}


@pytest.mark.parametrize("variants", ["variants: {}\n", "variants: 3\n", "variants: [a]\n", "variants:\n", ""])
def test_what_is_no_matrix_is_left_to_the_models(variants: str) -> None:
    document, owners = expanded(f"{variants}files: {{a: b/c}}\n")
    assert document.data["files"] == {"a": "b/c"}
    assert owners == {"files": {"a": ()}}


def test_an_entry_that_all_variants_share_is_there_once() -> None:
    document, owners = expanded(f"{MATRIX}steps:\n  convert: {{x: 1}}\nfiles:\n  a: b/c\ngates:\n  - {{m: 1}}\n")
    assert document.data["steps"] == {"convert": {"x": 1}}
    assert document.data["gates"] == [{"m": 1}]
    assert owners == {"steps": {"convert": ("small", "large")}, "files": {"a": ("small", "large")}}


def test_an_entry_with_a_placeholder_in_its_name_is_written_out_per_variant() -> None:
    document, owners = expanded(MATRIX + "files:\n  ${variant}/m.int${bits}.onnx: a/b\n  vocab: a/v\n")
    assert list(document.data["files"]) == ["small/m.int4.onnx", "large/m.int8.onnx", "vocab"]
    assert owners["files"] == {
        "small/m.int4.onnx": ("small",),
        "large/m.int8.onnx": ("large",),
        "vocab": ("small", "large"),
    }


def test_variants_that_give_the_same_entry_share_it() -> None:
    text = "variants: {a: {bits: 8}, b: {bits: 8}, c: {bits: 4}}\nsteps: {'quantize-${bits}': {bits: '${bits}'}}\n"
    document, owners = expanded(text)
    assert document.data["steps"] == {"quantize-8": {"bits": 8}, "quantize-4": {"bits": 4}}
    assert owners["steps"] == {"quantize-8": ("a", "b"), "quantize-4": ("c",)}


@pytest.mark.parametrize(
    ("value", "alone", "inside"),
    [
        ("4", 4, "x4"), ("0.90", 0.9, "x0.90"), ("1e-3", 0.001, "x1e-3"), ("true", True, "xtrue"), ("True", True, "xTrue"),
        ("'4'", "4", "x4"), ("text", "text", "xtext"), ("010", 10, "x010"), ("''", "", "x"), ("8.0", 8.0, "x8.0"),
        ("'${bits}'", "${bits}", "x${bits}"),  # what a variant says is not looked at again
    ],
)  # fmt: skip
def test_a_lone_placeholder_takes_the_type_and_in_text_the_spelling(value: str, alone: Any, inside: str) -> None:
    text = f"variants: {{v: {{bits: {value}}}}}\nsteps: {{s: {{alone: '${{bits}}', inside: 'x${{bits}}', '${{bits}}': key}}}}\n"
    step = expanded(text)[0].data["steps"]["s"]
    assert (step["alone"], step["inside"]) == (alone, inside)
    assert type(step["alone"]) is type(alone)
    assert list(step)[2] == inside[1:]


@pytest.mark.parametrize(
    ("text", "became"),
    [
        ("$$", "$"), ("a$$b", "a$b"), ("$${bits}", "${bits}"), ("$$${bits}", "$4"), ("$$$$", "$$"), ("$HOME", "$HOME"), ("$", "$"),
        ("a$", "a$"), ("$(x)", "$(x)"), ("{bits}", "{bits}"), ("${bits}${bits}", "44"), ("${bits} ", "4 "), ("$x${bits}$", "$x4$"),
        ("$${", "${"), ("}${bits}{", "}4{"), ("${variant}", "v"),
    ],
)  # fmt: skip
def test_escapes_and_what_is_no_placeholder(text: str, became: str) -> None:
    data = expanded(f"variants: {{v: {{bits: 4}}}}\nsteps: {{s: ['{text}']}}\n")[0].data
    assert data["steps"]["s"] == [became]


def test_placeholders_everywhere(tmp_path: Path) -> None:
    text = changed("steps:\n", f"{MATRIX}steps:\n")
    text = changed('args: [--bits, "8"]', 'args: [--bits, "${bits}", "--name=${variant}-${bits}"]', text)
    text = changed("  convert:\n", "  convert-${variant}:\n", text)
    text = changed("  model.onnx: convert/", "  ${variant}/model.onnx: convert-${variant}/", text)
    text = changed("  vocab.json: convert/", "  ${variant}/vocab.json: convert-${variant}/", text)
    text = changed("  sharded/model.onnx:", "  ${variant}/sharded/model.onnx:", text)
    text = changed("from: convert/", "from: convert-${variant}/", text)
    text = changed("max_bytes: 16 MB", 'max_bytes: "${bits} MB", min_tensor_bytes: "${bits}"', text)
    for run in ("fp32", "sharded", "encoder", "small"):
        text = changed(f"\n  {run}:\n", f"\n  {run}-${{variant}}:\n", text)
    text = changed('files: [model.onnx, "*.json"]', 'files: ["${variant}/model.onnx", "${variant}/*.json"]', text)
    text = changed("files: [sharded/*]", "files: ['${variant}/sharded/*']", text)
    text = changed('files: ["model.*"]', "files: ['${variant}/model.*']", text)
    text = changed("files: [model.onnx]\n", "files: ['${variant}/model.onnx']\n", text)
    text = changed("model: model.onnx,", "model: '${variant}/model.onnx', threads: '${bits}',", text)
    text = changed("reference: fp32", "reference: fp32-${variant}", text)
    text = changed("measure: fp32/wer, max: 0.5", "measure: 'fp32-${variant}/wer', max: '${budget}'", text)
    text = changed("sharded/wer, against: fp32/wer", "'sharded-${variant}/wer', against: 'fp32-${variant}/wer'", text)
    text = changed("measure: small/wer", "measure: 'small-${variant}/wer'", text)
    recipe = loaded(tmp_path, text)
    step = recipe.recipe.steps["convert-small"]
    assert isinstance(step, ScriptStep)
    assert step.args == ("--bits", "4", "--name=small-4")  # text is wanted there, so the number became text
    rule = recipe.recipe.files["large/sharded/model.onnx"]
    assert isinstance(rule, FileRule)
    assert rule.source == "convert-large/model.onnx"
    assert dict(rule.chain[0])["min_tensor_bytes"] == 8
    assert dict(rule.chain[0])["max_bytes"] == 8_000_000
    assert recipe.recipe.measure["encoder-large"].via.threads == 8
    assert recipe.recipe.measure["sharded-small"].reference == "fp32-small"
    assert [(gate.measure, gate.max) for gate in recipe.recipe.gates[:2]] == [
        ("fp32-small/wer", 0.9),
        ("fp32-large/wer", 0.5),
    ]
    assert recipe.owners["steps"] == {"convert-small": ("small",), "convert-large": ("large",)}


def test_a_number_from_a_placeholder_becomes_text_as_the_recipe_spells_it(tmp_path: Path) -> None:
    text = changed("steps:\n", "variants:\n  v: {alpha: 0.10, big: 1e3, yes: true}\nsteps:\n")
    text = changed('args: [--bits, "8"]', "args: ['${alpha}', '${big}', '${yes}', 'x${alpha}']", text)
    assert loaded(tmp_path, text).recipe.steps["convert"].args == ("0.10", "1e3", "true", "x0.10")
    text = changed("'${big}'", "7", text)
    (line,) = problems(tmp_path, text)  # one that stands in the recipe itself is still asked about
    assert line.endswith("steps.convert.args[1]: must be text: put it in quotes, '7'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: {a: '${bits}'}", ["1:9: steps.a: ${bits} stands for a value of a variant, and there are none; write $$ for a dollar sign"]),
        ("variants: {v: {bits: 1}}\nsteps: {a: {b: ['x${bit}y']}}", ["2:17: steps.a.b[0]: there is no value 'bit' in any variant; did you mean 'bits'?"]),
        ("variants: {v: {bits: 1}}\nsteps: {a: '${zzz}'}", ["2:9: steps.a: there is no value 'zzz' in any variant; known here: bits, variant"]),
        ("variants: {v: {bits: 1}}\nsteps: {a: '${}'}", ["2:9: steps.a: there is no value '' in any variant; known here: bits, variant"]),
        ("variants: {v: {bits: 1}, w: {}}\nsteps: {a: '${bits}'}", ["2:9: steps.a: there is no value 'bits' in w; known here: variant"]),
        ("variants: {v: {}, w: {}, x: {a: 1}}\ngates: [1, {k: '${a}'}]", ["2:13: gates[1].k: there is no value 'a' in v, w; known here: variant"]),
        ("variants: {v: {bits: 1}}\nfiles: {'${bit}.onnx': a/b}", ["2:9: files.${bit}.onnx: there is no value 'bit' in any variant; did you mean 'bits'?"]),
        ("variants: {v: {bits: 1}}\nfiles: {a: '${bits'}", ["2:9: files.a: `${` is not closed; write `$${` for the characters themselves"]),
        ("variants: {v: {bits: 1}}\nfiles: {a: '${bits${bits}'}", ["2:9: files.a: `${` is not closed; write `$${` for the characters themselves"]),
        ("variants: {v: {variant: 1}}\nfiles: {}", ["1:16: variants.v.variant: is the variant's own name; call this value something else"]),
        ("variants: {v: {n: 1}, w: {n: 2}}\nsteps: {a: {n: '${n}'}}", [
            "2:9: steps.a: 'a' means something else for v and for w; put a placeholder that tells them apart into its name"]),
        ("variants: {v: {n: 1}, w: {n: true}}\nsteps: {a: {n: '${n}'}}", [
            "2:9: steps.a: 'a' means something else for v and for w; put a placeholder that tells them apart into its name"]),
        ("variants: {v: {n: a}, w: {n: b}}\nfiles: {a: x/y, '${n}': x/y}", ["2:17: files.${n}: gives the name 'a', and so does the entry 'a'"]),
        ("files: {a$$b: x/y, a$b: x/y}", ["1:20: files.a$b: gives the name 'a$b', and so does the entry 'a$$b'"]),
        ("variants: {v: {n: a, m: a}}\nsteps: {s: {inputs: {'${n}': 1, '${m}': 2}}}", ["2:33: steps.s.inputs.${m}: gives the key 'a' a second time"]),
        ("variants: {v: {n: 1}}\nsteps: {a: '${x}', b: '${y}', '${z}': 1}", [
            "2:9: steps.a: there is no value 'x' in any variant; known here: n, variant",
            "2:20: steps.b: there is no value 'y' in any variant; known here: n, variant",
            "2:31: steps.${z}: there is no value 'z' in any variant; known here: n, variant"]),
        ("variants: {v: {\"a b\": 1}}\nsteps: {a: \"${a\\tb}\"}", ["2:9: steps.a: there is no value 'a\\tb' in any variant; did you mean 'a b'?"]),
        ("just text", ["1:1: a recipe is a mapping with `version: 1` at the top"]),
        ("- a\n- b", ["1:1: a recipe is a mapping with `version: 1` at the top"]),
        ("3", ["1:1: a recipe is a mapping with `version: 1` at the top"]),
    ],
)  # fmt: skip
def test_what_cannot_be_written_out(text: str, expected: list[str]) -> None:
    assert refused(text) == expected


def test_a_matrix_is_no_bomb() -> None:
    variants = "".join(f"  v{number}: {{}}\n" for number in range(2_000))
    files = "".join(f"  f{number}: a/b\n" for number in range(2_000))
    started = time.monotonic()
    (line,) = refused(f"variants:\n{variants}files:\n{files}")
    assert line == "2002:1: files: the variants unfold it to more than 50000 values"
    assert time.monotonic() - started < 15


def test_problems_in_what_was_written_out_point_at_what_was_written(tmp_path: Path) -> None:
    text = changed("steps:\n", f"{MATRIX}steps:\n")
    gates = (
        "gates:\n"
        "  - {measure: fp32/wer, max: '${budget}'}\n"
        "  - {measure: fp32/wer, max: 0.7}\n"
        "  - {measure: fp32/wer, min_n: '${variant}', max: 0.8}\n"
        "  - {measure: small/wer, max: '${budget}', minn: 3}\n"
        "card:\n"
    )
    text = text[: text.index("gates:\n")] + gates + text[text.index("card:\n") + 6 :]
    first = text[: text.index("gates:\n")].count("\n") + 2
    assert problems(tmp_path, text) == [
        f"{first + 2}:25: gates[3].min_n: input should be a valid integer, unable to parse string as an integer, got 'small'",
        f"{first + 2}:25: gates[4].min_n: input should be a valid integer, unable to parse string as an integer, got 'large'",
        f"{first + 3}:44: gates[5].minn: unknown key; did you mean 'min_n'?",  # not once more for the other variant
    ]


def test_a_missing_key_of_a_later_gate_is_not_taken_for_that_of_a_dropped_one() -> None:
    text = f"{MATRIX}gates:\n  - {{a: 1,\n     b: 2}}\n  - {{a: 2}}\n"
    document, _ = expanded(text)
    assert document.data["gates"] == [{"a": 1, "b": 2}, {"a": 2}]
    assert document.place(("gates", 0, "b")) == (6, 6)
    assert document.place(("gates", 1, "b")) == (7, 5)


NAMES = st.sampled_from(["a", "b", "c", "wide", "x1"])
VALUES = st.integers(0, 3) | st.sampled_from(["s", "t", ""]) | st.booleans()
PIECES = st.sampled_from(["${variant}", "${one}", "${two}", "$$", "{", "}", "x", "-"])
TEXTS = st.lists(PIECES, max_size=3).map("".join)


def oracle(text: str, values: dict[str, Any]) -> Any:
    """What becomes of a text, said in another way."""
    if text.startswith("${") and text.endswith("}") and text[2:-1] in values:
        return values[text[2:-1]]
    became, rest = "", text
    while rest:
        name = next((name for name in values if rest.startswith(f"${{{name}}}")), None)
        if rest.startswith("$$"):
            became, rest = became + "$", rest[2:]
        elif name is not None:
            value = values[name]
            became, rest = (
                became + (str(value).lower() if isinstance(value, bool) else str(value)),
                rest[len(name) + 3 :],
            )
        else:
            became, rest = became + rest[0], rest[1:]
    return became


@settings(max_examples=100, deadline=None)
@given(
    matrix=st.dictionaries(NAMES, st.fixed_dictionaries({"one": VALUES, "two": VALUES}), min_size=1, max_size=3),
    texts=st.lists(TEXTS, min_size=1, max_size=3),
)
def test_any_matrix_gives_what_filling_in_by_hand_gives(matrix: dict[str, dict[str, Any]], texts: list[str]) -> None:
    data = {"variants": matrix, "gates": [{"text": text} for text in texts], "files": {"${variant}/f": texts}}
    document, owners = expanded(json.dumps(data))
    every = {name: {**values, "variant": name} for name, values in matrix.items()}
    wanted: list[Any] = []
    for text in texts:
        for values in every.values():
            if repr(each := {"text": oracle(text, values)}) not in map(repr, wanted):
                wanted.append(each)
    assert repr(document.data["gates"]) == repr(wanted)
    assert document.data["files"] == {
        f"{name}/f": [oracle(text, values) for text in texts] for name, values in every.items()
    }
    assert owners["files"] == {f"{name}/f": (name,) for name in matrix}


def test_the_base_recipe_is_the_same_with_a_variant_that_nothing_speaks_of(tmp_path: Path) -> None:
    with_variant = changed("steps:\n", "variants: {only: {}}\nsteps:\n")
    plain = loaded(tmp_path / "a", BASE).recipe.model_dump()
    varied = loaded(tmp_path / "b", with_variant).recipe.model_dump()
    assert {**varied, "variants": {}} == plain

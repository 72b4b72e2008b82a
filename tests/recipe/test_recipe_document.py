"""YAML as data: what is refused, what YAML 1.1 would have made of it, and the place of every value."""

# ruff: noqa: E501 (tables with a case in each line)
from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.errors import RecipeError
from hubpub.recipe import document as document_module
from hubpub.recipe.document import MAX_BYTES, MAX_DEPTH, Document, Loc, dotted, parse_document, read_document

HERE = Path("recipe.yaml")


def read(text: str | bytes) -> Document:
    return parse_document(HERE, text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))


def refused(text: str | bytes) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read(text)
    lines = str(caught.value).split("\n")
    assert lines == [str(problem) for problem in caught.value.problems]
    assert all(line.isprintable() for line in lines)
    return [line.removeprefix("recipe.yaml:").lstrip() for line in lines]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        # words that YAML 1.1 takes for booleans, and keys among them
        *[(word, word) for word in ("no", "No", "NO", "yes", "on", "Off", "y", "n", "N")],
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("tRUE", "tRUE"),
        ("null", None), ("~", None), ("", None), ("Null", None), ("nUll", "nUll"), ("none", "none"),
        # numbers
        ("0", 0), ("-0", 0), ("+1", 1), ("007", 7), ("010", 10), ("0o10", 8), ("0x1F", 31), ("1_000", "1_000"),
        ("0b11", "0b11"), ("12:30:45", "12:30:45"), ("190:20:30", "190:20:30"), ("1,000", "1,000"), ("0o8", "0o8"),
        ("0.10", 0.1), ("1.", 1.0), (".5", 0.5), ("-1.5e-3", -0.0015), ("1e3", 1000.0), ("1.2.3", "1.2.3"), ("1e", "1e"),
        ("-", None), (".", "."), ("+", "+"), ("1 2", "1 2"), ("\u0661", "\u0661"), ("9" * 90, int("9" * 90)),
        # dates are text
        ("2026-01-01", "2026-01-01"), ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        # other text
        ("=", "="), ("'0.10'", "0.10"), ('"no"', "no"), ("!!str 0.10", "0.10"), ("!!int 0x10", 16),
        ('"\\t\\n\\r\\N"', "\t\n\r\x85"), ("|\n  a\n  b\n", "a\nb\n"), (">-\n  a\n  b\n", "a b"), ("\U0001f600", "\U0001f600"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(scalar: str, value: Any) -> None:
    if scalar == "-":
        assert read("a:\n  -\n").data == {"a": [None]}
        return
    found = read(f"a: {scalar}").data["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("key", ["no", "on", "0.10", "010", "1_000", "12:30", "true", "null", "~", "2026-01-01"])
def test_keys_are_text_as_written(key: str) -> None:
    assert read(f"{key}: 1\n").data == {key: 1}


def test_numbers_are_remembered_as_written() -> None:
    document = read("a: 0.10\nb: [1, 0o10, 'x', ~]\nc: {d: TRUE}\n")
    assert document.written == {
        ("a",): "0.10", ("b", 0): "1", ("b", 1): "0o10", ("b", 3): "~", ("c", "d"): "TRUE",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n\n# only a comment\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"a: 1\nb: \xff\n", "2:4: is not UTF-8"),
        (b"\xff\xfea\x00:\x00", "1:1: is not UTF-8"),
        ("a: 1\nb: \0\n", "2:4: not valid YAML: the character 0x0000 is not allowed"),
        ("a: 1\n\tb: 2\n", "2:1: not valid YAML: while scanning for the next token found character '\\t' that cannot start any token"),
        ("a: [1\nb: 2\n", "2:2: not valid YAML: while parsing a flow sequence expected ',' or ']', but got ':'"),
        ("a: 1\n---\nb: 2\n", "2:1: not valid YAML: expected a single document in the stream but found another document"),
        ("a: 'x", "1:6: not valid YAML: while scanning a quoted scalar found unexpected end of stream"),
        ("a: *b", "1:4: not valid YAML: found undefined alias 'b'"),
        ("a: !b!c d", "1:4: not valid YAML: while parsing a node found undefined tag handle '!b!'"),
        ("%YAML 2.0\n---\na: 1", "1:1: not valid YAML: found incompatible YAML document (version 1.* is required)"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "1:7: not valid YAML: Exceeds the limit"),
        ('a: "\\UFFFFFFFF"', "1:7: not valid YAML: "),
        ('a: "\\U00110000"', "1:7: not valid YAML: "),
        ('a: "\\ud83d\\ude00"', "1:4: a: holds the half of a surrogate pair U+D83D"),
        ('a:\n  - "\\0"\n', "2:5: a[0]: holds the control character U+0000"),
        ('a: "\\e[31m"', "1:4: a: holds the control character U+001B"),
        ('"\\n": 1', "1:1: \\n: holds the control character U+000A"),
        ('"\\x7f": 1', "1:1: \\x7f: holds the control character U+007F"),
        ("a: .inf", "1:4: a: .inf is not a finite number"),
        ("a: -.INF", "1:4: a: -.INF is not a finite number"),
        ("a: .nan", "1:4: a: .nan is not a finite number"),
        ("a: 1e999", "1:4: a: 1e999 is not a finite number"),
        ("a: " + "9" * 101, "1:4: a: '" + "9" * 100 + "' is not a valid int"),
        ("a: !!int 12.5", "1:4: a: '12.5' is not a valid int"),
        ("a: !!int 1_000", "1:4: a: '1_000' is not a valid int"),
        ("a: !!bool maybe", "1:4: a: 'maybe' is not a valid bool"),
        ("a: !!null something", "1:4: a: 'something' is not a valid null"),
        ("a: !!float x", "1:4: a: 'x' is not a valid float"),
        ("a: !!timestamp 2026-01-01", "1:4: a: the tag !!timestamp is not allowed"),
        ("a: !!binary aGk=", "1:4: a: the tag !!binary is not allowed"),
        ("a: !!set {b, c}", "1:4: a: the tag !!set is not allowed"),
        ("a: !!omap [b: c]", "1:4: a: the tag !!omap is not allowed"),
        ("a: !!map x", "1:4: a: the tag !!map is not allowed"),
        ("a: !!str [x]", "1:4: a: the tag !!str is not allowed"),
        ("a: !!python/object/apply:os.system ['true']", "1:4: a: the tag !!python/object/apply:os.system is not allowed"),
        ("a: !!python/object:os.system {}", "1:4: a: the tag !!python/object:os.system is not allowed"),
        ("a: !!python/name:os.system ''", "1:4: a: the tag !!python/name:os.system is not allowed"),
        ("a: !custom x", "1:4: a: the tag !custom is not allowed"),
        ("!!python/name:os.system x: 1", "1:1: a key must be text"),
        ("? {a: b}\n: 1", "1:3: a key must be text"),
        ("a: {<<: {b: 1}}", "1:5: a.<<: merge keys (<<) are not in YAML 1.2: give the whole mapping an alias, or write its keys out"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str | bytes, said: str) -> None:
    (line,) = refused(text)
    assert line.startswith(said)
    assert len(line) < 400


def test_a_quoted_merge_key_is_a_key() -> None:
    assert read('"<<": 1').data == {"<<": 1}


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    document = read(b"\xef\xbb\xbfa: 1\n")
    assert document.data == {"a": 1}
    assert document.places[("a",)] == (1, 1)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends(line_end: str) -> None:
    document = read(line_end.join(["a: 1", "b:", "  c: 2", ""]))
    assert document.data == {"a": 1, "b": {"c": 2}}
    assert document.places[("b", "c")] == (3, 3)


def test_all_duplicate_keys_and_tags_at_once() -> None:
    text = "a: 1\nb: {c: 1, c: 2}\na: 2\nd: !x 1\n1: a\n'1': b\nc: [{e: 1, e: 2}]\n"
    assert refused(text) == [
        "2:11: b.c: duplicate key; it stands in line 2 already",
        "3:1: a: duplicate key; it stands in line 1 already",
        "4:4: d: the tag !x is not allowed",
        "6:1: 1: duplicate key; it stands in line 5 already",
        "7:12: c[0].e: duplicate key; it stands in line 7 already",
    ]


def test_aliases_unfold_and_each_use_has_its_own_place() -> None:
    document = read("a: &x [1, {k: 2}]\nb: *x\nc:\n  d: *x\n")
    assert document.data == {"a": [1, {"k": 2}], "b": [1, {"k": 2}], "c": {"d": [1, {"k": 2}]}}
    document.data["b"][1]["k"] = 3
    assert document.data["a"] == [1, {"k": 2}]
    assert document.place(("b",)) == (2, 1)
    assert document.place(("c", "d")) == (4, 3)


LAUGHS = "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MAPPINGS = "".join(f"c{n}: &c{n} {{k: *c{n - 1}, l: *c{n - 1}}}\n" for n in range(1, 30))
BOMBS = {
    "billion laughs": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + LAUGHS,
    "quadratic": "a: &a [" + "x," * 2000 + "]\nb: [" + "*a," * 2000 + "]\n",
    "of mappings": "c0: &c0 {k: 1, l: 2}\n" + MAPPINGS,
    "itself": "a: &a [*a]\n",
    "itself, wide": "a: &a {k: [*a, *a, *a], l: *a}\n",
    "deep": "a: " + "[" * 200 + "]" * 200,
    "very deep": "[" * 100_000,
    "deep mappings": "".join("  " * n + "a:\n" for n in range(400)),
    "deep braces": "{a: " * 5_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_soon(name: str) -> None:
    started = time.monotonic()
    (line,) = refused(BOMBS[name])
    assert "unfolds to more than" in line or "nested too deeply" in line
    assert len(line) < 300
    assert time.monotonic() - started < 10


def test_more_values_than_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_module, "MAX_NODES", 100)
    assert len(read("a: [" + "1," * 98 + "]").data["a"]) == 98
    (line,) = refused("a: [" + "1," * 99 + "]")
    assert line == "1:201: a[98]: unfolds to more than 100 values or 40 levels; are aliases nested?"


def test_what_is_just_within_the_bounds_is_read() -> None:
    assert read("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)).data


def test_no_more_is_read_than_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # all holes
    with pytest.raises(RecipeError, match=f"has more than {MAX_BYTES} bytes"):
        read_document(path)


@pytest.mark.parametrize(
    ("loc", "text"),
    [
        ((), ""),
        (("files", "a.onnx", "chain", 0), "files.a.onnx.chain[0]"),
        (("a", 1, 2), "a[1][2]"),
        (("a\nb", "\x1b[31m"), "a\\nb.\\x1b[31m"),
        (("\u202e", "\ud800"), "\\u202e.\\ud800"),
        (("x" * 5000,), "x" * 1000 + "…"),
    ],
)
def test_fields_are_one_readable_line(loc: Loc, text: str) -> None:
    assert dotted(loc) == text


def test_the_place_of_what_is_not_there_is_that_of_what_holds_it() -> None:
    document = read("a: 1\nb:\n  c: 2\n")
    assert document.place(("b", "c", "d", 0)) == (3, 3)
    assert document.place(("b", "x")) == (2, 1)
    assert document.place(("x", "y")) == (1, 1)
    problem = document.problem(("b", "x"), "is\nmissing \x1b[0m")
    assert str(problem) == "recipe.yaml:2:1: b.x: is\\nmissing \\x1b[0m"


# -- any data keeps its values and its places

TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="\ufffe\uffff"), max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
DATA = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=25
)


class Writer:
    """Writes data as YAML in block style, and notes where it puts everything."""

    def __init__(self, data: Any) -> None:
        self.lines: list[str] = []
        self.places: dict[Loc, tuple[int, int]] = {}
        self.value(data, (), "", 0)

    def value(self, data: Any, loc: Loc, start: str, indent: int) -> None:
        """``start`` is what stands on the line already: nothing, a key or a dash."""
        if isinstance(data, dict | list) and data:
            if start:
                self.lines.append(start)
            if loc not in self.places:
                self.places[loc] = (len(self.lines) + 1, indent + 1)
            for key, item in data.items() if isinstance(data, dict) else enumerate(data):
                if isinstance(data, dict):
                    self.places[(*loc, key)] = (len(self.lines) + 1, indent + 1)
                    self.value(item, (*loc, key), " " * indent + json.dumps(key, ensure_ascii=False) + ":", indent + 2)
                else:
                    self.value(item, (*loc, key), " " * indent + "-", indent + 2)
        else:
            text = repr(data) if isinstance(data, float) else json.dumps(data, ensure_ascii=False)
            self.places.setdefault(loc, (len(self.lines) + 1, len(start) + 2 if start else 1))
            self.lines.append(f"{start} {text}" if start else text)


@settings(max_examples=80, deadline=None)
@given(data=DATA)
def test_any_data_comes_back_with_its_places(data: Any) -> None:
    writer = Writer(data)
    text = "\n".join(writer.lines) + "\n"
    document = read(text)
    assert repr(document.data) == repr(data)
    assert document.places == writer.places


def check_readable(error: RecipeError) -> None:
    assert error.problems
    assert all(problem.message and str(problem).isprintable() for problem in error.problems)


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_data_or_a_recipe_error(raw: bytes) -> None:
    try:
        read(raw)
    except RecipeError as error:
        check_readable(error)


YAML_BITS = st.sampled_from([
    "a", "b", "1", "0.1", "~", "null", "#", "@", "`", "[", "]", "{", "}", "'", "\\", "|\n", ">\n", "---\n", "\n", "\t", "\u2028",
    ": ", "- ", ", ", "? ", "  ", "&x ", "*x", "!!int ", "!!map ", "!y ", "<<: ", "%TAG ! a\n", '"', '"\\x41"',
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(text=st.lists(YAML_BITS, max_size=25).map("".join))
def test_any_pieces_of_yaml_are_data_or_a_recipe_error(text: str) -> None:
    try:
        document = read(text)
    except RecipeError as error:
        check_readable(error)
    else:
        assert () in document.places

"""Names from strangers stay in their folder; patterns mean what the docs say and cannot be made slow."""

from __future__ import annotations

import re
import time
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.errors import SourceError, UnsafeArchive
from hubpub.source.names import check_distinct, check_name, check_pattern, matches, may_lie_below, nearest, select

PIECES = ["/", "\\", ".", "..", ":", "C", "a", "ñ", "n\u0303", "\0", "\n", "\u202e", "\ud800", " "]
NASTY = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
PATHS = st.lists(st.text("ab*", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)
PATTERNS = st.lists(st.one_of(st.just("**"), st.text("ab*", min_size=1, max_size=3)), min_size=1, max_size=5).map(
    "/".join
)


@given(NASTY | st.text())
def test_an_accepted_name_stays_in_its_folder_everywhere(name: str) -> None:
    refusal = None
    try:
        check_name(name, "archive")
    except UnsafeArchive as error:
        refusal = error
    if refusal:
        assert str(refusal).isprintable()
        return
    for flavour in (PurePosixPath, PureWindowsPath):
        path = flavour(name)
        assert not path.is_absolute()
        assert not path.anchor
        assert ".." not in path.parts
        assert "/".join(path.parts) == name
    assert name.encode().decode() == name


@pytest.mark.parametrize(
    "name", ["a", "a/b.c", "tests/data/trñ00.wav", "日本語.lab", ".hidden", "a b", "..a", "a..", "~", "ab:c"]
)
def test_plain_names_are_accepted(name: str) -> None:
    assert check_name(name, "archive") == name


@pytest.mark.parametrize("names", [["a", "A"], ["ñ", "n\u0303"], ["straße", "STRASSE"], ["a/b", "A"], ["a/b/c", "a/b"]])
def test_names_that_some_systems_confuse_are_refused(names: list[str]) -> None:
    with pytest.raises(UnsafeArchive, match="the same file"):
        check_distinct(names, "archive")


def test_distinct_names_pass() -> None:
    check_distinct(["a", "b", "a.b", "ab/c", "ab.c"], "archive")


def _by_regex(pattern: str, name: str) -> bool:
    """The same rules written another way."""
    parts = pattern.split("/")
    if parts[-1] == "**":
        parts.append("*")
    text = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        text += "(?:[^/]+/)*" if part == "**" else re.escape(part).replace(r"\*", "[^/]*") + ("" if last else "/")
    return re.fullmatch(text, name) is not None


@settings(max_examples=500)
@given(PATTERNS, PATHS)
def test_patterns_match_as_the_regular_expression_says(pattern: str, path: str) -> None:
    try:
        check_pattern(pattern)
    except ValueError:
        return
    assert matches(pattern, path) == _by_regex(pattern, path)
    if matches(pattern, path):
        folders = path.split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            assert may_lie_below(pattern, "/".join(folders[:depth]))


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("*.onnx", "a.onnx", True),
        ("*.onnx", "sub/a.onnx", False),
        ("*.onnx", "a.ONNX", False),
        ("**", "a/b/c", True),
        ("**/a.onnx", "a.onnx", True),
        ("onnx/**", "onnx", False),
        ("onnx/**", "onnx/x/y", True),
        ("a[1].txt", "a[1].txt", True),
        ("a[1].txt", "a1.txt", False),
        ("a?", "ab", False),
        (
            "tr" + unicodedata.normalize("NFD", "ñ") + "00.wav",
            "tr" + unicodedata.normalize("NFC", "ñ") + "00.wav",
            True,
        ),
    ],
)
def test_pattern_examples(pattern: str, name: str, covered: bool) -> None:
    assert matches(pattern, name) is covered


@pytest.mark.parametrize("pattern", ["", "/a", "../a", "a/", "a\\b", "a**", "**b/c", "C:a"])
def test_patterns_that_can_match_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape("pattern") + "|alone"):
        check_pattern(pattern)


def test_no_pattern_is_slow() -> None:
    begin = time.monotonic()
    assert not matches("/".join(["**", "*a" * 60 + "b"] * 8), "/".join(["a" * 250] * 20))
    assert time.monotonic() - begin < 5


def test_a_pattern_without_a_match_names_the_nearest() -> None:
    names = ["pkg/data/model.onnx", "pkg/data/model_16k.onnx", "pkg/__init__.py"]
    with pytest.raises(
        SourceError, match=r"'pkg/model\.onnx' matches nothing; the nearest names are pkg/data/model\.onnx"
    ):
        select(names, ["pkg/**", "pkg/model.onnx"], "pkg==1")
    assert select(names, ["**/*.onnx", "pkg/data/*"], "pkg==1") == ["pkg/data/model.onnx", "pkg/data/model_16k.onnx"]
    assert nearest("x", []) == []

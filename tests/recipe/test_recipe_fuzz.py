"""Whatever is done to a recipe's text, the answer is a recipe or lines that a person can read."""

from __future__ import annotations

import random
import shutil
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_tools import BASE, lines_of, write_recipe

from hubpub.errors import RecipeError
from hubpub.recipe import load_recipe

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "recipes" / "whisper-tiny.en.yaml").read_text(encoding="utf-8")

SCALARS = [
    "", "~", "no", "true", "0", "-1", "1.5", "1e400", ".nan", "99999999999999999999999", "[]", "{}", "[a]", "{a: b}",
    "[[]]", "'x'", "'${x}'", "${variant}", "$$", "*onnx-asr", "*fp32", "&x y", "!!int 3", "!!python/name:os.system ''",
    "a/b", "../x", "/x", "a", "convert/x", "weights/x", "fp32", "fp32/wer", "wer", '"\\0"', "x" * 500, "é", "\u2028",
    "- a", "? b", "<<: *fp32",
]  # fmt: skip
KEYS = [
    "",
    "~",
    "a",
    "from",
    "path",
    "hub",
    "pypi",
    "variants",
    "<<",
    "${variant}",
    "1",
    "[a]",
    "metric",
    "client",
    "'a/../b'",
]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recipes with all that they refer to."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(ROOT / "templates", folder / "templates")
    return folder / "recipes"


def check(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    try:
        load_recipe(path)
    except RecipeError as error:
        check_places(error, path, raw)


def check_places(error: RecipeError, path: Path, raw: bytes) -> None:
    assert lines_of(error, path)
    count = raw.count(b"\n") + raw.count(b"\r") + raw.count("\u2028".encode()) + raw.count("\x85".encode()) + 1
    for problem in error.problems:
        assert 0 <= problem.line <= count
        assert (problem.line == 0) == (problem.column == 0)
        assert problem.message


def mutate(text: str, chance: random.Random) -> str:
    """One small accident."""
    lines = text.split("\n")
    index = chance.randrange(len(lines))
    line = lines[index]
    match chance.randrange(9):
        case 0:
            del lines[index]
        case 1:
            lines.insert(index, line)
        case 2:
            lines.insert(chance.randrange(len(lines)), line)
        case 3 if ": " in line or line.endswith(":"):
            lines[index] = f"{line.partition(':')[0]}: {chance.choice(SCALARS)}"
        case 4 if ":" in line:
            before, _, after = line.partition(":")
            lines[index] = f"{before[: len(before) - len(before.lstrip())]}{chance.choice(KEYS)}:{after}"
        case 5:
            lines[index] = chance.choice([" ", "  ", "    ", "\t", "- "]) + line
        case 6 if line.startswith("  "):
            lines[index] = line[2:]
        case 7:
            place = chance.randrange(len(line) + 1)
            lines[index] = line[:place] + chance.choice(string.printable + "é\u2028\x85\ufeff") + line[place:]
        case _:
            place = chance.randrange(len(line) + 1)
            lines[index] = line[:place] + line[place + chance.choice([1, 2, 10]) :]
    return "\n".join(lines)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6))
def test_accidents_to_the_shipped_recipe(recipes: Path, seed: int, count: int) -> None:
    chance, text = random.Random(seed), SHIPPED
    for _ in range(count):
        text = mutate(text, chance)
    check(recipes / "fuzz.yaml", text.encode())


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 4))
def test_accidents_to_a_recipe_that_uses_everything(
    tmp_path_factory: pytest.TempPathFactory, recipes: Path, seed: int, count: int
) -> None:
    chance, text = random.Random(seed), BASE.replace("steps:\n", "variants: {v: {bits: 4}}\nsteps:\n")
    for _ in range(count):
        text = mutate(text, chance)
    check(write_recipe(recipes / "small", text), text.encode())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 20))
def test_random_bytes_in_a_recipe(recipes: Path, seed: int, count: int) -> None:
    chance, raw = random.Random(seed), bytearray(BASE.encode())
    for _ in range(count):
        place = chance.randrange(len(raw))
        raw[place : place + chance.randrange(2)] = chance.randbytes(chance.randrange(1, 3))
    check(recipes / "small.yaml", bytes(raw))

"""The evaluator gives what GitHub documents, and refuses what it does not know."""

from __future__ import annotations

from typing import Any

import pytest
from github_expressions import condition, evaluate, interpolate

CONTEXTS: dict[str, Any] = {
    "matrix": {"recipe": "toy"},
    "steps": {"one": {"outcome": "skipped", "outputs": {"moved": "True"}}},
    "inputs": {},
}
GOOD = {"success": lambda: True, "always": lambda: True, "failure": lambda: False, "cancelled": lambda: False}
BAD = {**GOOD, "success": lambda: False, "failure": lambda: True}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("matrix.recipe", "toy"),
        ("inputs.recipe", None),
        ("steps.other.outputs.moved", None),
        ("steps.one.outputs.moved == 'true'", True),  # texts are compared without case
        ("inputs.recipe == ''", True),
        ("matrix.recipe != 'toy' || 'it''s'", "it's"),
        ("matrix.recipe && steps.one.outcome", "skipped"),
        ("!(matrix.recipe == 'x') && !inputs.recipe", True),
        ("'a' == 'b' && 'c' == 'd' || 'e'", "e"),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert evaluate(text, CONTEXTS, GOOD) == value


@pytest.mark.parametrize(
    "text", ["secrets.TOKEN", "hashFiles('x')", "1 == 1", "matrix.recipe ==", "(matrix.recipe", "matrix['recipe']", ""]
)
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not known here|missing"):
        evaluate(text, CONTEXTS, GOOD)


def test_a_condition_without_a_status_function_needs_success() -> None:
    assert condition("matrix.recipe == 'toy'", CONTEXTS, GOOD)
    assert not condition("matrix.recipe == 'toy'", CONTEXTS, BAD)
    assert condition("${{ !cancelled() && matrix.recipe == 'toy' }}", CONTEXTS, BAD)
    assert condition("always() && steps.one.outcome == 'skipped'", CONTEXTS, BAD)
    assert not condition("steps.one.outputs.nothing", CONTEXTS, GOOD)


def test_interpolation() -> None:
    assert interpolate("a ${{ matrix.recipe }} b ${{inputs.recipe}}c", CONTEXTS, GOOD) == "a toy b c"

"""Numbers as a reader sees them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubpub.card.figures import cell, duration, figure, number, significant, size
from hubpub.report import counted


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (34_604, "34.6 kB"),
        (999_499, "999 kB"),
        (999_999, "1.00 MB"),
        (32_859_326, "32.9 MB"),
        (2_476_281_856, "2.48 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@given(st.floats(min_value=-1e300, max_value=1e300))
def test_three_significant_digits_say_the_value(value: float) -> None:
    assert math.isclose(float(significant(value)), value, rel_tol=0.00501, abs_tol=0)


def test_zeros_that_say_how_exact_a_figure_is_are_kept() -> None:
    assert [significant(value) for value in (1, 0.5, 10.5, 0.0100, 123.4, 99.96)] == [
        "1.00",
        "0.500",
        "10.5",
        "0.0100",
        "123",
        "100",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0374, "ratio", "3.74 %"),
        (-0.0022, "ratio", "-0.22 %"),
        (0.99985, "cosine", "0.999850"),
        (1_234_567, "bytes", "1.23 MB"),
        (-1_234_567, "bytes", "−1.23 MB"),
        (0.5, "s", "0.500 s"),
        (0.0, "", "0"),
    ],
)
def test_units(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_an_exact_figure_has_no_interval() -> None:
    base = {"value": 0.1, "unit": "ratio"}
    assert figure({**base, "low": None, "high": None}) == "10.00 %"
    assert figure({**base, "low": 0.1, "high": 0.1}) == "10.00 %"
    assert figure({**base, "low": 0.05, "high": 0.2}) == "10.00 % (5.00 % to 20.00 %)"


@pytest.mark.parametrize(
    ("n", "unit", "text"),
    [(1, "words", "1 word"), (1, "processes", "1 process"), (1, "utterances", "1 utterance"), (2, "words", "2 words")],
)
def test_one_is_not_many(n: int, unit: str, text: str) -> None:
    assert counted(n, unit) == text


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.04, 44.37, 119.9, 120, 300.2)] == [
        "0.0 s",
        "44.4 s",
        "119.9 s",
        "2 min 0 s",
        "5 min 0 s",
    ]


@given(st.text())
def test_a_cell_stays_in_its_table(text: str) -> None:
    written = cell(text)
    assert "\n" not in written
    assert "<" not in written
    assert "|" not in written.replace("\\\\", "").replace("\\|", "")

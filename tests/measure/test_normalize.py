from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.measure.normalize import normalize


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("It was the  best,\nof TIMES!", "it was the best of times"),
        ("the other way--in short", "the other way in short"),
        ("don't 'quote' rock 'n' roll dogs'", "don't quote rock n roll dogs"),
        ("l\u2019air du temps", "l'air du temps"),
        ("Stra\u00dfe \ufb01n \u2460", "strasse fin 1"),
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("50% of $3.20", "50 of 3 20"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u4f60\u597d \u4e16\u754c"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947", "\u0928\u092e\u0938\u094d\u0924\u0947"),
        ("a_b", "a b"),
        ("...", ""),
    ],
)
def test_basic(text: str, plain: str) -> None:
    assert normalize(text, "basic") == plain


def test_none_touches_white_space_only() -> None:
    assert normalize(" It's\u00a0A\tTest!\n", "none") == "It's A Test!"


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_basic_is_stable_and_leaves_letters_only(text: str) -> None:
    once = normalize(text, "basic")
    assert normalize(once, "basic") == once
    assert unicodedata.normalize("NFC", once) == once
    assert all(char in " '" or unicodedata.category(char)[0] in "LMN" for char in once)
    assert once == " ".join(once.split())

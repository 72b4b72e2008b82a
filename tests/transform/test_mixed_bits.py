"""Bits under a budget: kept, and hardly worse than the best choice there is."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.transform._mixed_bits import Option, choose


@st.composite
def layers(draw: st.DrawFn) -> list[list[Option]]:
    found = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.integers(10, 5000))
        noise, options = draw(st.floats(0.001, 1)), []
        for bits in (2, 4, 6, 8):
            options.append(Option(bits, size * bits // 8 + 128, noise))
            noise *= draw(st.floats(0.01, 1))
        found.append(options)
    return found


def total(options: list[list[Option]], taken: tuple[int, ...]) -> tuple[int, float]:
    pairs = list(zip(options, taken, strict=True))
    return sum(each[index].nbytes for each, index in pairs), sum(each[index].noise for each, index in pairs)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(layers(), st.floats(0, 1))
def test_size_budget(options: list[list[Option]], share: float) -> None:
    every = [total(options, taken) for taken in product(range(4), repeat=len(options))]
    least, most = min(nbytes for nbytes, _ in every), max(nbytes for nbytes, _ in every)
    budget = round(least + share * (most - least))
    taken = choose(options, max_bytes=budget)
    assert taken is not None
    nbytes, noise = total(options, tuple(taken))
    assert nbytes <= budget
    best = min(noise for nbytes, noise in every if nbytes <= budget)
    # The last step of the greedy is where it can lose, one layer's at most.
    assert noise <= best + max(each[0].noise for each in options) + 1e-12
    if share == 1:
        assert noise <= best + 1e-12
    assert choose(options, max_bytes=least - 1) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(layers(), st.floats(0, 1))
def test_noise_budget(options: list[list[Option]], share: float) -> None:
    every = [total(options, taken) for taken in product(range(4), repeat=len(options))]
    least, most = min(noise for _, noise in every), max(noise for _, noise in every)
    budget = (least + share * (most - least)) / len(options)
    taken = choose(options, max_noise=budget)
    assert taken is not None
    nbytes, noise = total(options, tuple(taken))
    assert noise <= budget * len(options) * (1 + 1e-9)
    best = min(nbytes for nbytes, noise in every if noise <= budget * len(options) * (1 + 1e-9))
    assert nbytes <= best + max(each[-1].nbytes - each[0].nbytes for each in options)
    if least > 0:
        assert choose(options, max_noise=least / len(options) * 0.99) is None

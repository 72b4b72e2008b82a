"""The clustering is the optimum: against every partition, against a plain dynamic programme, against coremltools."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.coremlfile import BY_NAME
from hubpub.transform import _kmeans, _luts
from hubpub.transform._kmeans import cluster, lower_bound
from hubpub.transform._luts import Form, Luts, indices_of, luts_of, pack

Array = np.ndarray[Any, Any]
FP16 = BY_NAME["fp16"]


def cost(values: Array, weights: Array, starts: Any) -> float:
    """Squared differences to the means of runs, from their definition."""
    total = 0.0
    for begin, end in pairwise(starts):
        part, weight = values[begin:end], weights[begin:end]
        total += float((weight * (part - np.average(part, weights=weight)) ** 2).sum())
    return total


def best_of_all(values: Array, weights: Array, k: int) -> float:
    count = len(values)
    return min(cost(values, weights, (0, *cuts, count)) for cuts in combinations(range(1, count), min(k, count) - 1))


def quadratic(values: Array, weights: Array, k: int) -> float:
    """The textbook recurrence, O(k n²)."""
    count = len(values)
    shifted = values - values.mean()
    w, s, q = (np.concatenate([[0.0], np.cumsum(weights * shifted**power)]) for power in (0, 1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        runs = (q[None] - q[:, None]) - (s[None] - s[:, None]) ** 2 / (w[None] - w[:, None])
    runs[np.tril_indices(count + 1)] = np.inf
    best = runs[0]
    for _ in range(1, k):
        best = (best[:, None] + runs).min(axis=0)
    return float(best[-1])


halves = st.integers(0, 0x7BFF).flatmap(lambda low: st.sampled_from([low, low | 0x8000]))
"""Bit patterns of finite halves."""


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(halves, min_size=1, max_size=9, unique=True), st.data())
def test_no_partition_is_better(patterns: list[int], data: st.DataObject) -> None:
    values = np.unique(np.array(patterns, np.uint16).view(np.float16).astype(np.float64))
    weights = np.array(data.draw(st.lists(st.integers(1, 1000), min_size=len(values), max_size=len(values))))
    k = data.draw(st.integers(1, 9))
    found = cluster(values, weights, k)
    assert len(found.centers) == min(k, len(values)) == len(found.starts) - 1
    assert (np.diff(found.starts) > 0).all()
    assert (np.diff(found.centers) > 0).all()
    assert found.error == pytest.approx(cost(values, weights, found.starts), rel=1e-9, abs=1e-30)
    assert found.error <= best_of_all(values, weights, k) * (1 + 1e-9) + 1e-30


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["normal", "uniform", "laplace", "cauchy", "grid", "ties"]),
    st.integers(20, 220),
    st.integers(2, 40),
)
def test_as_good_as_the_textbook(seed: int, kind: str, count: int, k: int) -> None:
    random = np.random.default_rng(seed)
    if kind == "grid":  # equal gaps, equal weights: many partitions are as good, and no penalty gives most counts
        values, weights = np.arange(count) / 64, np.ones(count, np.int64)
    elif kind == "ties":
        values, weights = np.unique(random.integers(0, 500, count)) / 8, 1
        weights = random.integers(1, 3, len(values))
    else:
        draw = {"cauchy": "standard_cauchy"}.get(kind, kind)
        drawn = getattr(random, draw)(size=count)
        values, weights = np.unique(drawn.astype(np.float16).astype(np.float64), return_counts=True)
    k = min(k, len(values))
    found = cluster(values, weights, k)
    assert found.error <= quadratic(values, weights, k) * (1 + 1e-7) + 1e-12


def test_where_no_penalty_gives_the_count_divide_and_conquer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    inner = _kmeans._by_count
    monkeypatch.setattr(_kmeans, "_by_count", lambda *args: called.append(args[-1]) or inner(*args))
    values, weights = np.arange(96) / 4, np.ones(96, np.int64)
    for k in range(2, 60, 5):
        found = cluster(values, weights, k)
        assert found.error == pytest.approx(quadratic(values, weights, k), rel=1e-9)
    assert called


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_large_tensors_reach_the_certified_bound(bits: int) -> None:
    random = np.random.default_rng(bits)
    scales = np.exp(random.normal(size=(1, 1024)))
    drawn = random.standard_t(4, size=(256, 1024)) * scales * 0.02
    values, counts = np.unique(drawn.astype(np.float16).astype(np.float64), return_counts=True)
    found = cluster(values, counts, 1 << bits)
    assert lower_bound(values, counts, 1 << bits) == pytest.approx(found.error, rel=1e-9)


@pytest.mark.parametrize(("count", "worst"), [(40_000, 1.00001), (2_000, 1.0)])
def test_no_worse_than_coremltools(count: int, worst: float) -> None:
    """Which is exact from 10,000 elements on, and draws its centres by lot below."""
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    random = np.random.default_rng(count)
    weight = (random.laplace(size=count) * 0.05).astype(np.float16)
    table, indices = _get_kmeans_lookup_table_and_weight(4, weight)
    theirs = float(((table.astype(np.float16)[indices.reshape(-1)].reshape(-1) - weight.astype(np.float64)) ** 2).sum())
    ours = luts_of(weight.tobytes(), FP16, weight.shape, Form(4))
    assert ours is not None
    assert ours.error <= theirs * worst


def looked_up(luts: Luts, packed: bytes, shape: tuple[int, ...], form: Form) -> Array:
    kind = BY_NAME[f"uint{form.bits}"]
    indices = kind.unpack(packed, int(np.prod(shape))).reshape(shape)
    if form.axis is None:
        return luts.tables[0][indices].astype(np.float64)
    channel = np.arange(shape[form.axis]).reshape([-1 if at == form.axis else 1 for at in range(len(shape))])
    values = luts.tables[channel // (form.group or shape[form.axis]), indices].astype(np.float64)
    return values * luts.scales[channel] if luts.scales is not None else values


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 3, 4, 6, 8]),
    st.sampled_from([None, 0, 1, 2]),
    st.booleans(),
    st.sampled_from(["fp16", "fp32"]),
)
def test_error_is_what_looking_up_gives(seed: int, bits: int, axis: int | None, scaled: bool, kind: str) -> None:
    random = np.random.default_rng(seed)
    shape = (6, 4, 10)
    tensor = (random.standard_t(3, size=shape) * 10 ** random.uniform(-4, 2)).astype(BY_NAME[kind].dtype())
    tensor[random.uniform(size=shape) < 0.1] = -0.0
    form = Form(bits) if axis is None else Form(bits, axis, 0 if scaled else 2, scaled)
    raw = tensor.tobytes()
    luts = luts_of(raw, BY_NAME[kind], shape, form)
    assert luts is not None
    given_back = looked_up(luts, indices_of(raw, BY_NAME[kind], shape, form, luts), shape, form)
    error = float(((given_back - tensor.astype(np.float64)) ** 2).sum())
    assert error == pytest.approx(luts.error, rel=1e-6, abs=luts.energy * 1e-12)
    assert luts.energy == pytest.approx(float((tensor.astype(np.float64) ** 2).sum()), rel=1e-9)
    if bits == 8 and form.group == 2:  # 120 values of a group have a table entry each
        assert luts.error == 0


@pytest.mark.parametrize("kind", ["fp16", "fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_table(kind: str, value: float) -> None:
    tensor = np.ones((8, 8), BY_NAME[kind].dtype())
    tensor[3, 3] = value
    for form in (Form(4), Form(4, 0, 2), Form(4, 1, 0, True)):
        assert luts_of(tensor.tobytes(), BY_NAME[kind], (8, 8), form) is None


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_indices_are_packed_as_coremltools_packs_them(bits: int) -> None:
    from coremltools.optimize._utils import pack_elements_into_bits

    indices = np.random.default_rng(bits).integers(0, 1 << bits, 1001).astype(np.uint8)
    assert pack(indices, bits) == pack_elements_into_bits(indices, bits).tobytes()


def test_patterns_of_halves_are_in_order() -> None:
    values = _luts._patterns().view(np.float16).astype(np.float64)
    assert len(values) == 63_488
    assert (np.diff(values) >= 0).all()
    assert (np.diff(values) == 0).sum() == 1  # the two zeros

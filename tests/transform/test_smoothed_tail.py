"""The percentile of a smoothed input in one pass and a bit: that of all values, and which windows are seen again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transform.fp16_graphs import graph
from transform.int8_graphs import Sequences, block, quantize

from hubpub.onnxfile import OnnxFile
from hubpub.transform import _smooth, _smoothing
from hubpub.transform._percentiles import SomeWindows, cover
from hubpub.transform._smooth import Smoothing
from hubpub.transform.calibration import Extremes, observe
from hubpub.transform.calibration.smoothed_tail import SLOTS, SmoothedTail

Array = npt.NDArray[Any]
WIDTH = 6
REACH = np.array([1, 0.3, 2, 0.01, 1, 0], np.float32)
CANDIDATE = _smooth.Candidate(0.5, 1.0, 1.0)
PLAIN = "m (float[b, t, 6] x) => (float[b, t, 6] y)\n{\n  y = Identity (x)\n}\n"


class Drifting:
    """Windows of differing length whose channels grow, shrink or stay."""

    def __init__(self, seed: int, count: int, drift: float) -> None:
        self._seed, self._count, self._drift = seed, count, drift

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        growth = np.array([1, 1 + self._drift, 1 - self._drift / 2, 1, 1, 1])
        for number in range(self._count):
            rng = np.random.default_rng((self._seed, number))
            values = rng.standard_t(4, size=(1 + number % 2, 5 + 3 * number, WIDTH)) * growth**number
            yield {"x": values.astype(np.float32)}


def divisors(low: Array, high: Array) -> Array:
    return _smooth.divisors_of(CANDIDATE, low, high, REACH)


def wrong(low: Array, high: Array) -> Array:
    return np.linspace(0.1, 10, WIDTH)


def wrong_at_first(low: Array, high: Array) -> Array:
    return wrong(low, high) if (high == 1).all() else divisors(low, high)


def covered(
    windows: Drifting, share: float, folder: Path, guess: Any = divisors
) -> tuple[Array, tuple[float, float], int]:
    """The true divisors, the range that is found, and how many windows were looked at again."""
    path = folder / "m.onnx"
    onnx.save(graph(PLAIN, 17), path)
    file = OnnxFile.open(path)
    extremes, tail = Extremes("x", WIDTH), SmoothedTail("x", WIDTH, share, len(windows), guess, "test")
    seen = observe(file, windows, [extremes, tail], folder / "pass1")
    low, high = seen[extremes]["low"].min(0), seen[extremes]["high"].max(0)
    found = divisors(low, high)
    again: list[int] = []

    def look(probes: Any, numbers: list[int]) -> Any:
        again.extend(numbers)
        return observe(file, SomeWindows(windows, numbers), probes, folder / "pass2")

    group: Any = SimpleNamespace(inputs=["x"])
    smoothing = Smoothing(CANDIDATE, found, 0.0, 0.0, np.zeros((2, WIDTH), np.float32), 0.0)
    counts = {"x": int(seen[extremes]["count"])}
    (made,) = cover([group], [smoothing], counts, {"x": tail}, seen, look, windows=len(windows), share=share)
    return found, (made.low, made.high), len(again)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, SLOTS + 6),
    drift=st.sampled_from([0.0, 0.1, 1.0]),
    share=st.sampled_from([1e-5, 1e-3, 0.02, 0.3]),
    guess=st.sampled_from([divisors, wrong, wrong_at_first]),
)
def test_it_is_the_percentile_of_all_values(seed: int, count: int, drift: float, share: float, guess: Any) -> None:
    windows = Drifting(seed, count, drift)
    with TemporaryDirectory() as folder:
        found, (low, high), _ = covered(windows, share, Path(folder), guess)
    factors = (1 / found.astype(np.float64)).astype(np.float32)
    everything = np.sort(np.concatenate([(window["x"] * factors).reshape(-1) for window in windows]))
    beyond = int(share * everything.size)
    least, greatest = everything[beyond], everything[-1 - beyond]
    slack = (greatest - least) / (16 * 255)
    assert least <= low <= least + slack
    assert greatest - slack <= high <= greatest


def test_only_the_first_windows_are_looked_at_again(tmp_path: Path) -> None:
    _, _, again = covered(Drifting(1, 40, 0.0), 0.01, tmp_path)
    assert again <= 6


def test_after_a_wrong_guess_all_windows_are_looked_at_again(tmp_path: Path) -> None:
    _, _, again = covered(Drifting(1, 12, 0.0), 0.01, tmp_path, wrong)
    assert again == 12


def test_the_others_still_count_where_the_first_window_is_looked_at_again(tmp_path: Path) -> None:
    windows, share = Drifting(1, 12, 0.0), 0.01
    found, (low, high), again = covered(windows, share, tmp_path, wrong_at_first)
    assert 1 <= again < 12
    factors = (1 / found.astype(np.float64)).astype(np.float32)
    everything = np.sort(np.concatenate([(window["x"] * factors).reshape(-1) for window in windows]))
    beyond = int(share * everything.size)
    slack = (everything[-1 - beyond] - everything[beyond]) / (16 * 255)
    assert abs(low - everything[beyond]) <= slack
    assert abs(high - everything[-1 - beyond]) <= slack


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), count=st.integers(1, SLOTS + 6), guess=st.sampled_from([divisors, wrong]))
def test_nothing_beyond_a_bound_is_forgotten(seed: int, count: int, guess: Any) -> None:
    """Also when more was kept than will be asked for, and some of it goes again."""
    share, windows = 0.02, [window["x"] for window in Drifting(seed, count, 1.0)]
    probe = SmoothedTail("x", WIDTH, share, count, guess, "test")
    seen = probe.start()
    for values in windows:
        (factors,) = probe.feeds(seen).values()
        row, order = values.reshape(-1), np.argsort((values * factors).reshape(-1), kind="stable")
        most = min(int(row.size * share * count) + 1, row.size)
        least, greatest = order[:most], order[::-1][:most]
        low, high = values.min((0, 1)), values.max((0, 1))
        probe.fold(seen, [low, high, np.array(row.size), row[least], least, row[greatest], greatest])
    for end, sign in ((0, -1), (1, 1)):
        kept = {(int(c), float(v)) for c, v in zip(seen[f"channels{end}"], seen[f"values{end}"], strict=True)}
        for number, values in enumerate(windows):
            bound = seen["bound"][end, min(number, SLOTS - 1)]
            beyond = np.argwhere(sign * values.reshape(-1, WIDTH) > bound)
            assert all((int(c), float(sign * values.reshape(-1, WIDTH)[r, c])) in kept for r, c in beyond)


@pytest.mark.parametrize("percentile", [99.9, 99, 75])
def test_ranges_are_those_of_two_whole_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, percentile: float
) -> None:
    how: dict[str, Any] = {"alpha": 0.5, "ranges": "percentile", "percentile": percentile, "windows": Sequences(14)}
    passes: list[int] = []
    plain = _smoothing.observe

    def counted(file: Any, windows: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(len(windows))
        return plain(file, windows, *args, **kwargs)

    monkeypatch.setattr(_smoothing, "observe", counted)
    _, once = quantize(block(), tmp_path / "once", **how)
    assert passes[0] == 14
    assert sum(passes) < 28
    passes.clear()
    monkeypatch.setattr(_smoothing.SmoothQuant, "_guesses", lambda *_: {})
    _, twice = quantize(block(), tmp_path / "twice", **how)
    assert passes == [14, 14]
    for one, other in zip(once["layers"], twice["layers"], strict=True):
        if "input_low" in one:
            slack = (other["input_high"] - other["input_low"]) / (16 * 255)
            assert 0 <= one["input_low"] - other["input_low"] <= slack
            assert 0 <= other["input_high"] - one["input_high"] <= slack

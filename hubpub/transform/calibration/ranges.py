"""From what was seen of a value to the range that its integers shall cover.

Origins: entropy is the calibration of TensorRT (Migacz, "8-bit inference with TensorRT", GTC 2017): of all ranges cut
off from the histogram, the one of the least Kullback-Leibler divergence between the values cut off and their
quantized form. mse takes the one of the least squared error. percentile covers all but a share at each end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hubpub.transform.calibration.observe import Done, observe
from hubpub.transform.calibration.probes import Extremes, Histogram, Tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hubpub.onnxfile import OnnxFile
    from hubpub.transform.base import Windows

    Array = NDArray[Any]

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHOD_HELP = (
    "minmax = all that was seen, exact; percentile = all but the outermost values, exact; entropy and mse = by the "
    "Kullback-Leibler divergence or the squared error of the quantized values, from a histogram of 2048 parts. All but "
    "minmax take a second pass."
)
BINS = 2048
_LEVELS = 256
_CUTS = 64
_PER_PART = 32
"""Values in a part of a histogram, on average, for a divergence to be more than chance."""


class Range(NamedTuple):
    """Least and greatest value that integers shall cover."""

    low: float
    high: float


class Ranges(Mapping[str, Range]):
    """A range for each value that was asked for."""

    def __init__(self, ranges: Mapping[str, Range], counts: Mapping[str, int]) -> None:
        self._ranges = dict(ranges)
        self.counts = dict(counts)
        """Values that were seen, by name."""

    def __getitem__(self, value: str) -> Range:
        """The range of a value."""
        return self._ranges[value]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._ranges)

    def __len__(self) -> int:
        """How many."""
        return len(self._ranges)


def calibrate(
    file: OnnxFile,
    windows: Windows,
    values: Iterable[str],
    folder: Path,
    method: Method = "minmax",
    *,
    percentile: float = 99.999,
    symmetric: bool = False,
    threads: int = 0,
    progress: Done = lambda _: None,
) -> Ranges:
    """Find the ranges of values of a model over calibration windows.

    minmax and percentile are exact: the percentile is that of all values of all windows (the lower end is the
    ``(100 - percentile)``-th, NumPy's ``method="lower"``, the upper end the ``percentile``-th, ``"higher"``). The ends
    that entropy and mse choose from lie a 128th of the range apart or less.

    Args:
        file: the model.
        windows: what to run.
        values: names of float32 values of the main graph.
        folder: for state, as of `observe`.
        method: how ranges follow from values.
        percentile: with method percentile, the share of values below the upper end, in %.
        symmetric: ranges are cut off alike on both sides of zero (entropy, mse).
        threads: of onnxruntime, 0 = all cores.
        progress: told of every window of every pass.

    Raises:
        StepError: see `observe`.
    """
    names = list(dict.fromkeys(values))
    probes = {name: Extremes(name) for name in names}
    first = observe(file, windows, [*probes.values()], folder / "pass1", threads=threads, progress=progress)
    whole = {name: Range(float(first[p]["low"].min()), float(first[p]["high"].max())) for name, p in probes.items()}
    counts = {name: int(first[probe]["count"]) for name, probe in probes.items()}
    if method == "minmax":
        return Ranges(whole, counts)
    found: dict[str, Range] = {}
    if method == "percentile":
        share = 1 - percentile / 100
        tails = {name: Tail(name, None, int(share * max(counts[name] - 1, 0)) + 1) for name in names}
        second = observe(file, windows, [*tails.values()], folder / "pass2", threads=threads, progress=progress)
        for name, tail in tails.items():
            found[name] = Range(float(second[tail]["least"][-1]), float(second[tail]["greatest"][-1]))
        return Ranges(found, counts)
    histograms = {name: Histogram(name, None, r.low, _above(r), BINS) for name, r in whole.items()}
    second = observe(file, windows, [*histograms.values()], folder / "pass2", threads=threads, progress=progress)
    choose = entropy_range if method == "entropy" else mse_range
    for name, histogram in histograms.items():
        found[name] = choose(second[histogram]["counts"], whole[name], symmetric=symmetric)
    return Ranges(found, counts)


def _above(r: Range) -> float:
    return r.high if r.high > r.low else r.low + 1.0


def entropy_range(counts: Array, whole: Range, *, symmetric: bool = False) -> Range:
    """The part of a histogram's range of the least Kullback-Leibler divergence to its quantized form.

    Zero is met exactly however often it comes, so its part counts as its neighbours do: what ReLU cuts off must not
    decide on all the rest. Of few values parts are joined, since chance alone would seem to be divergence.
    """
    if whole.low <= 0 <= whole.high and whole.low < whole.high:
        part = min(int(-whole.low / (whole.high - whole.low) * len(counts)), len(counts) - 1)
        beside = [counts[index] for index in (part - 1, part + 1) if 0 <= index < len(counts)]
        counts = counts.copy()
        counts[part] = min(counts[part], max(beside, default=0))
    while len(counts) > _LEVELS and counts.sum() < _PER_PART * len(counts):
        counts = counts.reshape(-1, 2).sum(1)
    return _best(counts, whole, _divergence, symmetric)


def mse_range(counts: Array, whole: Range, *, symmetric: bool = False) -> Range:
    """The part of a histogram's range of the least squared error of the values quantized to it."""
    return _best(counts, whole, _squared_error, symmetric)


Score = Callable[["Array", "Array", Range], float]


def _best(counts: Array, whole: Range, score: Score, symmetric: bool) -> Range:
    """Cut off one end and then the other, or both alike, as long as the score falls."""
    if whole.high <= whole.low or not counts.sum():
        return whole
    width = (whole.high - whole.low) / len(counts)
    centres = whole.low + (np.arange(len(counts)) + 0.5) * width
    shares = [1 - step / (2 * _CUTS) for step in range(_CUTS * 2 - 1)]
    low, high = min(whole.low, 0.0), max(whole.high, 0.0)
    if symmetric:
        reach = max(-low, high)
        ranges = [Range(-reach * share, reach * share) for share in shares]
        return _least(counts, centres, ranges, score)
    best = Range(low, high)
    for _ in range(2):
        best = _least(counts, centres, [Range(best.low, high * share) for share in shares], score)
        best = _least(counts, centres, [Range(low * share, best.high) for share in shares], score)
    return best


def _least(counts: Array, centres: Array, ranges: Sequence[Range], score: Score) -> Range:
    scores = [score(counts, centres, each) for each in ranges]
    return ranges[int(np.argmin(scores))]


def _squared_error(counts: Array, centres: Array, r: Range) -> float:
    """Of values spread evenly in their part; those of the part about zero count as zero, which has no error."""
    step = (r.high - r.low) / (_LEVELS - 1)
    if step <= 0:
        return float("inf")
    width = centres[1] - centres[0]
    least = -np.rint(-r.low / step)
    nearest = np.clip(np.rint(centres / step), least, least + _LEVELS - 1) * step
    error = np.square(centres - nearest) + width * width / 12
    if width > step:  # several levels in a part
        error = np.where((centres >= r.low) & (centres <= r.high), step * step / 12, error)
    error[np.abs(centres) < width / 2] = 0
    return float((counts * error).sum())


def _divergence(counts: Array, centres: Array, r: Range) -> float:
    """Of the values with what is outside moved to the ends, from the same spread evenly within each level."""
    inside = (centres >= r.low) & (centres <= r.high)
    if not inside.any() or r.high <= r.low:
        return float("inf")
    kept = counts[inside].astype(np.float64)
    reference = kept.copy()
    reference[0] += counts[centres < r.low].sum()
    reference[-1] += counts[centres > r.high].sum()
    level = np.minimum(((centres[inside] - r.low) / (r.high - r.low) * _LEVELS).astype(np.int64), _LEVELS - 1)
    filled = kept > 0
    totals = np.bincount(level, kept, _LEVELS)
    places = np.bincount(level[filled], minlength=_LEVELS)
    spread = np.where(filled, totals[level] / np.maximum(places[level], 1), 0)
    there = reference > 0
    p, q = reference[there] / reference.sum(), np.maximum(spread[there] / max(spread.sum(), 1e-300), 1e-9)
    return float((p * np.log(p / q)).sum())

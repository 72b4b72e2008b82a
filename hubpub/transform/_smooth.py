"""How far to smooth the inputs of a group of layers, found by trying.

Origin: SmoothQuant (Xiao et al., 2022, arXiv:2211.10438): inputs are divided, and rows of the weights multiplied, by
``max|X_j|^alpha / max|W_j|^(1-alpha)`` for each channel j, so that outliers move to where scales are per channel.

Two things are hubpub's own. Quiet channels: one that hardly moved during calibration would be amplified until its
first real value is cut off, so the range of a channel counts as no less than ``floor`` times the median one. And trial
on what was not seen: each candidate takes its divisors and its range from one half of the windows and is judged by
the error of the quantized output on rows of the other half, both ways round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.transform import _int8_values as i8
from hubpub.transform._products import product

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Floats = NDArray[np.float32]

ALPHAS = (0.4, 0.55, 0.7, 0.85)
FLOORS = (1.0, 2.0, 3.0)
MARGINS = (1.0, 1.15)
_COLUMNS = 256  # of a weight, evenly spaced, that a candidate is judged by
_TINY = 1e-6


@dataclass(frozen=True)
class Candidate:
    """``alpha`` of SmoothQuant, 0 = no smoothing; ``floor`` of a channel's range; ``margin`` widens the tensor's."""

    alpha: float
    floor: float
    margin: float


@dataclass(frozen=True)
class Half:
    """What some of the windows showed: extremes ``[K]`` and sampled rows ``[R, K]``."""

    low: Floats
    high: Floats
    rows: Floats

    @property
    def empty(self) -> bool:
        """Whether there were none."""
        return not bool(np.isfinite(self.low).all() and len(self.rows))


@dataclass(frozen=True)
class Smoothing:
    """What was chosen for a group.

    Attributes:
        candidate: which.
        divisors: ``[K]`` of the inputs, None for none.
        low: least value of the smoothed inputs that the range covers.
        high: the greatest.
        means: ``[2, K]``, of the smoothed inputs, before and after they are quantized.
        snr_db: of the quantized output on the rows that the choice was not made from (fixed: on all rows).
    """

    candidate: Candidate
    divisors: Floats | None
    low: float
    high: float
    means: Floats
    snr_db: float


def candidates(alphas: Iterable[float], floors: Iterable[float], margins: Iterable[float]) -> list[Candidate]:
    """All combinations; without smoothing the floor does not matter."""
    found = [Candidate(a, f if a else 1.0, m) for a in alphas for f in floors for m in margins]
    return list(dict.fromkeys(found))


def sample(matrices: Sequence[Floats]) -> tuple[Floats, Floats]:
    """What a choice needs of the weights of a group: some columns ``[K, n]``, and the largest of each row ``[K]``."""
    step = max(sum(matrix.shape[1] for matrix in matrices) // _COLUMNS, 1)
    columns = np.concatenate([matrix[:, ::step] for matrix in matrices], axis=1)
    reach = np.maximum.reduce([np.abs(matrix).max(1, initial=0.0) for matrix in matrices])
    return np.ascontiguousarray(columns), reach


def choose(
    halves: Sequence[Half],
    columns: Floats,
    reach: Floats,
    tried: Sequence[Candidate],
    *,
    asymmetric: bool,
    pair_safe: bool,
) -> Smoothing:
    """The candidate of the least error; the first of several.

    Args:
        halves: two, of which one may be empty.
        columns: ``[K, n]``, of the weights of all layers of the group.
        reach: ``[K]``, the largest weight of each row.
        tried: candidates; of a single one only the error is found.
        asymmetric: whether the range of the inputs need not lie evenly about zero.
        pair_safe: whether the weights will have scales at which no pair of products overflows.
    """
    filled = [half for half in halves if not half.empty]
    whole = Half(
        np.minimum.reduce([half.low for half in filled]),
        np.maximum.reduce([half.high for half in filled]),
        np.concatenate([half.rows for half in filled]),
    )
    pairs = [(whole, whole)] if len(filled) < 2 or len(tried) == 1 else [(filled[0], filled[1]), (filled[1], filled[0])]
    trials = [_Trial(seen, other.rows, columns, reach, asymmetric, pair_safe) for seen, other in pairs]
    signal = sum(trial.signal for trial in trials)
    best, least = tried[0], np.inf
    for candidate in tried:
        error = sum(trial.error(candidate) for trial in trials)
        if error < least * (1 - 1e-6):  # the last digits may depend on the number of threads
            best, least = candidate, error
    divisors = divisors_of(best, whole.low, whole.high, reach)
    low, high = _range(best, whole, divisors)
    smoothed = whole.rows / divisors
    scale, zero = grid_of(low, high, asymmetric=asymmetric)
    quantized = i8.dequantize(i8.quantize(smoothed, scale, zero, i8.UINT8), scale, zero)
    means = np.stack([smoothed.mean(0, dtype=np.float64), quantized.mean(0, dtype=np.float64)]).astype(np.float32)
    return Smoothing(best, divisors if best.alpha else None, low, high, means, i8.snr_db(signal, least))


def grid_of(low: float, high: float, *, asymmetric: bool) -> tuple[Array, Array]:
    """Scale and zero point of the unsigned integers that cover a range."""
    make = i8.scale_of if asymmetric else i8.balanced
    return make(np.array(low, np.float32), np.array(high, np.float32), i8.UINT8)


def divisors_of(candidate: Candidate, low: Array, high: Array, weight_reach: Array) -> Floats:
    """``[K]``, positive: by what a candidate divides inputs of these extremes, before weights of this reach."""
    if not candidate.alpha:
        return np.ones(len(low), np.float32)
    reach = np.maximum(-low, high).astype(np.float64)
    reach = np.maximum(reach, max(candidate.floor * float(np.median(reach)), _TINY))
    weight = np.maximum(weight_reach.astype(np.float64), max(float(weight_reach.max(initial=0)) * 1e-4, _TINY))
    divisors = np.power(reach, candidate.alpha) / np.power(weight, 1 - candidate.alpha)
    divisors /= np.exp(np.log(divisors).mean())
    scaled: Floats = divisors.astype(np.float32)
    return scaled


def _range(candidate: Candidate, seen: Half, divisors: Floats) -> tuple[float, float]:
    low, high = float((seen.low / divisors).min()), float((seen.high / divisors).max())
    return low * candidate.margin, high * candidate.margin


class _Trial:
    """Divisors and ranges from what was ``seen``, tried on other rows."""

    def __init__(
        self, seen: Half, rows: Floats, columns: Floats, reach: Floats, asymmetric: bool, pair_safe: bool
    ) -> None:
        self._seen, self._rows, self._columns, self._reach = seen, rows, columns, reach
        self._asymmetric, self._pair_safe = asymmetric, pair_safe
        self._expected = product(rows, columns)
        self._weights: dict[tuple[float, float], tuple[Floats, Floats, Floats]] = {}
        self.signal = float(np.square(self._expected, dtype=np.float64).sum())

    def error(self, candidate: Candidate) -> float:
        """Sum of squares."""
        key = candidate.alpha, candidate.floor
        if key not in self._weights:
            self._weights = {key: self._quantized(candidate)}  # one is enough: margins come one after the other
        divisors, integers, steps = self._weights[key]
        scale, zero = grid_of(*_range(candidate, self._seen, divisors), asymmetric=self._asymmetric)
        inputs = self._rows * np.asarray(1 / (divisors * scale), np.float32)
        np.rint(inputs, out=inputs)
        np.clip(inputs, -np.float32(zero), 255 - np.float32(zero), out=inputs)
        output = product(inputs, integers)
        output *= steps * scale
        output -= self._expected
        with np.errstate(over="ignore"):
            total = float(np.square(output).sum(1).sum(dtype=np.float64))
        return total if np.isfinite(total) else float(np.square(output, dtype=np.float64).sum())

    def _quantized(self, candidate: Candidate) -> tuple[Floats, Floats, Floats]:
        divisors = divisors_of(candidate, self._seen.low, self._seen.high, self._reach)
        weights = self._columns * divisors[:, None]
        steps, _ = i8.scale_of(*i8.extremes(weights, 1), i8.INT8)
        if self._pair_safe:
            steps = i8.pair_safe_scale(weights, steps)
        weights /= steps
        return divisors, np.rint(weights, out=weights), steps

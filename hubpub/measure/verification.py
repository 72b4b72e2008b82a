"""Speaker verification: trials, the equal error rate and the least detection cost.

A trial is accepted when its score reaches the threshold. Both figures come from the error rates at every threshold that
the scores allow, not from the ROC's convex hull: the equal error rate lies where the straight line between two
neighbouring thresholds has as many misses as false alarms (as ``sklearn.metrics.roc_curve`` with linear interpolation),
the detection cost is the least at any threshold (NIST SRE 2008 evaluation plan), divided by that of the better of
accepting and refusing everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubpub.measure.stats import Floats, Indices

Curve = Callable[[Floats, Floats], Floats]
"""From false-alarm and miss rates ``[…, thresholds]``, the strictest first, to a figure ``[…]``."""

_AT_ONCE = 1 << 21  # weights held at a time: 16 MB


@dataclass(frozen=True)
class Trials:
    """Pairs of clips: ``first`` and ``second`` index the clips, ``target`` says whether one speaker says both.

    ``speakers`` ``[trials, 2]`` index ``names``.
    """

    first: Indices
    second: Indices
    target: npt.NDArray[np.bool_]
    speakers: Indices
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.first)


def make_trials(
    speakers: Sequence[str | None], recordings: Sequence[str] | None = None, *, most: int, seed: int = 0
) -> Trials:
    """Every pair of clips with known speakers, or ``most`` of them: half are of one speaker, as far as there are.

    Args:
        speakers: of each clip.
        recordings: if given, two clips of one recording make no trial.
        most: greatest number of trials.
        seed: of the choice.
    """
    names = tuple(sorted({name for name in speakers if name is not None}))
    index = {name: number for number, name in enumerate(names)}
    known = np.array([i for i, name in enumerate(speakers) if name is not None], dtype=np.int64)
    who = np.array([index[name] for name in speakers if name is not None], dtype=np.int64)
    first, second = np.triu_indices(len(known), 1)
    if recordings is not None:
        source = np.unique([recordings[i] for i in known], return_inverse=True)[1]
        apart = source[first] != source[second]
        first, second = first[apart], second[apart]
    target = who[first] == who[second]
    rng = np.random.default_rng(seed)
    same, other = np.flatnonzero(target), np.flatnonzero(~target)
    half = most // 2
    of_same = min(len(same), max(half, most - len(other)))
    chosen = [rng.permutation(same)[:of_same], rng.permutation(other)[: most - of_same]]
    kept = np.sort(np.concatenate(chosen))
    first, second = first[kept], second[kept]
    pairs = np.stack([who[first], who[second]], axis=1)
    return Trials(known[first], known[second], target[kept], pairs, names)


def eer(false_alarms: Floats, misses: Floats) -> Floats:
    """The rate at which both are equal."""
    gap = false_alarms - misses  # rises from -1 to 1
    after = np.maximum((gap >= 0).argmax(axis=-1), 1)[..., None]
    low, high = (np.take_along_axis(gap, at, -1) for at in (after - 1, after))
    rate, next_rate = (np.take_along_axis(false_alarms, at, -1) for at in (after - 1, after))
    found: Floats = (rate - low * (next_rate - rate) / (high - low))[..., 0]
    return found


def min_dcf(p_target: float, cost_miss: float, cost_false_alarm: float) -> Curve:
    """The least normalised detection cost, for these costs."""
    miss, false_alarm = cost_miss * p_target, cost_false_alarm * (1 - p_target)

    def least(false_alarms: Floats, misses: Floats) -> Floats:
        found: Floats = (miss * misses + false_alarm * false_alarms).min(axis=-1) / min(miss, false_alarm)
        return found

    return least


def figure(scores: Floats, target: npt.NDArray[np.bool_], curve: Curve, weights: Floats | None = None) -> Floats:
    """``curve`` of scored trials.

    Args:
        scores: ``[trials]``.
        target: ``[trials]``.
        curve: what is asked of the error rates.
        weights: ``[…, trials]`` how often each trial counts; default: once.

    Returns:
        ``[…]``; NaN where no trials of one kind count.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores are accepted together
    each = (np.ones(len(scores)) if weights is None else weights)[..., order]
    accepted_targets = np.cumsum(each * target[order], axis=-1)[..., ends]
    accepted_others = np.cumsum(each * ~target[order], axis=-1)[..., ends]
    targets, others = accepted_targets[..., -1:], accepted_others[..., -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        misses, false_alarms = 1 - accepted_targets / targets, accepted_others / others
    none = np.zeros((*misses.shape[:-1], 1))
    values = curve(np.concatenate([none, false_alarms], -1), np.concatenate([none + 1, misses], -1))
    return np.where((targets[..., 0] > 0) & (others[..., 0] > 0), values, np.nan)


def by_speaker(trials: Trials, statistic: Callable[[Floats], Floats]) -> Callable[[Indices], Floats]:
    """For a bootstrap over speakers: from speakers picked ``[resamples, n]`` to figures ``[resamples]``.

    A speaker who is picked k times counts k times: so does each of his own trials, and a trial between two speakers as
    often as the product says.

    Args:
        trials: what was scored.
        statistic: from weights ``[resamples, trials]`` to figures ``[resamples]``.
    """

    def of(picked: Indices) -> Floats:
        n = len(trials.names)
        step = max(1, _AT_ONCE // max(1, len(trials)))
        found = []
        for start in range(0, len(picked), step):
            part = picked[start : start + step]
            flat = part + n * np.arange(len(part))[:, None]
            counts = np.bincount(flat.ravel(), minlength=n * len(part)).reshape(len(part), n)
            here = counts[:, trials.speakers[:, 0]]
            weights = np.where(trials.target, here, here * counts[:, trials.speakers[:, 1]])
            found.append(statistic(weights.astype(np.float64)))
        return np.concatenate(found)

    return of

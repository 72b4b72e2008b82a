"""Two spectrograms compared along the path on which they fit best: what is said a little later is not another sound.

Dynamic time warping with a band, Sakoe and Chiba (1978): their symmetric form, without a slope constraint.
"""

from __future__ import annotations

import numpy as np

from hubpub.measure.mel import Array


def warped_distance(ours: Array, theirs: Array, band: int) -> float:
    """Mean absolute difference of two spectrograms ``[frames, bands]``, both of one shape, along the best path.

    A step on in both counts twice, in one of them once, so that the path's weights add up to twice the frames; without
    a shift it is the mean over all frames and bands.

    Args:
        ours: one of them.
        theirs: the other.
        band: greatest shift, in frames.
    """
    frames = len(ours)
    before, now = (np.full(frames + 2, np.inf) for _ in range(2))  # [j + 1]: the best way to frame j of theirs
    before[0] = 0.0
    for at, frame in enumerate(ours):
        low, high = max(0, at - band), min(frames, at + band + 1)
        cost = np.abs(theirs[low:high] - frame).mean(axis=1)
        entered = np.minimum(before[low:high] + 2 * cost, before[low + 1 : high + 1] + cost)
        # From there on along this row: the least of entered[k] + cost[k + 1] + … + cost[j].
        along = np.cumsum(cost)
        now[low + 1 : high + 1] = np.minimum.accumulate(entered - along) + along
        now[low], now[high + 1] = np.inf, np.inf
        before, now = now, before
    return float(before[frames] / (2 * frames))

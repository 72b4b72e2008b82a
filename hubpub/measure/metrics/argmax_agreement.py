"""How often a run chooses the same class as a reference run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.measure.metrics._frames import FrameComparison

if TYPE_CHECKING:
    from hubpub.measure.stats import Floats, Interval


class ArgmaxAgreement(FrameComparison):
    """``argmax_agreement``, the share of frames whose greatest score is of the same class (the first of equal ones)."""

    metric: Literal["argmax_agreement"]
    gives: ClassVar[tuple[str, ...]] = ("argmax_agreement",)
    unit: ClassVar[str] = "ratio"

    def frame_values(self, output: Floats, reference: Floats) -> Floats:
        """1 where they agree, else 0."""
        import numpy as np

        return np.asarray(output.argmax(axis=-1) == reference.argmax(axis=-1), dtype=np.float64)

    def interval(self, sums: Sequence[float], frames: Sequence[int]) -> Interval:
        """Counted frames: where nothing differs, the exact bound."""
        from hubpub.measure.stats import Interval, rate_interval

        differ = [of - round(agree) for agree, of in zip(sums, frames, strict=True)]
        found = rate_interval(differ, frames, "frames")
        if found.low is None or found.high is None:
            return found
        return Interval(1 - found.high, 1 - found.low, found.method)

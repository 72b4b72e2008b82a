"""Equal error rate of speaker verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.measure.metrics._trials import VerificationMetric

if TYPE_CHECKING:
    from hubpub.measure.verification import Curve


class Eer(VerificationMetric):
    """``eer``; with a second run also the paired delta. Between thresholds by a straight line, no convex hull."""

    metric: Literal["eer"]
    gives: ClassVar[tuple[str, ...]] = ("eer",)
    deltas: ClassVar[tuple[str, ...]] = gives

    def curve(self) -> Curve:
        """Where misses and false alarms are equal."""
        from hubpub.measure.verification import eer

        return eer

"""Least detection cost of speaker verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.measure.metrics._trials import VerificationMetric

if TYPE_CHECKING:
    from hubpub.measure.verification import Curve


class MinDcf(VerificationMetric):
    """``min_dcf``, normalised; with a second run also the paired delta."""

    metric: Literal["min_dcf"]
    p_target: float = Field(
        default=0.05, gt=0, lt=1, description="How often both are one speaker; VoxSRC has 0.05, NIST SRE 2016 0.01."
    )
    cost_miss: float = Field(default=1.0, gt=0, description="Of a speaker who is refused.")
    cost_false_alarm: float = Field(default=1.0, gt=0, description="Of another one who is accepted.")
    gives: ClassVar[tuple[str, ...]] = ("min_dcf",)
    deltas: ClassVar[tuple[str, ...]] = gives

    def curve(self) -> Curve:
        """The least cost."""
        from hubpub.measure.verification import min_dcf

        return min_dcf(self.p_target, self.cost_miss, self.cost_false_alarm)

    def describe(self) -> str:
        """With the costs."""
        costs = f"P {self.p_target:g}, costs {self.cost_miss:g} and {self.cost_false_alarm:g}"
        return f"{super().describe()}, {costs}"

"""Greatest absolute difference between a model's outputs and those of a reference run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.measure.metrics._outputs import OutputComparison

if TYPE_CHECKING:
    from hubpub.measure.outputs import Vector
    from hubpub.measure.stats import Floats


class MaxAbsDiff(OutputComparison):
    """``max_abs_diff`` over all elements of all clips, in the unit of the output."""

    metric: Literal["max_abs_diff"]
    gives: ClassVar[tuple[str, ...]] = ("max_abs_diff",)
    unit: ClassVar[str] = ""

    def clip_value(self, output: Vector, reference: Vector) -> float:
        """The greatest of one clip."""
        import numpy as np

        return float(np.abs(output - reference).max(initial=0))

    def statistics(self) -> dict[str, Callable[[Floats], Floats]]:
        """The greatest of all."""
        return {"max_abs_diff": lambda values: values.max(axis=-1)}

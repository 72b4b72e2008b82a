"""Cosine similarity of a model's outputs to those of a reference run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.measure.metrics._outputs import OutputComparison

if TYPE_CHECKING:
    from hubpub.measure.outputs import Vector
    from hubpub.measure.stats import Floats


class Cosine(OutputComparison):
    """``cosine`` (mean over clips), ``cosine_p1`` (first percentile) and ``cosine_min``."""

    metric: Literal["cosine"]
    gives: ClassVar[tuple[str, ...]] = ("cosine", "cosine_p1", "cosine_min")
    unit: ClassVar[str] = "cosine"

    def clip_value(self, output: Vector, reference: Vector) -> float:
        """1 for equal directions; two zero vectors are equal, one alone has similarity 0."""
        import numpy as np

        # Scaled first: the square of a large output would overflow.
        scale, other_scale = np.abs(output).max(initial=0), np.abs(reference).max(initial=0)
        if scale == 0 or other_scale == 0:
            return float(scale == other_scale)
        a, b = output / scale, reference / other_scale
        return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))

    def statistics(self) -> dict[str, Callable[[Floats], Floats]]:
        """Mean, first percentile, minimum."""
        import numpy as np

        return {
            "cosine": lambda values: values.mean(axis=-1),
            "cosine_p1": lambda values: np.quantile(values, 0.01, axis=-1),
            "cosine_min": lambda values: values.min(axis=-1),
        }

"""How far a classifier's probabilities are from those of a reference run."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.measure.metrics._frames import FrameComparison

if TYPE_CHECKING:
    from hubpub.measure.stats import Floats


class Kl(FrameComparison):
    """``kl``, mean over frames of the divergence of the run from the reference, in nats.

    Kullback and Leibler, "On Information and Sufficiency" (1951): the sum of ``p ln (p / q)`` over the classes of the
    last axis, with the reference's probabilities as ``p`` and the run's as ``q``.
    """

    metric: Literal["kl"]
    outputs: Literal["logits", "probabilities"] = Field(
        default="logits",
        description="What the model gives: logits (log-probabilities are such), or probabilities.",
    )
    gives: ClassVar[tuple[str, ...]] = ("kl",)
    unit: ClassVar[str] = "nats"

    def frame_values(self, output: Floats, reference: Floats) -> Floats:
        """At least 0."""
        import numpy as np

        log_q, log_p = (self._log_probabilities(each) for each in (output, reference))
        divergence: Floats = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
        return np.maximum(divergence, 0.0)

    def _log_probabilities(self, scores: Floats) -> Floats:
        import numpy as np

        if self.outputs == "probabilities":
            scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))  # a share of nought is below float32
        shifted = scores - scores.max(axis=-1, keepdims=True)
        found: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return found

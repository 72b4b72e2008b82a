"""How different two waveforms sound: for speech synthesis, where samples may shift without anybody hearing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.measure.metrics._outputs import OutputComparison

if TYPE_CHECKING:
    from hubpub.measure.outputs import Vector
    from hubpub.measure.stats import Floats


class LogMelDistance(OutputComparison):
    """``log_mel_distance`` in dB, the mean over clips.

    Of a clip it is the mean absolute difference of the two log-mel spectrograms over frames and bands. The shorter of
    the two waveforms is filled up with silence, so that speech which breaks off counts.
    """

    metric: Literal["log_mel_distance"]
    rate: int = Field(default=16_000, ge=8_000, le=192_000, description="Samples per second of the outputs.")
    gives: ClassVar[tuple[str, ...]] = ("log_mel_distance",)
    unit: ClassVar[str] = "dB"
    same_shape: ClassVar[bool] = False

    def clip_value(self, output: Vector, reference: Vector) -> float:
        """Mean over frames and bands."""
        import numpy as np

        from hubpub.measure.mel import log_mel

        length = max(len(output), len(reference))
        ours, theirs = (log_mel(np.pad(each, (0, length - len(each))), self.rate) for each in (output, reference))
        return float(np.abs(ours - theirs).mean())

    def statistics(self) -> dict[str, Callable[[Floats], Floats]]:
        """Mean."""
        return {"log_mel_distance": lambda values: values.mean(axis=-1)}

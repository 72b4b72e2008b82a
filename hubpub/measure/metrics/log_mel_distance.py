"""How different two waveforms sound: for speech synthesis, where samples may shift without anybody hearing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from hubpub.errors import MeasureError
from hubpub.measure.metrics._outputs import OutputComparison
from hubpub.measure.metrics.base import Remark
from hubpub.measure.result import RunResult

if TYPE_CHECKING:
    from hubpub.measure.outputs import Vector
    from hubpub.measure.stats import Floats

RATE = 16_000
"""Of outputs that do not say their own, in Hz."""


class LogMelDistance(OutputComparison):
    """``log_mel_distance`` in dB, the mean over clips.

    Of a clip it is the mean absolute difference of the two log-mel spectrograms over frames and bands. The shorter of
    the two waveforms is filled up with silence, so that speech which breaks off counts.
    """

    metric: Literal["log_mel_distance"]
    rate: int | None = Field(
        default=None,
        ge=8_000,
        le=192_000,
        description="Samples per second of the outputs; default: that of the audio, 16000 where outputs do not say.",
    )
    shift_s: float = Field(
        default=0.0,
        ge=0,
        le=5,
        allow_inf_nan=False,
        description="Greatest shift in time, in seconds, along which frames are aligned (dynamic time warping) before "
        "they are compared; 0: none. For voices that choose durations themselves.",
    )
    gives: ClassVar[tuple[str, ...]] = ("log_mel_distance",)
    unit: ClassVar[str] = "dB"
    same_shape: ClassVar[bool] = False

    def for_runs(self, run: RunResult, reference: RunResult) -> Self:
        """With the rate of their audio.

        Raises:
            MeasureError: it is another one than was asked for, or the two differ.
        """
        from hubpub.measure.outputs import audio_rate

        rate = audio_rate(run, reference)
        if rate and self.rate and rate != self.rate:
            what = f"{self.metric} is asked for at {self.rate} Hz, and the audio has {rate} Hz"
            raise MeasureError(what, where=f"run {run.job.run}", fix="leave `rate` out")
        return self.model_copy(update={"rate": rate or self.rate or RATE})

    def remark(self) -> Remark:
        """How far frames may shift."""
        return {"normalizer": f"shifts of up to {self.shift_s:g} s"} if self.shift_s else {}

    def clip_value(self, output: Vector, reference: Vector) -> float:
        """Mean over frames and bands."""
        import numpy as np

        from hubpub.measure.mel import HOP_S, log_mel
        from hubpub.measure.warp import warped_distance

        length = max(len(output), len(reference))
        rate = self.rate or RATE
        ours, theirs = (log_mel(np.pad(each, (0, length - len(each))), rate) for each in (output, reference))
        if self.shift_s:
            return warped_distance(ours, theirs, round(self.shift_s / HOP_S))
        return float(np.abs(ours - theirs).mean())

    def statistics(self) -> dict[str, Callable[[Floats], Floats]]:
        """Mean."""
        return {"log_mel_distance": lambda values: values.mean(axis=-1)}

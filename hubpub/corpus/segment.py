"""How long audio is cut into what a model takes at a time; the way is part of a measurement's description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Whole(_Frozen):
    """Each clip in one pass."""

    by: Literal["none"] = "none"

    def describe(self) -> str:
        """In words."""
        return "clips in one pass"

    def windows(self, samples: Samples, rate: int) -> list[Samples]:
        """The clip itself."""
        return [samples]


class SilenceWindows(_Frozen):
    """Windows that end at the quietest place near their greatest length."""

    by: Literal["silence"]
    max_s: float = Field(default=20.0, gt=0, le=3600, description="Greatest length of a window, in seconds.")
    search_s: float = Field(default=10.0, gt=0, description="How far before that the quietest place is sought.")

    @model_validator(mode="after")
    def _window_has_length(self) -> Self:
        if self.search_s >= self.max_s:
            raise ValueError("search_s must be less than max_s")
        return self

    def describe(self) -> str:
        """In words."""
        return f"windows of at most {self.max_s:g} s cut at the quietest place of their last {self.search_s:g} s"

    def windows(self, samples: Samples, rate: int) -> list[Samples]:
        """Cut samples ``[frames]`` into windows that follow each other without gap or overlap."""
        import numpy as np

        power = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
        longest, search, around, step = (max(1, round(s * rate)) for s in (self.max_s, self.search_s, 0.1, 0.01))
        start, windows = 0, []
        while len(samples) - start > longest:
            first, last = max(start + longest - search, start + 1), start + longest
            last = max(first, min(last, len(samples) - around))  # clients stumble over a few samples that are left
            places = np.arange(first, last + 1, step)
            loudness = power[np.minimum(places + around, len(samples))] - power[np.maximum(places - around, 0)]
            cut = int(places[loudness.argmin()])
            windows.append(samples[start:cut])
            start = cut
        return [*windows, samples[start:]]


class LengthWindows(_Frozen):
    """Windows of one length, as models of a fixed input are fed by their users; the last one ends with the audio."""

    by: Literal["length"]
    seconds: float = Field(gt=0, le=3600, description="Length of a window, in seconds.")
    hop_s: float | None = Field(default=None, gt=0, description="From start to start, in seconds; default: the length.")

    def describe(self) -> str:
        """In words."""
        hop = f" every {self.hop_s:g} s" if self.hop_s is not None else ""
        return f"windows of {self.seconds:g} s{hop}, the last at the end"

    def windows(self, samples: Samples, rate: int) -> list[Samples]:
        """Cut samples ``[frames]``; audio that is shorter than a window is one."""
        size = max(1, round(self.seconds * rate))
        step = max(1, round((self.hop_s or self.seconds) * rate))
        starts = [*range(0, max(0, len(samples) - size), step), max(0, len(samples) - size)]
        return [samples[start : start + size] for start in starts]


class VadSegments(_Frozen):
    """onnx-asr's own ``with_vad``; all defaults but ``batch_size`` are its own."""

    by: Literal["vad"]
    model: str = Field(min_length=1, description="The Silero VAD ONNX file, as source/path in that source.")
    max_speech_s: float = Field(default=20.0, gt=0, description="Greatest length of a segment, in seconds.")
    min_speech_ms: float = Field(default=250.0, ge=0, description="Shorter speech is dropped, in milliseconds.")
    min_silence_ms: float = Field(default=100.0, ge=0, description="Shorter silence joins its neighbours.")
    speech_pad_ms: float = Field(default=30.0, ge=0, description="Silence kept around speech, in milliseconds.")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="Probability from which on it is speech.")
    batch_size: int = Field(
        default=1,
        ge=1,
        description="Segments per call. onnx-asr's default is 8, but then its Whisper features depend on the loudest "
        "segment of the batch.",
    )

    def describe(self) -> str:
        """In words."""
        return (
            f"onnx-asr with_vad (Silero, threshold {self.threshold:g}, speech {self.min_speech_ms:g} ms to "
            f"{self.max_speech_s:g} s, silence from {self.min_silence_ms:g} ms, pad {self.speech_pad_ms:g} ms, "
            f"batch {self.batch_size})"
        )


Segmentation = Annotated[Whole | SilenceWindows | VadSegments, Field(discriminator="by")]

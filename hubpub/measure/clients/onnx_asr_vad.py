"""onnx-asr's voice activity detection: where somebody speaks, whoever it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hubpub.corpus.corpus import Turn
from hubpub.measure.clients.base import PROVIDERS, Client, Loaded, Output
from hubpub.measure.result import Kind

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

RATE = 16_000
SPEECH = "speech"


class OnnxAsrVad(Client):
    """Stretches of speech through ``onnx_asr.load_vad``, for ``der`` with ``speech_only``."""

    client: Literal["onnx-asr-vad"]
    model: Literal["silero", "pyannote"] = Field(description="onnx-asr's name of the model's type.")
    quantization: str | None = Field(
        default=None, pattern=r"^\w[\w.-]*$", description="Suffix of the files, such as int8; default: none."
    )
    threshold: float = Field(default=0.5, gt=0, lt=1, description="Probability from which on it is speech.")
    max_speech_s: float = Field(default=1e6, gt=0, description="Greatest length of a stretch, in seconds.")
    min_speech_ms: float = Field(default=250.0, ge=0, description="Shorter speech is dropped, in milliseconds.")
    min_silence_ms: float = Field(default=100.0, ge=0, description="Shorter silence joins its neighbours.")
    speech_pad_ms: float = Field(default=30.0, ge=0, description="Silence kept around speech, in milliseconds.")
    libraries: ClassVar[tuple[str, ...]] = ("onnx-asr", "onnxruntime", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("onnx_asr", "onnxruntime")
    makes: ClassVar[tuple[Kind, ...]] = ("turns",)

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        return (
            f"onnx-asr {self.model} VAD, {self.quantization or 'no'} suffix, threshold {self.threshold:g}, speech from "
            f"{self.min_speech_ms:g} ms, silence from {self.min_silence_ms:g} ms, pad {self.speech_pad_ms:g} ms, "
            f"{self.threads} threads"
        )

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Load the model as a user would; onnx-asr's own errors come through."""
        import onnx_asr

        options: dict[str, Any] = {"sess_options": self.session_options(), "providers": list(PROVIDERS)}
        return _Vad(onnx_asr.load_vad(self.model, folder, quantization=self.quantization, **options), self)


class _Vad:
    def __init__(self, vad: Any, spec: OnnxAsrVad) -> None:
        self._vad, self._spec = vad, spec

    def run(self, samples: Samples) -> Output:
        import numpy as np

        spec = self._spec
        (found,) = self._vad.segment_batch(
            samples[None],
            np.array([len(samples)], dtype=np.int64),
            RATE,
            threshold=spec.threshold,
            min_speech_duration_ms=spec.min_speech_ms,
            max_speech_duration_s=spec.max_speech_s,
            min_silence_duration_ms=spec.min_silence_ms,
            speech_pad_ms=spec.speech_pad_ms,
        )
        turns = tuple(Turn(start=int(start) / RATE, end=int(end) / RATE, speaker=SPEECH) for start, end in found)
        return Output(segments=len(turns), turns=turns)

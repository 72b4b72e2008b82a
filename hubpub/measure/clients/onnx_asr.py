"""onnx-asr (istupakov/onnx-asr), the Python loader of the Whisper, NeMo, GigaAM, Vosk and T-one ONNX repos."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hubpub.corpus.segment import Segmentation, SilenceWindows, VadSegments, Whole
from hubpub.measure.clients.base import PROVIDERS, Client, Loaded, Output
from hubpub.measure.result import Kind, Piece

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

RATE = 16_000

ModelType = Literal[
    "kaldi-rnnt",
    "nemo-conformer-ctc",
    "nemo-conformer-rnnt",
    "nemo-conformer-tdt",
    "nemo-conformer-aed",
    "t-one-ctc",
    "vosk",
    "whisper-ort",
    "whisper",
    "gigaam-v2-ctc",
    "gigaam-v2-rnnt",
    "gigaam-v3-ctc",
    "gigaam-v3-rnnt",
    "gigaam-v3-e2e-ctc",
    "gigaam-v3-e2e-rnnt",
    "gigaam-multilingual-ctc",
    "gigaam-multilingual-large-ctc",
]


class OnnxAsr(Client):
    """Greedy transcripts through ``onnx_asr.load_model``; segments are joined by a space."""

    client: Literal["onnx-asr"]
    model: ModelType = Field(description="onnx-asr's name of the model's type.")
    quantization: str | None = Field(
        default=None, pattern=r"^\w[\w.-]*$", description="Suffix of the files, such as int8; default: none."
    )
    language: str | None = Field(
        default=None, pattern=r"^[a-z]{2,3}$", description="Spoken language (Whisper, Canary)."
    )
    segment: Segmentation = Field(default=Whole(), description="How long audio is cut.")
    word_times: bool = Field(
        default=False,
        description="Also take the time of each word, where the model gives it, so that sections are told in one pass "
        "too. Not with `by: vad`.",
    )
    libraries: ClassVar[tuple[str, ...]] = ("onnx-asr", "onnxruntime", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("onnx_asr", "onnxruntime")
    makes: ClassVar[tuple[Kind, ...]] = ("text",)

    @model_validator(mode="after")
    def _segments_have_times(self) -> Self:
        if self.word_times and isinstance(self.segment, VadSegments):
            raise ValueError("onnx-asr's segments have times of their own: leave out word_times")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_asked(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What earlier versions wrote: runs keep their keys."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if name != "word_times" or value}

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        language = f", language {self.language}" if self.language else ""
        return (
            f"onnx-asr {self.model}, {self.quantization or 'no'} suffix{language}, greedy, {self.segment.describe()}, "
            f"{self.threads} threads"
        )

    def references(self) -> tuple[str, ...]:
        """The VAD's model, where there is one."""
        return (self.segment.model,) if isinstance(self.segment, VadSegments) else ()

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Load the model as a user would; onnx-asr's own errors come through."""
        import onnx_asr

        options: dict[str, Any] = {"sess_options": self.session_options(), "providers": list(PROVIDERS)}
        model = onnx_asr.load_model(self.model, folder, quantization=self.quantization, **options)
        language: dict[str, Any] = {"language": self.language} if self.language else {}
        if isinstance(self.segment, VadSegments):
            return _WithVad(model, self.segment, files[self.segment.model], options, language)
        return _Windowed(model, self.segment, language, word_times=self.word_times)


class _Windowed:
    def __init__(
        self, model: Any, segment: Whole | SilenceWindows, language: dict[str, Any], *, word_times: bool
    ) -> None:
        self._model, self._segment, self._language = model, segment, language
        self._timed = model.with_timestamps() if word_times else None

    def run(self, samples: Samples) -> Output:
        if self._timed is not None:
            return self._with_words(samples)
        if isinstance(self._segment, Whole):
            return Output(segments=1, text=_join([self._model.recognize(samples, **self._language)]))
        pieces, at = [], 0
        for window in self._segment.windows(samples, RATE):
            text = self._model.recognize(window, **self._language)
            pieces.append(Piece(start=at / RATE, end=(at + len(window)) / RATE, text=text.strip()))
            at += len(window)
        return _joined(pieces)

    def _with_words(self, samples: Samples) -> Output:
        assert self._timed is not None
        pieces, windows, at = [], self._segment.windows(samples, RATE), 0
        for window in windows:
            found = self._timed.recognize(window, **self._language)
            start, end = at / RATE, (at + len(window)) / RATE
            pieces += _words(found.text, found.tokens, found.timestamps, start, end)
            at += len(window)
        return Output(segments=len(windows), text=_join([piece.text for piece in pieces]), pieces=tuple(pieces))


def _words(
    text: str, tokens: list[str] | None, timestamps: list[float] | None, start: float, end: float
) -> list[Piece]:
    """The words of a window from ``start`` to ``end``, each from its first token to that of the next.

    One piece for all of it where the tokens do not tell: a model without times, or tokens that do not spell the text.
    """
    words = text.split()
    if tokens is None or timestamps is None or "".join(tokens).split() != words:
        return [Piece(start=start, end=end, text=" ".join(words))] if words else []
    times: list[float] = []
    between = True
    for token, time in zip(tokens, timestamps, strict=True):
        for char in token:
            if not char.isspace() and between:
                times.append(min(start + float(time), end))
            between = char.isspace()
    ends = [*times, end][1:]
    return [Piece(start=at, end=to, text=word) for word, at, to in zip(words, times, ends, strict=True)]


class _WithVad:
    def __init__(
        self, model: Any, segment: VadSegments, vad_file: Path, options: dict[str, Any], language: dict[str, Any]
    ) -> None:
        import onnx_asr

        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(vad_file, Path(folder, "silero_vad.onnx"))  # the only name that the loader knows
            vad = onnx_asr.load_vad("silero", folder, **options)
        self._language = language
        self._model = model.with_vad(
            vad,
            batch_size=segment.batch_size,
            threshold=segment.threshold,
            min_speech_duration_ms=segment.min_speech_ms,
            max_speech_duration_s=segment.max_speech_s,
            min_silence_duration_ms=segment.min_silence_ms,
            speech_pad_ms=segment.speech_pad_ms,
        )

    def run(self, samples: Samples) -> Output:
        found = self._model.recognize(samples, **self._language)
        return _joined([Piece(start=float(each.start), end=float(each.end), text=each.text.strip()) for each in found])


def _joined(pieces: list[Piece]) -> Output:
    return Output(segments=len(pieces), text=_join([piece.text for piece in pieces]), pieces=tuple(pieces))


def _join(texts: list[str]) -> str:
    return " ".join(stripped for text in texts if (stripped := text.strip()))

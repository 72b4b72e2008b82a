"""onnxruntime directly: one model file fed with features of real audio, for comparing outputs number by number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hubpub.errors import MeasureError
from hubpub.measure.clients.base import PROVIDERS, Client, Loaded, ModelPath, Output
from hubpub.measure.result import Kind
from hubpub.measure.segment import SilenceWindows, Whole

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

Features = Literal[
    "waveform", "whisper80", "whisper128", "nemo80", "nemo128", "kaldi", "wespeaker", "gigaam_v2", "gigaam_v3"
]
_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_INTEGERS = {"tensor(int64)": "int64", "tensor(int32)": "int32"}


class OnnxRuntime(Client):
    """The model's output for each clip, fed as the model's client would feed it.

    The first floating-point input gets the features (a waveform is shaped ``[1, frames]`` or ``[1, 1, frames]``, as the
    graph wants it), the first integer input their length.
    """

    client: Literal["onnxruntime"]
    model: ModelPath = Field(description="The ONNX file, by its published name.")
    features: Features = Field(description="What the model takes, computed by onnx-asr's own NumPy preprocessors.")
    output: str | None = Field(default=None, description="Name of the output to compare; default: the first.")
    segment: Annotated[Whole | SilenceWindows, Field(discriminator="by")] = Field(
        default=Whole(), description="How long audio is cut."
    )
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx-asr", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx_asr")
    makes: ClassVar[tuple[Kind, ...]] = ("arrays",)

    def opens(self) -> tuple[str, ...]:
        """The model."""
        return (self.model,)

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        output = f", output {self.output}" if self.output else ""
        return (
            f"onnxruntime {self.model}, {self.features} features{output}, {self.segment.describe()}, "
            f"{self.threads} threads"
        )

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Open a session; onnxruntime's own errors come through.

        Raises:
            MeasureError: the graph has inputs that audio alone cannot fill, or no such output.
        """
        import onnxruntime

        path = folder / self.model
        session = onnxruntime.InferenceSession(path, self.session_options(), providers=list(PROVIDERS))
        return _Session(session, self)


class _Session:
    def __init__(self, session: Any, spec: OnnxRuntime) -> None:
        self._session, self._segment = session, spec.segment
        self._preprocess = _preprocessor(spec.features)
        inputs = session.get_inputs()
        self._features = next((i for i in inputs if i.type in _FLOATS), None)
        self._length = next((i for i in inputs if i.type in _INTEGERS), None)
        left = [i.name for i in inputs if i not in (self._features, self._length)]
        if self._features is None or left:
            more = f" and {len(left) - 1} more inputs" if len(left) > 1 else ""
            wanted = f"needs {left[0]}{more} too" if left else "takes no floating-point input"
            raise MeasureError(f"{spec.model} {wanted}", fix="measure a model that takes audio features alone")
        names = [o.name for o in session.get_outputs()]
        if spec.output is not None and spec.output not in names:
            raise MeasureError(f"{spec.model} has no output {spec.output}", fix=f"choose from {', '.join(names)}")
        self._output = spec.output or names[0]

    def run(self, samples: Samples) -> Output:
        windows = self._segment.windows(samples, 16_000) if isinstance(self._segment, SilenceWindows) else [samples]
        arrays = tuple(self._run_window(window) for window in windows)
        return Output(segments=len(arrays), arrays=arrays)

    def _run_window(self, window: Samples) -> Any:
        import numpy as np

        features, lengths = self._preprocess(window[None], np.array([len(window)], dtype=np.int64))
        assert self._features is not None
        if features.ndim == 2 and len(self._features.shape) == 3:
            features = features[:, None]
        feed = {self._features.name: features.astype(_FLOATS[self._features.type])}
        if self._length is not None:
            feed[self._length.name] = lengths.astype(_INTEGERS[self._length.type])
        return self._session.run([self._output], feed)[0]


def _preprocessor(name: Features) -> Any:
    from onnx_asr.preprocessors import numpy_preprocessor as numpy_features
    from onnx_asr.preprocessors.preprocessor import IdentityPreprocessor

    if name == "waveform":
        return IdentityPreprocessor()
    if name == "wespeaker":
        return _mean_subtracted(numpy_features.KaldiPreprocessorNumpy(name))
    families = {
        "whisper": numpy_features.WhisperPreprocessorNumpy,
        "nemo": numpy_features.NemoPreprocessorNumpy,
        "kaldi": numpy_features.KaldiPreprocessorNumpy,
        "gigaam": numpy_features.GigaamPreprocessorNumpy,
    }
    return next(make(name) for family, make in families.items() if name.startswith(family))


def _mean_subtracted(preprocess: Any) -> Any:
    """What onnx-asr's speaker embedder does after its preprocessor."""

    def run(waveforms: Any, lengths: Any) -> Any:
        features, feature_lengths = preprocess(waveforms, lengths)
        return features - features.mean(axis=1, keepdims=True), feature_lengths

    return run

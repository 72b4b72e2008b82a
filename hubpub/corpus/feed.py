"""What a graph is given for a stretch of audio: features of the kind that its client would compute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hubpub.errors import MeasureError

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

Features = Literal[
    "waveform",
    "whisper80",
    "whisper128",
    "nemo80",
    "nemo128",
    "kaldi",
    "wespeaker",
    "campplus",
    "gigaam_v2",
    "gigaam_v3",
]
FEATURES_HELP = "What the model takes, computed by onnx-asr's own NumPy preprocessors; `campplus` by hubpub's."
LIBRARIES = ("onnx-asr", "numpy")
"""Distributions that decide the features."""

_FLOATS = {"float": "float32", "float16": "float16", "double": "float64"}
_INTEGERS = {"int64": "int64", "int32": "int32"}


@dataclass(frozen=True)
class Input:
    """An input of a graph: its element type as ONNX names it, and its rank if that is known."""

    name: str
    type: str
    rank: int | None


class Feed:
    """Turns samples into a graph's inputs.

    The first floating-point input gets the features (a waveform is shaped ``[1, frames]`` or ``[1, 1, frames]``, as the
    graph wants it), the first integer input their length.

    Raises:
        MeasureError: the graph has inputs that audio alone cannot fill.
    """

    def __init__(self, features: Features, inputs: Iterable[Input], model: str) -> None:
        inputs = list(inputs)
        self._preprocess = _preprocessor(features)
        self._length = next((each for each in inputs if each.type in _INTEGERS), None)
        audio = next((each for each in inputs if each.type in _FLOATS), None)
        left = [each.name for each in inputs if each not in (audio, self._length)]
        if audio is None or left:
            more = f" and {len(left) - 1} more inputs" if len(left) > 1 else ""
            wanted = f"needs {left[0]}{more} too" if left else "takes no floating-point input"
            raise MeasureError(f"{model} {wanted}", fix="take a model that takes audio features alone")
        self._audio = audio

    def __call__(self, samples: Samples) -> dict[str, Any]:
        """The inputs by name, for float32 ``[frames]`` at 16 kHz."""
        import numpy as np

        features, lengths = self._preprocess(samples[None], np.array([len(samples)], dtype=np.int64))
        if features.ndim == 2 and self._audio.rank == 3:
            features = features[:, None]
        feed = {self._audio.name: features.astype(_FLOATS[self._audio.type])}
        if self._length is not None:
            feed[self._length.name] = lengths.astype(_INTEGERS[self._length.type])
        return feed


def filled_up(features: Features, name: str, array: Any, shape: Sequence[int | None]) -> Any:
    """The features of one window as long as an input of that shape wants them: what is missing is zeros.

    Raises:
        MeasureError: the window is longer than the input.
    """
    import numpy as np

    amounts = [(0, 0)] * array.ndim
    axis = time_axis(features) % array.ndim
    if array.ndim > 1 and (size := shape[axis]) is not None:
        if array.shape[axis] > size:
            what = f"{name} takes {size} frames, and a window has {array.shape[axis]}"
            raise MeasureError(what, fix="cut the audio: segment: {by: length, seconds: …}")
        amounts[axis] = (0, size - array.shape[axis])
    return np.pad(array, amounts)


def time_axis(features: Features) -> int:
    """Which axis of the features counts the frames; a waveform's last one counts its samples."""
    if features == "waveform":
        return -1
    return 1 if features in ("kaldi", "wespeaker", "campplus") else 2


def _preprocessor(name: Features) -> Any:
    from onnx_asr.preprocessors import numpy_preprocessor as numpy_features
    from onnx_asr.preprocessors.preprocessor import IdentityPreprocessor

    if name == "waveform":
        return IdentityPreprocessor()
    if name == "campplus":
        return _campplus
    if name == "wespeaker":
        return _mean_subtracted(numpy_features.KaldiPreprocessorNumpy(name))
    families = {
        "whisper": numpy_features.WhisperPreprocessorNumpy,
        "nemo": numpy_features.NemoPreprocessorNumpy,
        "kaldi": numpy_features.KaldiPreprocessorNumpy,
        "gigaam": numpy_features.GigaamPreprocessorNumpy,
    }
    return next(make(name) for family, make in families.items() if name.startswith(family))


def _campplus(waveforms: Any, lengths: Any) -> Any:
    """Kaldi's filter banks of samples between -1 and 1, the mean taken off, as 3D-Speaker's models were trained."""
    import numpy as np

    from hubpub.corpus.features import Fbank

    features = Fbank(mean=True)(waveforms[0])
    return features[None], np.full_like(lengths, len(features))


def _mean_subtracted(preprocess: Any) -> Any:
    """What onnx-asr's speaker embedder does after its preprocessor."""

    def run(waveforms: Any, lengths: Any) -> Any:
        features, feature_lengths = preprocess(waveforms, lengths)
        return features - features.mean(axis=1, keepdims=True), feature_lengths

    return run

"""Local diarization by a powerset segmentation model, such as pyannote's segmentation-3.0, through onnxruntime.

Plaquet and Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization" (Interspeech 2023): every
frame is of one class, and a class is a set of speakers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hubpub.corpus.corpus import Turn
from hubpub.errors import MeasureError
from hubpub.measure.clients.base import PROVIDERS, Client, Loaded, ModelPath, Output
from hubpub.measure.result import Kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hubpub.corpus.audio import Samples

RATE = 16_000


class Powerset(Client):
    """Who speaks when, window by window; the names of speakers hold within a window, so ``der`` maps them for each.

    The model takes a waveform ``[1, 1, samples]`` and gives scores ``[1, frames, classes]``, which are kept too. A last
    window that is not full is filled up with silence.
    """

    client: Literal["powerset"]
    model: ModelPath = Field(description="The ONNX file, by its published name.")
    window_s: float = Field(default=10.0, gt=0, le=600, description="Length of a window, in seconds.")
    speakers: int = Field(default=3, ge=1, le=16, description="Speakers that the model tells apart in a window.")
    at_once: int = Field(default=2, ge=1, le=16, description="Greatest number that it hears at the same time.")
    step: int = Field(default=270, ge=1, description="Samples from frame to frame.")
    receptive_field: int = Field(default=991, ge=1, description="Samples that the first frame is made of.")
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy")
    makes: ClassVar[tuple[Kind, ...]] = ("turns", "arrays")

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        return (
            f"onnxruntime {self.model}, powerset of {self.speakers} speakers, at most {self.at_once} at once, "
            f"windows of {self.window_s:g} s, {self.threads} threads"
        )

    def opens(self) -> tuple[str, ...]:
        """The model."""
        return (self.model,)

    def classes(self) -> list[tuple[int, ...]]:
        """The speakers of each class: nobody, each alone, then pairs."""
        most = min(self.at_once, self.speakers)
        return [each for count in range(most + 1) for each in combinations(range(self.speakers), count)]

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Open a session; onnxruntime's own errors come through."""
        import onnxruntime

        path = folder / self.model
        return _Windows(onnxruntime.InferenceSession(path, self.session_options(), providers=list(PROVIDERS)), self)


class _Windows:
    def __init__(self, session: Any, spec: Powerset) -> None:
        self._session, self._spec = session, spec
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def run(self, samples: Samples) -> Output:
        import numpy as np

        size = round(self._spec.window_s * RATE)
        seconds = len(samples) / RATE
        scores, turns, windows = [], [], []
        for first in range(0, len(samples), size):
            window = samples[first : first + size]
            full = np.pad(window, (0, size - len(window)))[None, None].astype(np.float32)
            output = self._session.run([self._output], {self._input: full})[0]
            start, end = first / RATE, min((first + size) / RATE, seconds)
            scores.append(output)
            windows.append((start, end))
            turns += frame_turns(output[0], self._spec, start, end)
        return Output(segments=len(scores), arrays=tuple(scores), turns=tuple(turns), windows=tuple(windows))


def frame_turns(scores: npt.NDArray[np.floating[Any]], spec: Powerset, start: float, end: float) -> list[Turn]:
    """The turns that scores ``[frames, classes]`` say, between ``start`` and ``end`` in seconds.

    A frame stands for one step around the middle of what it was made of; the first and the last reach to the ends.

    Raises:
        MeasureError: there are not as many classes as ``spec`` says.
    """
    import numpy as np

    classes = spec.classes()
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        shape = "x".join(map(str, scores.shape))
        what = f"{spec.model} gives {shape} scores, and {spec.speakers} speakers make {len(classes)} classes"
        raise MeasureError(what, fix="correct `speakers` and `at_once`")
    chosen = scores.argmax(axis=1)
    middles = np.arange(len(chosen)) * spec.step + spec.receptive_field / 2
    edges = np.append(middles - spec.step / 2, middles[-1] + spec.step / 2) / RATE + start
    edges[0], edges[-1] = start, max(float(edges[-1]), start + spec.window_s)
    turns = []
    for speaker in range(spec.speakers):
        active = np.array([speaker in each for each in classes])[chosen]
        changes = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]])))
        for begin, stop in zip(edges[changes[::2]], edges[changes[1::2]], strict=True):
            if begin < end:
                low, high = round(float(begin), 6), round(min(float(stop), end), 6)
                turns.append(Turn(start=low, end=high, speaker=str(speaker)))
    return sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker))

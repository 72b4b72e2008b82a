"""Streaming diarization by a Sortformer package for Core ML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hubpub.corpus.corpus import Turn
from hubpub.errors import MeasureError
from hubpub.measure.clients.base import Client, Loaded, ModelPath, Output
from hubpub.measure.clients.coreml import Precision, Runnable, by_reference, coreml_errors
from hubpub.measure.result import Kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hubpub.coremlfile import Package
    from hubpub.corpus.audio import Samples

RATE = 16_000


class StreamClient(Client):
    """What the clients of the Sortformer interface share; they differ in what runs the package."""

    model: ModelPath = Field(description="The ``.mlpackage``, by its published name.")
    onset: float = Field(default=0.5, gt=0, lt=1, description="Probability above which a speaker starts to speak.")
    offset: float = Field(default=0.5, gt=0, lt=1, description="Probability below which a speaker stops.")
    makes: ClassVar[tuple[Kind, ...]] = ("turns", "arrays")

    def opens(self) -> tuple[str, ...]:
        """The package."""
        return (self.model,)

    def stream_in_words(self) -> str:
        """How the audio is cut, and turns are told."""
        return f"streaming as its metadata says, onset {self.onset:g}, offset {self.offset:g}"

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Make the package ready.

        Raises:
            MeasureError: it is damaged, not of the Sortformer interface, or does not say how it streams.
        """
        from hubpub.coremlfile import Package

        with coreml_errors():
            package = Package.open(folder / self.model)
            return _Stream(self.runnable(package), package, self)

    def runnable(self, package: Package) -> Runnable:
        """The package where it runs.

        Raises:
            CoremlFileError: it cannot run there.
        """
        raise NotImplementedError


class Sortformer(StreamClient):
    """Who speaks when, chunk by chunk as the package's metadata says, with the speaker cache and FIFO of its callers.

    The model takes log-mel features that are not normalised, as NeMo makes them for streaming; its probabilities
    ``[frames of 80 ms, speakers]`` are kept too. It is run by reference execution: the same program, not the same
    machine.
    """

    client: Literal["sortformer"]
    precision: Precision = "fp16"
    libraries: ClassVar[tuple[str, ...]] = ("coremltools", "onnx", "onnxruntime", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        return f"{by_reference(self.model, self.precision)}, {self.stream_in_words()}, {self.threads} threads"

    def runnable(self, package: Package) -> Runnable:
        """The package, translated."""
        from hubpub.coremlfile.mil import Model

        return Model(package, precision=self.precision, threads=self.threads)


class _Stream:
    def __init__(self, model: Runnable, package: Package, spec: StreamClient) -> None:
        from hubpub.measure.sortformer import Chunking

        self._spec = spec
        self._model = model
        self._chunking = Chunking.of_metadata(dict(package.spec.description.metadata.userDefined), spec.model)
        self._width = self._fixed("spkcache", self._chunking.spkcache_len)
        self._fixed("fifo", self._chunking.fifo_len)
        self._bands = self._fixed("chunk", self._chunking.feature_frames)

    def _fixed(self, name: str, frames: int) -> int:
        """The width of an input of so many frames."""
        kind = self._model.inputs.get(name)
        if kind is None or len(kind.shape) != 3 or kind.shape[:2] != (1, frames) or kind.shape[2] is None:
            found = "is missing" if kind is None else f"is {kind}"
            what = f"its input {name} {found}, and its metadata means [1, {frames}, …]"
            raise MeasureError(what, where=self._spec.model, fix="it is not a package of the Sortformer interface")
        return kind.shape[2]

    def run(self, samples: Samples) -> Output:
        from hubpub.corpus.features import nemo_log_mel
        from hubpub.measure.sortformer import diarize

        features = nemo_log_mel(samples, self._bands, normalize=False).T
        with coreml_errors():
            said = diarize(self._model.run, features, self._chunking, self._width, self._spec.model)
        turns = probability_turns(said, self._spec.onset, self._spec.offset, len(samples) / RATE)
        return Output(segments=-(-len(features) // (8 * self._chunking.chunk_len)), arrays=(said,), turns=tuple(turns))


def probability_turns(
    probabilities: npt.NDArray[np.floating[Any]], onset: float, offset: float, seconds: float
) -> list[Turn]:
    """The turns that probabilities ``[frames of 80 ms, speakers]`` say, up to ``seconds``.

    A speaker speaks from where the probability exceeds ``onset`` up to where it falls below ``offset``.
    """
    from hubpub.measure.sortformer import FRAME_S

    turns = []
    for speaker, column in enumerate(probabilities.T):
        start: int | None = None
        for frame, value in enumerate([*column.tolist(), -1.0]):
            if start is None and value > onset:
                start = frame
            elif start is not None and value < offset:
                end = min(frame * FRAME_S, seconds)
                if start * FRAME_S < end:
                    turns.append(Turn(start=round(start * FRAME_S, 6), end=round(end, 6), speaker=str(speaker)))
                start = None
    return sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker))

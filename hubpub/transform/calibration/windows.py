"""Calibration windows from a prepared corpus: which audio a model is shown, and how it is fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hubpub.corpus.feed import FEATURES_HELP, Features, Input
from hubpub.corpus.segment import LengthWindows, SilenceWindows, Whole
from hubpub.errors import AudioError

if TYPE_CHECKING:
    import numpy as np

RATE = 16_000


class Calibration(BaseModel):
    """What a calibrated transformation looks at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus: str = Field(description="A corpus with role: calibration.")
    features: Features = Field(description=FEATURES_HELP)
    segment: Annotated[Whole | SilenceWindows | LengthWindows, Field(discriminator="by")] = Field(
        default=SilenceWindows(by="silence", max_s=30.0, search_s=10.0), description="How long audio is cut."
    )
    count: int | None = Field(
        default=None, ge=1, description="Windows to take, evenly from all of them; default: all of them."
    )


class CorpusWindows:
    """The windows of a prepared corpus as a model's inputs, computed anew on each pass; one is held at a time.

    Args:
        folder: the prepared corpus.
        spec: how it is cut and fed.
        model: the ONNX file or the Core ML package of one ML program, whose inputs are looked at. For a package each
            window is filled up to the length that the program is made for.

    Raises:
        AudioError: the corpus is damaged, or silent.
        MeasureError: the model has inputs that audio alone cannot fill.
        OnnxFileError: the model cannot be read; CoremlFileError, if it is a package.
    """

    def __init__(self, folder: Path, spec: Calibration, model: Path) -> None:
        from hubpub.corpus.corpus import Corpus
        from hubpub.corpus.feed import Feed

        self._folder = folder
        self._spec = spec
        self._clips = Corpus.load(folder).recorded
        self._fixed: dict[str, tuple[int | None, ...]] = {}
        self._feed = Feed(spec.features, self._coreml(model) if model.is_dir() else _onnx(model), model.name)
        sounds = [bool(samples.any()) for samples in self._samples()]
        self._chosen = self._choose(len(sounds))
        if sounds and not any(sounds[index] for index in self._chosen):
            raise AudioError(
                "is silent throughout: every sample is zero, and ranges that cover only that cut off all sound",
                where=f"corpus {spec.corpus}",
                fix="calibrate on speech",
            )

    def __len__(self) -> int:
        """How many there are."""
        return len(self._chosen)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray[Any, np.dtype[Any]]]]:
        """From the first on, recording by recording."""
        for index, samples in enumerate(self._samples()):
            if index in self._chosen:
                yield {name: self._shaped(name, array) for name, array in self._feed(samples).items()}

    def _shaped(self, name: str, array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
        from hubpub.corpus.feed import filled_up

        if name not in self._fixed:
            return array
        return filled_up(self._spec.features, name, array, self._fixed[name])  # type: ignore[no-any-return]

    def _coreml(self, model: Path) -> Iterator[Input]:
        from hubpub.coremlfile import Package, main_blocks
        from hubpub.coremlfile.mil import tensor_type

        for part in Package.open(model).programs:
            for _, function, _ in main_blocks(part.program):
                for port in function.inputs:
                    kind = tensor_type(port.type, f"input {port.name}")
                    self._fixed[port.name] = kind.shape
                    yield Input(port.name, kind.onnx_name, len(kind.shape))

    def _samples(self) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        from hubpub.corpus.corpus import load_samples

        for clip in self._clips:
            yield from self._spec.segment.windows(load_samples(self._folder, clip), RATE)

    def _choose(self, there: int) -> frozenset[int]:
        wanted = min(self._spec.count or there, there)
        return frozenset(round((index + 0.5) * there / wanted - 0.5) for index in range(wanted))


def _onnx(model: Path) -> Iterator[Input]:
    from hubpub.onnxfile.interface import interface_of

    for port in interface_of(model).inputs:
        yield Input(port.name, port.type, None if port.shape is None else len(port.shape))

"""Calibration windows from a prepared corpus: which audio a model is shown, and how it is fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hubpub.corpus.feed import FEATURES_HELP, Features
from hubpub.corpus.segment import SilenceWindows, Whole

if TYPE_CHECKING:
    import numpy as np

RATE = 16_000


class Calibration(BaseModel):
    """What a calibrated transformation looks at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus: str = Field(description="A corpus with role: calibration.")
    features: Features = Field(description=FEATURES_HELP)
    segment: Annotated[Whole | SilenceWindows, Field(discriminator="by")] = Field(
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
        model: the ONNX file, whose inputs are looked at.

    Raises:
        AudioError: the corpus is damaged.
        MeasureError: the model has inputs that audio alone cannot fill.
        OnnxFileError: the model cannot be read.
    """

    def __init__(self, folder: Path, spec: Calibration, model: Path) -> None:
        from hubpub.corpus.corpus import Corpus
        from hubpub.corpus.feed import Feed, Input
        from hubpub.onnxfile.interface import interface_of

        self._folder = folder
        self._spec = spec
        self._clips = Corpus.load(folder).recorded
        ports = interface_of(model).inputs
        inputs = (Input(port.name, port.type, None if port.shape is None else len(port.shape)) for port in ports)
        self._feed = Feed(spec.features, inputs, model.name)
        self._chosen = self._choose(sum(1 for _ in self._samples()))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._chosen)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray[Any, np.dtype[Any]]]]:
        """From the first on, recording by recording."""
        for index, samples in enumerate(self._samples()):
            if index in self._chosen:
                yield self._feed(samples)

    def _samples(self) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        from hubpub.corpus.corpus import load_samples

        for clip in self._clips:
            yield from self._spec.segment.windows(load_samples(self._folder, clip), RATE)

    def _choose(self, there: int) -> frozenset[int]:
        wanted = min(self._spec.count or there, there)
        return frozenset(round((index + 0.5) * there / wanted - 0.5) for index in range(wanted))

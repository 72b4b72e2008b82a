"""There and back: a voice says a text, a recognizer writes down what it hears."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.measure.audio import FULL_SCALE
from hubpub.measure.clients.base import Client, Loaded, ModelPath, Output
from hubpub.measure.clients.onnx_asr import RATE, OnnxAsr
from hubpub.measure.clients.piper import Piper
from hubpub.measure.result import Kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hubpub.corpus.audio import Samples


class RoundTrip(Client):
    """What a recognizer understands of a voice, so that ``wer`` and ``cer`` compare it with the text that was said.

    The recognizer is no part of what is measured: its files come from sources or steps, its errors are in every figure,
    and what a change to the voice did is the difference of two runs with the same recognizer.
    """

    client: Literal["round-trip"]
    voice: Piper = Field(description="The client that speaks, without `threads`: these are the run's.")
    ear: OnnxAsr = Field(description="The client that listens, without `threads`.")
    ear_files: dict[ModelPath, str] = Field(
        min_length=1, description="The recognizer's files: the name that its loader asks for → source or step/path."
    )
    libraries: ClassVar[tuple[str, ...]] = tuple(dict.fromkeys((*Piper.libraries, *OnnxAsr.libraries, "soxr")))
    modules: ClassVar[tuple[str, ...]] = tuple(dict.fromkeys((*Piper.modules, *OnnxAsr.modules)))
    takes: ClassVar[Literal["audio", "text"]] = "text"
    makes: ClassVar[tuple[Kind, ...]] = ("text", "audio", "arrays")

    def opens(self) -> tuple[str, ...]:
        """What the voice opens."""
        return self.voice.opens()

    def references(self) -> tuple[str, ...]:
        """The recognizer's files, and what it reads itself."""
        return tuple(dict.fromkeys((*self.ear_files.values(), *self.ear.references())))

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        voice, ear = (
            client.describe().removesuffix(f", {client.threads} threads") for client in (self.voice, self.ear)
        )
        files = ", ".join(dict.fromkeys(reference.partition("/")[0] for reference in self.ear_files.values()))
        return f"{voice}, heard by {ear} (files of {files}), {self.threads} threads"

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Load both; their own errors come through."""
        threads = {"threads": self.threads}
        voice = self.voice.model_copy(update=threads).load(folder, files)
        with tempfile.TemporaryDirectory() as desk:
            for name, reference in self.ear_files.items():
                Path(desk, name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(files[reference], Path(desk, name))  # onnxruntime refuses links to external data
            ear = self.ear.model_copy(update=threads).load(Path(desk), files)
        return _Both(voice, ear)


class _Both:
    def __init__(self, voice: Loaded, ear: Loaded) -> None:
        self._voice, self._ear = voice, ear

    def run(self, given: str) -> Output:
        said = self._voice.run(given)
        (samples,) = said.arrays
        assert said.rate is not None
        return replace(said, text=self._ear.run(_for_the_ear(samples, said.rate)).text)


def _for_the_ear(samples: npt.NDArray[np.generic], rate: int) -> Samples:
    """Float32 ``[frames]`` from -1 to 1 at the recognizer's rate."""
    import numpy as np

    from hubpub.corpus.audio import resample

    return resample(samples.astype(np.float32) / np.float32(FULL_SCALE), rate, RATE)

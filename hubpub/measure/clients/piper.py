"""Piper (OHF-Voice/piper1-gpl), the loader of the VITS voices ``x.onnx`` with ``x.onnx.json`` beside it.

It is under the GPL and no part of hubpub: the extra ``tts`` installs it, and only the worker's process imports it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from hubpub.errors import MeasureError
from hubpub.measure.audio import LIBRARIES as AUDIO_LIBRARIES
from hubpub.measure.clients.base import Client, Loaded, ModelPath, Output
from hubpub.measure.result import Kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RATES = range(8_000, 192_001)
"""Samples per second that a voice may have."""


class Piper(Client):
    """Speech through ``piper.PiperVoice.load`` and ``synthesize``, as the 16-bit samples that its users get.

    A voice draws noise for its sound and its durations, so that it never says a text twice alike. Two files are
    compared without noise; ``noise: voice`` is what users hear, from a seed.
    """

    client: Literal["piper"]
    model: ModelPath = Field(description="The voice, by its published name; its configuration is that name and .json.")
    noise: Literal["none", "voice"] = Field(
        default="none",
        description="none = noise_scale and noise_w 0: the same samples every time; voice = those of the voice's "
        "configuration, from `seed`. Then the voice is loaded anew for each prompt, so that its noise does not depend "
        "on what was said before; take no timings from such a run.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Of the noise; another one gives another take.")
    speaker: int | None = Field(default=None, ge=0, description="Speaker of a voice that has several.")
    libraries: ClassVar[tuple[str, ...]] = ("piper-tts", "onnxruntime", "numpy", *AUDIO_LIBRARIES)
    modules: ClassVar[tuple[str, ...]] = ("piper", "onnxruntime")
    takes: ClassVar[Literal["audio", "text"]] = "text"
    makes: ClassVar[tuple[Kind, ...]] = ("audio", "arrays")

    def opens(self) -> tuple[str, ...]:
        """The voice and its configuration."""
        return self.model, f"{self.model}.json"

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        noise = "without noise" if self.noise == "none" else f"with the voice's own noise from seed {self.seed}"
        speaker = "" if self.speaker is None else f", speaker {self.speaker}"
        return f"Piper {self.model}{speaker}, {noise}, {self.threads} threads"

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Load the voice as a user would; onnxruntime's own errors come through.

        Raises:
            MeasureError: the voice or its configuration is missing or damaged.
        """
        path, config = folder / self.model, folder / f"{self.model}.json"
        if not path.is_file():
            raise MeasureError(f"there is no {self.model}", fix="correct `model`")
        if not config.is_file():
            fix = "publish the voice's configuration under that name"
            raise MeasureError(f"{self.model} is without its configuration {self.model}.json", fix=fix)
        _check_config(config, self.model)
        return _Voice(self, path)


class _Voice:
    def __init__(self, spec: Piper, path: Path) -> None:
        self._spec, self._path = spec, path
        self._voice = self._load()

    def _load(self) -> Any:
        import onnxruntime
        from piper import PiperVoice

        onnxruntime.set_seed(self._spec.seed)  # holds for sessions that are made from now on
        with _sessions_with(self._spec.session_options()):
            voice = PiperVoice.load(self._path)
        if voice.session.get_session_options().intra_op_num_threads != self._spec.threads:
            raise MeasureError("this version of piper-tts does not take the number of threads", fix="install 1.8")
        return voice

    def run(self, given: str) -> Output:
        import numpy as np
        from piper.config import SynthesisConfig

        spec, voice = self._spec, self._voice
        noise = 0.0 if spec.noise == "none" else None  # None: as the voice's configuration says
        if spec.noise == "voice":
            voice = self._load()
        config = SynthesisConfig(speaker_id=spec.speaker, noise_scale=noise, noise_w_scale=noise)
        chunks = list(voice.synthesize(given, config))
        if not chunks:
            raise MeasureError("the voice says nothing", fix="give it a text with words of its language")
        if not all(np.isfinite(chunk.audio_float_array).all() for chunk in chunks):
            raise MeasureError("the voice's output holds NaN or infinity")
        samples: npt.NDArray[np.int16] = np.concatenate([chunk.audio_int16_array for chunk in chunks])
        return Output(segments=len(chunks), arrays=(samples,), rate=int(voice.config.sample_rate))


@contextmanager
def _sessions_with(options: Any) -> Iterator[None]:
    """Give sessions that are made meanwhile these options: Piper's loader takes none."""
    import onnxruntime

    made = onnxruntime.SessionOptions
    onnxruntime.SessionOptions = lambda: options
    try:
        yield
    finally:
        onnxruntime.SessionOptions = made


def _check_config(path: Path, model: str) -> None:
    """Refuse what the loader would stumble over, with a line that says where."""
    where, fix = f"{model}.json", "take the configuration that belongs to the voice"
    try:
        config = json.loads(path.read_bytes())
        rate = config["audio"]["sample_rate"]
        for key in ("num_symbols", "num_speakers", "espeak", "phoneme_id_map"):
            config[key]
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{where} is no JSON", fix=fix) from error
    except (KeyError, TypeError) as error:
        raise MeasureError(f"{where} is no configuration of a Piper voice: {error} is missing", fix=fix) from error
    if not isinstance(rate, int) or rate not in RATES:
        what = f"{where} says {rate!r} samples per second; a voice has {RATES[0]} to {RATES[-1]}"
        raise MeasureError(what, fix=fix)

"""A prepared corpus: 16 kHz samples on disk, or texts to be said, and what is known of each of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from hubpub.corpus.spec import Provenance, Role
from hubpub.errors import AudioError

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples

INDEX = "corpus.json"


class Turn(BaseModel):
    """A stretch in which one person speaks, in seconds from the start of the clip."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float
    end: float
    speaker: str


class Spoken(BaseModel):
    """What is said in a stretch of a clip, in seconds from its start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float
    end: float
    text: str


class Clip(BaseModel):
    """One clip, ready for a model; digests are hexadecimal sha256.

    Attributes:
        id: unique in the corpus.
        samples: path of the ``.npy`` file (float32 ``[frames]``) in the corpus' folder.
        rate: rate of these samples in Hz.
        seconds: length of the clip.
        text: what is said, ``None`` when nobody wrote it down.
        spoken: the same by stretches, where these are known.
        turns: who speaks when, by start; ``None`` when nobody wrote it down.
        scored: start and end in seconds of the parts that ``turns`` describe; ``None``: all of it.
        provenance: speaker, language, title, year, source, licence.
        audio: the recording, as the recipe names it.
        crop: start and end in seconds, as the recipe gives them, or of the window that was chosen.
        native_rate: rate of the recording in Hz.
        start: first frame of the clip in its recording, at the native rate.
        stop: frame after the last one.
        file_sha256: the recording's bytes.
        file_samples_sha256: all samples of the recording.
        samples_sha256: the samples of this clip, at the native rate.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    samples: str
    rate: int
    seconds: float
    text: str | None
    spoken: tuple[Spoken, ...] | None = None
    turns: tuple[Turn, ...] | None = None
    scored: tuple[tuple[float, float], ...] | None = None
    provenance: Provenance
    audio: str
    crop: tuple[float, float] | None
    native_rate: int
    start: int
    stop: int
    file_sha256: str
    file_samples_sha256: str
    samples_sha256: str

    @property
    def work(self) -> float:
        """How much there is to do, for progress and fair shares."""
        return self.seconds

    @model_serializer(mode="wrap")
    def _without_what_is_not_known(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What earlier versions wrote of a clip without these labels: manifests keep their digests."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name not in _LABELS}


_LABELS = ("spoken", "turns", "scored")


class Prompt(BaseModel):
    """A text that is to be said; what `Clip` says of audio, it has not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    text: str
    provenance: Provenance

    @property
    def seconds(self) -> float:
        """It has no audio."""
        return 0.0

    @property
    def work(self) -> float:
        """How much there is to do, in characters."""
        return float(len(self.text))


class Corpus(BaseModel):
    """Clips, or prompts, in the order of the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    sealed: bool = False
    clips: tuple[Clip | Prompt, ...]

    @model_serializer(mode="wrap")
    def _without_an_open_seal(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What earlier versions wrote of a corpus that is not sealed: manifests keep their digests."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value or name != "sealed"}

    @property
    def digest(self) -> str:
        """sha256 over what a measurement depends on: ids, samples, texts, and turns where there are any, in order."""
        essence = [_essence(clip) for clip in self.clips]
        return hashlib.sha256(json.dumps(essence, ensure_ascii=False).encode()).hexdigest()

    @property
    def recorded(self) -> tuple[Clip, ...]:
        """The clips that are audio: all or none."""
        return tuple(clip for clip in self.clips if isinstance(clip, Clip))

    @property
    def seconds(self) -> float:
        """Length of all clips together."""
        return sum(clip.seconds for clip in self.clips)

    @property
    def work(self) -> float:
        """How much there is to do: seconds of audio, or characters of prompts."""
        return sum(clip.work for clip in self.clips)

    def text(self) -> str:
        """The content of its index."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=2, sort_keys=True) + "\n"

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Read the index that ``prepare`` wrote.

        Raises:
            AudioError: there is none, or it is damaged.
        """
        index = folder / INDEX
        try:
            return cls.model_validate_json(index.read_bytes())
        except (OSError, ValidationError) as error:
            raise AudioError(
                "the prepared corpus is missing or damaged", where=str(index), fix="build again"
            ) from error


def _essence(clip: Clip | Prompt) -> list[object]:
    if isinstance(clip, Prompt):
        return [clip.id, None, clip.text]
    return [clip.id, clip.samples_sha256, clip.text, *([] if clip.turns is None else [_plain_turns(clip)])]


def _plain_turns(clip: Clip) -> list[object]:
    turns = [[turn.start, turn.end, turn.speaker] for turn in clip.turns or ()]
    return [turns, clip.scored]


def load_samples(folder: Path, clip: Clip) -> Samples:
    """The samples of ``clip``, float32 ``[frames]`` at ``clip.rate``.

    Raises:
        AudioError: the file is missing or damaged.
    """
    import numpy as np

    path = folder / clip.samples
    try:
        samples = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AudioError("prepared samples are missing or damaged", where=str(path), fix="build again") from error
    if samples.dtype != np.float32 or samples.ndim != 1:
        raise AudioError(f"prepared samples are {samples.dtype} {samples.shape}", where=str(path), fix="build again")
    return samples  # type: ignore[no-any-return]

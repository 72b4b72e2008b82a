"""From a recipe's clips to a prepared corpus on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from hubpub.corpus.corpus import INDEX, Clip, Corpus
from hubpub.corpus.spec import ClipSpec, CorpusSpec
from hubpub.corpus.stitch import stitch
from hubpub.errors import AudioError, OverlapError

VERSION = 1
"""Raise it when the same recordings give other samples."""
LIBRARIES = ("numpy", "soundfile", "soxr")
"""Distributions whose versions decide the bytes."""


def prepare(spec: CorpusSpec, files: Mapping[str, Path], out_dir: Path) -> Corpus:
    """Write every clip as 16 kHz mono float32 ``.npy``, and the index ``corpus.json`` last.

    NumPy's format and not WAV: libsndfile puts the time of day into a float WAV.

    Args:
        spec: what the recipe says.
        files: where each of ``spec.references()`` lies.
        out_dir: an empty folder that the caller publishes as a whole.

    Raises:
        AudioError: a recording or a transcript cannot be used; the message names it as the recipe does.
        OverlapError: two clips are the same samples, which would count them twice.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    clips: list[Clip] = []
    file_digests: dict[str, str] = {}
    for number, clip in enumerate(spec.clips):
        path = _file(clip.audio, files)
        if clip.audio not in file_digests:
            file_digests[clip.audio] = _file_sha256(path, clip.audio)
        name = f"{number:05}.npy"
        clips.append(_prepare_clip(spec, clip, path, file_digests[clip.audio], _text(clip, files), out_dir / name))
    _refuse_repeats(clips)
    if spec.stitch is not None:
        clips = stitch(clips, out_dir, spec.stitch)
    corpus = Corpus(role=spec.role, clips=tuple(clips))
    (out_dir / INDEX).write_text(corpus.text(), encoding="utf-8", newline="\n")
    return corpus


def _prepare_clip(
    spec: CorpusSpec, clip: ClipSpec, path: Path, file_sha256: str, text: str | None, target: Path
) -> Clip:
    import numpy as np

    from hubpub.corpus.audio import MODEL_RATE, decode, resample

    try:
        decoded = decode(path, clip.crop)
    except AudioError as error:
        # The reader knows the recipe's name of the file, not the place in the store.
        raise AudioError(error.what, where=f"clip {clip.name} ({clip.audio})", fix=error.fix) from error
    samples = resample(decoded.samples, decoded.rate)
    if not len(samples):
        raise AudioError("it is shorter than one sample at 16 kHz", where=f"clip {clip.name} ({clip.audio})")
    np.save(target, np.ascontiguousarray(samples, dtype=np.dtype("<f4")), allow_pickle=False)
    return Clip(
        id=clip.name,
        samples=target.name,
        rate=MODEL_RATE,
        seconds=len(decoded.samples) / decoded.rate,
        text=text,
        provenance=spec.provenance(clip),
        audio=clip.audio,
        crop=clip.crop,
        native_rate=decoded.rate,
        start=decoded.start,
        stop=decoded.stop,
        file_sha256=file_sha256,
        file_samples_sha256=decoded.file_samples_sha256,
        samples_sha256=decoded.samples_sha256,
    )


def _file(reference: str, files: Mapping[str, Path]) -> Path:
    if reference not in files:
        raise AudioError("no such file is among the sources", where=reference, fix="correct the reference")
    return files[reference]


def _file_sha256(path: Path, reference: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AudioError(f"it cannot be read ({os.strerror(error.errno or 0)})", where=reference) from error


def _text(clip: ClipSpec, files: Mapping[str, Path]) -> str | None:
    if clip.text_from is None:
        return clip.text
    path = _file(clip.text_from, files)
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise AudioError("the transcript is not UTF-8 text", where=clip.text_from, fix="convert it") from error
    except OSError as error:
        raise AudioError("the transcript cannot be read", where=clip.text_from) from error
    if not text:
        raise AudioError("the transcript is empty", where=clip.text_from, fix="write `text: ''` if nobody speaks")
    return text


def _refuse_repeats(clips: list[Clip]) -> None:
    first: dict[str, str] = {}
    for clip in clips:
        if (other := first.setdefault(clip.samples_sha256, clip.id)) != clip.id:
            raise OverlapError(
                f"clips {other} and {clip.id} are the same samples, so they would count twice", fix="remove one"
            )

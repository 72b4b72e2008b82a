"""From a recipe's clips to a prepared corpus on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubpub.corpus.corpus import INDEX, Clip, Corpus, Prompt
from hubpub.corpus.labels import LabelFiles
from hubpub.corpus.rows import read_rows
from hubpub.corpus.sampling import Part, choose, window_starts
from hubpub.corpus.spec import ClipSpec, CorpusSpec
from hubpub.corpus.stitch import stitch
from hubpub.errors import AudioError, OverlapError

if TYPE_CHECKING:
    from hubpub.corpus.audio import Decoded

VERSION = 3
"""Raise it when the same recordings give other samples."""
LIBRARIES = ("numpy", "soundfile", "soxr")
"""Distributions whose versions decide the bytes."""


def prepare(spec: CorpusSpec, files: Mapping[str, Path], out_dir: Path) -> Corpus:
    """Write every clip as 16 kHz mono float32 ``.npy``, and the index ``corpus.json`` last; prompts are in that alone.

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
    if spec.prompts:
        return _write(Corpus(role=spec.role, sealed=spec.sealed, clips=_prompts(spec)), out_dir)
    with tempfile.TemporaryDirectory(dir=out_dir.parent) as spool:
        given, found = [*spec.clips], dict(files)
        names = {clip.name.casefold() for clip in given}
        rows: set[str] = set()
        for number, dataset in enumerate(spec.datasets):
            folder = Path(spool, str(number))
            folder.mkdir()
            for row in read_rows(dataset, files, folder):
                clip = row.clip
                if clip.audio in rows:
                    raise AudioError(f"{clip.audio} is there twice, so it would count twice", fix="name its file once")
                if dataset.columns.id is None and clip.name.casefold() in names:  # each dataset counts its rows from 0
                    clip = clip.model_copy(update={"id": f"{clip.name}.{number + 1}"})
                rows.add(clip.audio)
                names.add(clip.name.casefold())
                given.append(clip)
                found[clip.audio] = row.audio
        _refuse_same_names(given)
        recordings, labels = _Recordings(found), LabelFiles(files)
        parts = [part for index, clip in enumerate(given) for part in _parts(spec, index, clip, recordings)]
        if spec.sample is not None:
            parts = choose(parts, spec.sample)
        if not parts:
            if spec.windows is None:
                raise AudioError("the datasets have no rows", where=spec.datasets[0].files[0])
            raise AudioError("no clip is as long as a window", fix="cut shorter windows")
        targets = [out_dir / f"{number:05}.npy" for number in range(len(parts))]
        clips = [
            _prepare_clip(spec, given[part.clip], part, recordings, labels, target)
            for part, target in zip(parts, targets, strict=True)
        ]
    _refuse_repeats(clips)
    if spec.stitch is not None:
        clips = stitch(clips, out_dir, spec.stitch)
    return _write(Corpus(role=spec.role, sealed=spec.sealed, clips=tuple(clips)), out_dir)


def _prompts(spec: CorpusSpec) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(id=spec.prompt_name(index), text=prompt.text, provenance=spec.provenance(prompt))
        for index, prompt in enumerate(spec.prompts)
    )


def _write(corpus: Corpus, out_dir: Path) -> Corpus:
    (out_dir / INDEX).write_text(corpus.text(), encoding="utf-8", newline="\n")
    return corpus


class _Recordings:
    """The recordings of a corpus; the last one that was decoded is held, as many windows may be cut from it."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._digests: dict[str, str] = {}
        self._held: tuple[ClipSpec, Decoded] | None = None

    def decode(self, clip: ClipSpec) -> Decoded:
        from hubpub.corpus.audio import decode

        if self._held is None or self._held[0] is not clip:
            path = _file(clip.audio, self._files)
            try:
                self._held = clip, decode(path, clip.crop)
            except AudioError as error:
                # The reader knows the recipe's name of the file, not the place in the store.
                raise AudioError(error.what, where=f"clip {clip.name} ({clip.audio})", fix=error.fix) from error
        return self._held[1]

    def file_sha256(self, audio: str) -> str:
        if audio not in self._digests:
            self._digests[audio] = _file_sha256(_file(audio, self._files), audio)
        return self._digests[audio]


def _parts(spec: CorpusSpec, index: int, clip: ClipSpec, recordings: _Recordings) -> list[Part]:
    """What of ``clip`` may be used."""
    if spec.windows is None and spec.sample is None:
        return [Part(index, None, 0.0, clip.name, "")]  # its length does not matter
    decoded = recordings.decode(clip)
    seconds = len(decoded.samples) / decoded.rate
    by = spec.sample.balance if spec.sample else None
    group = clip.audio if by == "seconds" else str(getattr(spec.provenance(clip), by)) if by else ""
    if spec.windows is None:
        return [Part(index, None, seconds, clip.name, group)]
    first = clip.crop[0] if clip.crop else 0.0
    stem = clip.name if clip.id is not None or clip.crop is None else clip.model_copy(update={"crop": None}).name
    found = []
    for at in window_starts(seconds, spec.windows):
        window = (round(first + at, 6), round(first + at + spec.windows.seconds, 6))
        start, stop = (round(second * decoded.rate) - decoded.start for second in window)
        if decoded.samples[start:stop].any():  # digital silence teaches nothing, and is the same everywhere
            found.append(Part(index, window, spec.windows.seconds, f"{stem}@{window[0]:g}-{window[1]:g}", group))
    return found


def _prepare_clip(
    spec: CorpusSpec, clip: ClipSpec, part: Part, recordings: _Recordings, labels: LabelFiles, target: Path
) -> Clip:
    import numpy as np

    from hubpub.corpus.audio import MODEL_RATE, resample, samples_sha256

    decoded = recordings.decode(clip)
    native, start, stop, digest = decoded.samples, decoded.start, decoded.stop, decoded.samples_sha256
    if part.window is not None:
        start, stop = (min(round(second * decoded.rate), decoded.stop) for second in part.window)
        native = native[start - decoded.start : stop - decoded.start]
        digest = samples_sha256(native, decoded.rate)
    samples = resample(native, decoded.rate)
    if not len(samples):
        raise AudioError("it is shorter than one sample at 16 kHz", where=f"clip {part.name} ({clip.audio})")
    np.save(target, np.ascontiguousarray(samples, dtype=np.dtype("<f4")), allow_pickle=False)
    named, place = spec.labels(clip), (clip.audio, clip.name, start / decoded.rate, stop / decoded.rate)
    return Clip(
        id=part.name,
        samples=target.name,
        rate=MODEL_RATE,
        seconds=len(native) / decoded.rate,
        text=clip.text if named.text_from is None else labels.text(named.text_from, *place),
        spoken=None if named.text_from is None else labels.spoken(named.text_from, *place),
        turns=None if named.turns_from is None else labels.turns(named.turns_from, *place),
        scored=None if named.scored_from is None else labels.scored(named.scored_from, *place),
        provenance=spec.provenance(clip),
        audio=clip.audio,
        crop=clip.crop if part.window is None else part.window,
        native_rate=decoded.rate,
        start=start,
        stop=stop,
        file_sha256=recordings.file_sha256(clip.audio),
        file_samples_sha256=decoded.file_samples_sha256,
        samples_sha256=digest,
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


def _refuse_same_names(clips: Sequence[ClipSpec]) -> None:
    """The recipe's own clips were told apart when it was read; rows are known only now."""
    first: dict[str, ClipSpec] = {}
    for clip in clips:
        if (other := first.setdefault(clip.name.casefold(), clip)) is not clip:
            what = f"{other.audio} and {clip.audio} are both called {clip.name}"
            raise AudioError(what, fix="name another id column")


def _refuse_repeats(clips: list[Clip]) -> None:
    first: dict[str, Clip] = {}
    for clip in clips:
        if (other := first.setdefault(clip.samples_sha256, clip)) is not clip:
            raise OverlapError(
                f"clips {other.id} and {clip.id} are the same samples, so they would count twice", fix="remove one"
            )

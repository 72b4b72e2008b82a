"""Long audio made of short clips: what a model loses over minutes shows on it, and every word still has its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hubpub.corpus.corpus import Clip, Spoken, Turn, load_samples
from hubpub.corpus.spec import Provenance, StitchSpec


def stitch(clips: Sequence[Clip], folder: Path, spec: StitchSpec) -> list[Clip]:
    """Join prepared clips, whose samples in ``folder`` are replaced by those of the long ones.

    A clip that is longer than ``spec.seconds`` stays alone. One clip that nobody wrote down leaves the long one without
    a text.
    """
    groups: list[list[Clip]] = []
    length = 0.0
    for clip in clips:
        if groups and length + spec.gap_s + clip.seconds <= spec.seconds:
            groups[-1].append(clip)
            length += spec.gap_s + clip.seconds
        else:
            groups.append([clip])
            length = clip.seconds
    joined = [_join(group, folder, f"long{number:05}.npy", spec.gap_s) for number, group in enumerate(groups)]
    for clip in clips:
        (folder / clip.samples).unlink()
    return joined


def _join(clips: Sequence[Clip], folder: Path, name: str, gap_s: float) -> Clip:
    import numpy as np

    from hubpub.corpus.audio import samples_sha256

    rate = clips[0].rate
    gap = np.zeros(round(gap_s * rate), dtype=np.float32)
    pieces, starts, at = [], [], 0
    for clip in clips:
        samples = load_samples(folder, clip)
        starts.append(at / rate)
        pieces += [samples, gap]
        at += len(samples) + len(gap)
    samples = np.concatenate(pieces[:-1])
    np.save(folder / name, samples, allow_pickle=False)
    placed = list(zip(clips, starts, strict=True))
    known = all(clip.text is not None for clip in clips)
    return Clip(
        id=clips[0].id if len(clips) == 1 else f"{clips[0].id}+{len(clips) - 1}",
        samples=name,
        rate=rate,
        seconds=len(samples) / rate,
        text=" ".join(filter(None, (clip.text for clip in clips))) if known else None,
        spoken=tuple(each for clip, at in placed for each in _spoken(clip, at)) if known else None,
        turns=_turns(placed),
        scored=None if _turns(placed) is None else tuple(span for clip, at in placed for span in _scored(clip, at)),
        provenance=_provenance(clips),
        audio=" + ".join(dict.fromkeys(clip.audio for clip in clips)),
        crop=None,
        native_rate=rate,
        start=0,
        stop=len(samples),
        file_sha256=_digest(clip.file_sha256 for clip in clips),
        file_samples_sha256=_digest(clip.file_samples_sha256 for clip in clips),
        samples_sha256=samples_sha256(samples, rate),
    )


def _spoken(clip: Clip, at: float) -> list[Spoken]:
    """What is said in a clip, by its stretches where these are known."""
    if not clip.spoken:
        return [Spoken(start=at, end=at + clip.seconds, text=clip.text or "")]
    return [Spoken(start=each.start + at, end=each.end + at, text=each.text) for each in clip.spoken]


def _turns(placed: Sequence[tuple[Clip, float]]) -> tuple[Turn, ...] | None:
    if any(clip.turns is None for clip, _ in placed):
        return None
    return tuple(
        Turn(start=round(turn.start + at, 6), end=round(turn.end + at, 6), speaker=turn.speaker)
        for clip, at in placed
        for turn in clip.turns or ()
    )


def _scored(clip: Clip, at: float) -> list[tuple[float, float]]:
    return [(round(start + at, 6), round(end + at, 6)) for start, end in clip.scored or ((0.0, clip.seconds),)]


def _provenance(clips: Sequence[Clip]) -> Provenance:
    """What all clips share; sources and licences all of them."""
    shared: dict[str, Any] = {}
    for field in Provenance.model_fields:
        values = list(dict.fromkeys(getattr(clip.provenance, field) for clip in clips))
        if field in ("source", "license"):
            shared[field] = "; ".join(filter(None, values))
        else:
            shared[field] = values[0] if len(values) == 1 else None
    return Provenance(**shared)


def _digest(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()

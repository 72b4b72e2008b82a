"""The proof that nothing was calibrated on what it is evaluated on: by content, not by name.

Two clips overlap when their decoded samples are the same, when both are crops of the same decoded recording (whatever
its file name and its encoding) and the crops overlap in time, or when they sound alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hubpub.corpus.corpus import Clip, Corpus
from hubpub.corpus.spec import Role
from hubpub.errors import OverlapError

SHORTEST_S = 0.4
"""Clips shorter than this, in seconds, have too little in them to be told apart by ear."""


@dataclass(frozen=True)
class Proof:
    """What was compared and found disjoint; ``by_digest_only`` counts the clips too short to be compared by ear."""

    calibration_clips: int
    calibration_seconds: float
    evaluation_clips: int
    evaluation_seconds: float
    by_digest_only: int


@dataclass(frozen=True)
class Overlap:
    """A calibration clip and an evaluation clip that share audio."""

    calibration: str
    calibration_clip: str
    evaluation: str
    evaluation_clip: str
    how: str

    @property
    def pair(self) -> tuple[str, str, str, str]:
        """The clips, without how they overlap."""
        return self.calibration, self.calibration_clip, self.evaluation, self.evaluation_clip

    def __str__(self) -> str:
        """One line that names both."""
        return (
            f"clip {self.calibration_clip} of {self.calibration} (calibration) and clip {self.evaluation_clip} "
            f"of {self.evaluation} (evaluation) {self.how}"
        )


def overlaps(corpora: Mapping[str, Corpus]) -> tuple[Overlap, ...]:
    """Every pair of a calibration and an evaluation clip that share audio, in the order of the recipe."""
    by_samples: dict[str, list[tuple[str, Clip]]] = defaultdict(list)
    by_recording: dict[str, list[tuple[str, Clip]]] = defaultdict(list)
    for name, corpus in corpora.items():
        if corpus.role == "evaluation":
            for clip in corpus.recorded:
                by_samples[clip.samples_sha256].append((name, clip))
                by_recording[clip.file_samples_sha256].append((name, clip))

    def found() -> Iterator[Overlap]:
        for name, corpus in corpora.items():
            if corpus.role != "calibration":
                continue
            for clip in corpus.recorded:
                same = by_samples.get(clip.samples_sha256, [])
                for other_name, other in same:
                    yield Overlap(name, clip.id, other_name, other.id, "are the same samples")
                for other_name, other in by_recording.get(clip.file_samples_sha256, []):
                    start, stop = max(clip.start, other.start), min(clip.stop, other.stop)
                    if start < stop and other.samples_sha256 != clip.samples_sha256:
                        seconds = f"{start / clip.native_rate:g}-{stop / clip.native_rate:g} s"
                        yield Overlap(name, clip.id, other_name, other.id, f"share {seconds} of one recording")

    return tuple(found())


def likenesses(corpora: Mapping[str, Corpus], folders: Mapping[str, Path]) -> tuple[Overlap, ...]:
    """Every pair of a calibration and an evaluation clip that sound alike somewhere, by their fingerprints.

    Recoded, resampled, louder, trimmed, filtered, noisy and slightly faster copies are found, and a clip inside a
    longer one; see `hubpub.corpus.similar` for the limits.

    Args:
        corpora: by name.
        folders: where each of them was prepared.
    """
    from hubpub.corpus.corpus import load_samples
    from hubpub.corpus.fingerprint import fingerprint, mapped
    from hubpub.corpus.similar import shared_audio

    first, second = _clips(corpora, "calibration"), _clips(corpora, "evaluation")
    if not first or not second:
        return ()
    heard = [mapped(fingerprint(load_samples(folders[name], clip)) for name, clip in side) for side in (first, second)]
    found = []
    for each in shared_audio(*heard, shortest_s=SHORTEST_S):
        (calibration, mine), (evaluation, other) = first[each.first], second[each.second]
        at, there = (f"{start:.1f}-{stop:.1f} s" for start, stop in (each.first_s, each.second_s))
        how = f"sound alike: {at} of the one is {there} of the other (correlation {each.score:.2f})"
        found.append(Overlap(calibration, mine.id, evaluation, other.id, how))
    return tuple(found)


def check_disjoint(corpora: Mapping[str, Corpus], folders: Mapping[str, Path]) -> Proof:
    """Refuse calibration and evaluation corpora that share audio, exactly or by ear.

    Args:
        corpora: by name.
        folders: where each of them was prepared.

    Returns:
        What was compared.

    Raises:
        OverlapError: names both corpora and both clips of every violation, a line each.
    """
    exact = overlaps(corpora)
    told = {each.pair for each in exact}
    violations = (*exact, *(each for each in likenesses(corpora, folders) if each.pair not in told))
    if violations:
        raise OverlapError(
            "\n".join(map(str, violations)), fix="take the clips out of one of the two, or shorten their crops"
        )
    mine, others = _clips(corpora, "calibration"), _clips(corpora, "evaluation")
    return Proof(
        calibration_clips=len(mine),
        calibration_seconds=round(sum(clip.seconds for _, clip in mine), 3),
        evaluation_clips=len(others),
        evaluation_seconds=round(sum(clip.seconds for _, clip in others), 3),
        by_digest_only=sum(clip.seconds < SHORTEST_S for _, clip in (*mine, *others)),
    )


def _clips(corpora: Mapping[str, Corpus], role: Role) -> list[tuple[str, Clip]]:
    return [(name, clip) for name, corpus in corpora.items() if corpus.role == role for clip in corpus.recorded]

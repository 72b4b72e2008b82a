"""The proof that nothing was calibrated on what it is evaluated on: by exact content, not by name.

Two clips overlap when their decoded samples are the same, or when both are crops of the same decoded recording
(whatever its file name and its encoding) and the crops overlap in time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hubpub.corpus.corpus import Clip, Corpus
from hubpub.errors import OverlapError


@dataclass(frozen=True)
class Overlap:
    """A calibration clip and an evaluation clip that share audio."""

    calibration: str
    calibration_clip: str
    evaluation: str
    evaluation_clip: str
    how: str

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
            for clip in corpus.clips:
                by_samples[clip.samples_sha256].append((name, clip))
                by_recording[clip.file_samples_sha256].append((name, clip))

    def found() -> Iterator[Overlap]:
        for name, corpus in corpora.items():
            if corpus.role != "calibration":
                continue
            for clip in corpus.clips:
                same = by_samples.get(clip.samples_sha256, [])
                for other_name, other in same:
                    yield Overlap(name, clip.id, other_name, other.id, "are the same samples")
                for other_name, other in by_recording.get(clip.file_samples_sha256, []):
                    start, stop = max(clip.start, other.start), min(clip.stop, other.stop)
                    if start < stop and other.samples_sha256 != clip.samples_sha256:
                        seconds = f"{start / clip.native_rate:g}-{stop / clip.native_rate:g} s"
                        yield Overlap(name, clip.id, other_name, other.id, f"share {seconds} of one recording")

    return tuple(found())


def check_disjoint(corpora: Mapping[str, Corpus]) -> None:
    """Refuse calibration and evaluation corpora that share audio.

    Raises:
        OverlapError: names both corpora and both clips of every violation, a line each.
    """
    violations = overlaps(corpora)
    if violations:
        raise OverlapError(
            "\n".join(map(str, violations)), fix="take the clips out of one of the two, or shorten their crops"
        )

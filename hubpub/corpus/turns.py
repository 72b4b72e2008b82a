"""Who speaks when: NIST's RTTM, UEM and STM files.

RTTM as in The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan, appendix A; UEM and STM as in the
documentation of NIST's SCTK. Channels are not told apart: audio is mixed to mono.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hubpub.corpus.labelfile import fields_of_lines, recording_id, seconds, span
from hubpub.errors import AudioError

_RTTM_WORDS = ("LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "IP", "SU", "CB", "A/P")
_RTTM_TYPES = ("SPEAKER", "SEGMENT", "NOSCORE", "NO_RT_METADATA", "SPKR-INFO", *_RTTM_WORDS)
_NOT_SCORED = "ignore_time_segment_in_scoring"


@dataclass(frozen=True)
class Segment:
    """A stretch of one speaker's speech, in seconds from the start of the recording; ``text`` where it is known."""

    start: float
    end: float
    speaker: str
    text: str | None = None


Segments = dict[str, tuple[Segment, ...]]
"""By recording, in order of time."""


def read_rttm(path: Path, where: str) -> Segments:
    """The speaker turns of an RTTM file; lines of other types than SPEAKER are passed over.

    Raises:
        AudioError: ``where:line`` and what is wrong there.
    """
    found: dict[str, list[Segment]] = {}
    for line, kind, *fields in fields_of_lines(path, where, 8, "SPEAKER file channel start duration <NA> <NA> name"):
        if kind not in _RTTM_TYPES:
            raise AudioError(f"{kind[:40]!r} is no type of RTTM line", where=line)
        if kind == "SPEAKER":
            start, duration = seconds(fields[2], "the start", line), seconds(fields[3], "the duration", line)
            turns = found.setdefault(recording_id(fields[0]), [])
            if duration > 0:
                turns.append(Segment(start, start + duration, fields[6]))
    return _ordered(found)


def read_uem(path: Path, where: str) -> dict[str, tuple[tuple[float, float], ...]]:
    """The annotated parts of each recording, joined where they touch.

    Raises:
        AudioError: ``where:line`` and what is wrong there.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for line, name, _, start, end, *_ in fields_of_lines(path, where, 4, "file channel start end"):
        found.setdefault(recording_id(name), []).append(span(start, end, line))
    return {name: _joined(parts) for name, parts in found.items()}


def read_stm(path: Path, where: str) -> Segments:
    """The segments of an STM file with their texts; those that are not to be scored are left out.

    Raises:
        AudioError: ``where:line`` and what is wrong there.
    """
    found: dict[str, list[Segment]] = {}
    wanted = "file channel speaker start end text"
    for line, name, _, speaker, start, end, *said in fields_of_lines(path, where, 5, wanted):
        begin, stop = span(start, end, line)
        if said and said[0].startswith("<") and said[0].endswith(">"):
            said = said[1:]  # the label: conditions, sex of the speaker
        if said[:1] != [_NOT_SCORED]:
            segment = Segment(begin, stop, speaker, " ".join(said))
            found.setdefault(recording_id(name), []).append(segment)
        else:
            found.setdefault(recording_id(name), [])
    return _ordered(found)


def _ordered(found: dict[str, list[Segment]]) -> Segments:
    return {name: tuple(sorted(parts, key=lambda each: (each.start, each.end))) for name, parts in found.items()}


def _joined(parts: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    joined: list[tuple[float, float]] = []
    for start, end in sorted(parts):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)

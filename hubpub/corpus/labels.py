"""What is heard in a clip, taken from the files that the recipe names, for the part of the recording that is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

from hubpub.corpus.corpus import Spoken, Turn
from hubpub.corpus.labelfile import read_label_text, recording_id
from hubpub.corpus.transcripts import TABLES, read_table
from hubpub.corpus.turns import read_rttm, read_stm, read_uem
from hubpub.errors import AudioError, nearest

_T = TypeVar("_T")
_SLACK_S = 0.01  # a hundredth of a second, to which such files are written


class LabelFiles:
    """The label files of a corpus, each read once.

    Args:
        files: where each reference lies.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._read: dict[tuple[str, str], object] = {}

    def text(self, reference: str, audio: str, name: str, start: float, end: float) -> str:
        """What is said in ``audio`` from ``start`` to ``end``, in seconds of the recording; blanks made one.

        Args:
            reference: the file with the text.
            audio: the recording, as the recipe names it.
            name: id of the clip, by which label files may call the recording too.
            start: where the clip starts; matters to files that give times alone.
            end: where it ends.

        Raises:
            AudioError: one line with the file and its line.
        """
        suffix = PurePosixPath(reference).suffix.lower()
        if suffix in TABLES:
            return self._once(reference, read_table).text(audio, name)
        if suffix != ".stm":
            text = " ".join(self._once(reference, read_label_text).split())
            if not text:
                raise AudioError("the transcript is empty", where=reference, fix="write `text: ''` if nobody speaks")
            return text
        return " ".join(each.text for each in self.spoken(reference, audio, name, start, end) or ())

    def spoken(self, reference: str, audio: str, name: str, start: float, end: float) -> tuple[Spoken, ...] | None:
        """The same by stretches, counted from ``start``; ``None`` where the file does not tell when it is said.

        Raises:
            AudioError: one line with the file and its line.
        """
        if PurePosixPath(reference).suffix.lower() != ".stm":
            return None
        spoken = _of(self._once(reference, read_stm), audio, name, reference)
        inside = [each for each in spoken if each.start < end - _SLACK_S and each.end > start + _SLACK_S]
        cut = [each for each in inside if each.start < start - _SLACK_S or each.end > end + _SLACK_S]
        if cut:
            what = f"the clip {start:g}-{end:g} s cuts the words of {cut[0].start:g}-{cut[0].end:g} s"
            raise AudioError(what, where=reference, fix="move the ends of its crop")
        return tuple(
            Spoken(start=max(0.0, round(each.start - start, 6)), end=round(each.end - start, 6), text=each.text)
            for each in inside
            if each.text
        )

    def turns(self, reference: str, audio: str, name: str, start: float, end: float) -> tuple[Turn, ...]:
        """Who speaks when between ``start`` and ``end``, counted from ``start``; arguments as of `text`.

        Raises:
            AudioError: one line with the file and its line.
        """
        read = read_stm if reference.lower().endswith(".stm") else read_rttm
        spoken = _of(self._once(reference, read), audio, name, reference)
        return tuple(
            Turn(start=round(low - start, 6), end=round(high - start, 6), speaker=each.speaker)
            for each in spoken
            for low, high in [(max(each.start, start), min(each.end, end))]
            if high - low > 1e-6
        )

    def scored(
        self, reference: str, audio: str, name: str, start: float, end: float
    ) -> tuple[tuple[float, float], ...]:
        """The annotated parts between ``start`` and ``end``, counted from ``start``; arguments as of `text`.

        Raises:
            AudioError: one line with the file and its line; nothing of the clip is annotated.
        """
        parts = _of(self._once(reference, read_uem), audio, name, reference)
        within = ((max(low, start), min(high, end)) for low, high in parts)
        found = tuple((round(low - start, 6), round(high - start, 6)) for low, high in within if high - low > 1e-6)
        if not found:
            raise AudioError(f"nothing of {start:g}-{end:g} s of {audio} is annotated", where=reference)
        return found

    def _once(self, reference: str, read: Callable[[Path, str], _T]) -> _T:
        key = (reference, read.__name__)
        if key not in self._read:
            if reference not in self._files:
                raise AudioError("no such file is among the sources", where=reference, fix="correct the reference")
            self._read[key] = read(self._files[reference], reference)
        return self._read[key]  # type: ignore[return-value]


def _of(by_recording: Mapping[str, _T], audio: str, name: str, reference: str) -> _T:
    for called in (recording_id(audio), recording_id(name)):
        if called in by_recording:
            return by_recording[called]
    wanted = recording_id(audio)
    what = f"has no line for {wanted}{nearest(wanted, by_recording)}"
    raise AudioError(what, where=reference, fix="give the clip the id that the file uses, or take the file out")

"""What all files with labels have in common: text, bounded, read line by line, with the line in every error."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hubpub.errors import AudioError

MAX_BYTES = 64 << 20
MAX_SECONDS = 24 * 3600.0
_AUDIO = ("wav", "flac", "ogg", "oga", "opus", "mp3", "mp4", "m4a", "aac", "webm", "aif", "aiff", "aifc", "caf")
AUDIO_SUFFIXES = frozenset(f".{each}" for each in (*_AUDIO, "sph", "au", "snd", "voc", "w64", "rf64"))
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?|\.[0-9]+", re.ASCII)


def read_label_text(path: Path, where: str) -> str:
    """The text of a file with labels, a byte-order mark dropped.

    Args:
        path: the file.
        where: as the recipe names it.

    Raises:
        AudioError: it cannot be read, is too large or is not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AudioError(f"it is larger than {MAX_BYTES >> 20} MB", where=where, fix="split it")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AudioError("it is not UTF-8 text", where=where, fix="convert it") from error
    except OSError as error:
        raise AudioError(f"it cannot be read ({error.strerror})", where=where) from error


def fields_of_lines(path: Path, where: str, count: int, wanted: str) -> Iterator[list[str]]:
    """The blank-separated fields of every line that is no comment (``;;`` or ``#``), preceded by ``where:line``.

    Args:
        path: the file.
        where: as the recipe names it.
        count: how many fields a line has at least.
        wanted: what they are, for the error.

    Raises:
        AudioError: a line has fewer.
    """
    for number, line in enumerate(read_label_text(path, where).split("\n"), 1):
        fields = line.split()
        if not fields or fields[0].startswith((";;", "#")):
            continue
        if len(fields) < count:
            raise AudioError(f"has {len(fields)} fields, and {count} are needed: {wanted}", where=f"{where}:{number}")
        yield [f"{where}:{number}", *fields]


def seconds(text: str, what: str, where: str) -> float:
    """A time in seconds.

    Raises:
        AudioError: it is none, or beyond any recording.
    """
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not value <= MAX_SECONDS:
        raise AudioError(f"{what} is {text[:40]!r}, which is no time in seconds", where=where)
    return value


def span(start: str, end: str, where: str) -> tuple[float, float]:
    """A stretch of time.

    Raises:
        AudioError: it does not end after it starts.
    """
    begin, stop = seconds(start, "the start", where), seconds(end, "the end", where)
    if begin >= stop:
        raise AudioError(f"ends at {stop:g} s and starts at {begin:g} s", where=where)
    return begin, stop


def recording_id(name: str) -> str:
    """What two spellings of one file name share: no folder, no suffix of an audio file, one Unicode form."""
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    return path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name

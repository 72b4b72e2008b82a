"""Where two sets of recordings share audio, told by their fingerprints.

One second of one set is slid over all of the other at 25 frames a second (one matrix product finds the best place in
every clip), what looks alike is compared again at 100 frames a second, and windows that follow each other in both
clips are joined. So the cost is a product: hours of the one times hours of the other.

The score of two windows is their correlation. Every frame has length one, so that no loud moment decides alone, and a
window that is mostly silence is scored as if three quarters of it were heard, so that a click is no evidence. The
limits are measured: among all pairs of 90 recordings without common audio (20 minutes of real speech, much of it of one
speaker in one room) the highest score of a window was 0.52, and no row of windows over 1.5 s kept above 0.36; among
430,000 pairs of these recordings played up to a quarter faster or slower, forwards and backwards, no long faint row
was taken for evidence. Of five seconds of speech, changed in 32 of the ways of the tests, 99.4 % were found before such
rows counted, white noise at 5 dB being worst with 90 %; of one second 93 %. On one core an hour takes 3 s to
fingerprint, and three quarters of an hour against an hour 18 s to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from hubpub.corpus.fingerprint import FRAMES_PER_SECOND, Frames

STRONG = 0.65
"""One window with this score is enough."""
WEAK = 0.4
"""Windows that follow each other over two seconds, each with this score, are."""
FAINT = 0.3
"""Longer rows of windows, each with this score, are if their mean is that of `_LONG_ROWS`."""

_STEP = 4  # fine frames in a coarse one
_POOL = 2  # fine bands in a coarse one
_WINDOW = FRAMES_PER_SECOND // _STEP  # coarse frames: one second
_HOP = _WINDOW // 2
_MARGIN = _WINDOW // 4  # by how much a window may stand out of the other clip
_CANDIDATE = 0.3
_ACTIVE = 0.75
_FINE_SLACK = 8  # fine frames
_SHORT_STRONG = 0.75  # asked of clips of less than a second
_ROW_S = 1.9  # three windows or more
_LONG_ROWS = ((2.4, 0.42), (2.9, 0.36))  # seconds from which on, and mean score
_PATTERNS = 1.8  # a tone that is on or off has 1.1 to 1.6, the dullest second of speech 2.1
_MAX_GAP_S, _MAX_DRIFT = 1.0, 8
_CHUNK = 4096
_ENERGY, _FINE_ENERGY = 0.2, 0.7
"""Squared length of a usual frame of speech, pooled and not."""


@dataclass(frozen=True)
class Shared:
    """A stretch of audio that two clips have in common.

    Attributes:
        first: index of the clip in the one set.
        second: index of the clip in the other.
        first_s: start and end of the stretch in the one, to about half a second.
        second_s: the same in the other.
        score: the highest correlation of a window.
    """

    first: int
    second: int
    first_s: tuple[float, float]
    second_s: tuple[float, float]
    score: float


@dataclass(frozen=True)
class _Hit:
    first: int
    second: int
    at: int  # coarse frame of `first`
    size: int  # coarse frames
    offset: int  # fine frames: place in `second` less place in `first`
    score: float


@dataclass(frozen=True)
class _Window:
    clip: int
    at: int
    size: int


def shared_audio(first: Sequence[Frames], second: Sequence[Frames], *, shortest_s: float = 0.4) -> list[Shared]:
    """Every pair of clips of the two sets that share audio, each once, with the stretch that is most alike.

    Found are stretches of two seconds and more, and shorter ones where they fill a clip and are heard well; what is
    exactly the same is for the digests to find, however short.

    Args:
        first: fingerprints of the one set.
        second: fingerprints of the other set.
        shortest_s: clips shorter than this, in seconds, are not slid: they have too little in them.
    """
    least = shortest_s * FRAMES_PER_SECOND / _STEP
    found = {(each.first, each.second): each for each in _joined(_hits(first, second, least))}
    # Clips of the second set that are shorter than a window are slid over the first.
    for each in _joined(_hits(second, first, least, short_only=True)):
        swapped = Shared(each.second, each.first, each.second_s, each.first_s, each.score)
        found.setdefault((swapped.first, swapped.second), swapped)
    return [found[pair] for pair in sorted(found)]


def _hits(
    queries: Sequence[Frames], others: Sequence[Frames], least: float, *, short_only: bool = False
) -> Iterator[_Hit]:
    """Windows of ``queries`` that sound like a place in ``others``; ``short_only``: of clips below one second."""
    windows = [window for clip, frames in enumerate(queries) for window in _windows(clip, len(frames) // _STEP, least)]
    if short_only:
        windows = [window for window in windows if window.size < _WINDOW]
    coarse = [_coarse(frames) for frames in queries]
    places = [_coarse(frames) for frames in others]
    for size, group in groupby(sorted(windows, key=lambda window: window.size), key=lambda window: window.size):
        fits = [clip for clip, frames in enumerate(places) if len(frames) >= min(size, _WINDOW - _MARGIN)]
        for window, clip, place in _candidates(list(group), coarse, {clip: places[clip] for clip in fits}):
            hit = _compare(window, queries[window.clip], clip, others[clip], place)
            if hit.score >= FAINT and _patterns(queries[window.clip], window) >= _PATTERNS:
                yield hit


def _windows(clip: int, length: int, least: float) -> Iterator[_Window]:
    if length >= _WINDOW:
        yield from (_Window(clip, at, _WINDOW) for at in range(0, length - _WINDOW + 1, _HOP))
        if (length - _WINDOW) % _HOP:
            yield _Window(clip, length - _WINDOW, _WINDOW)
    elif length >= least:
        yield _Window(clip, 0, length)


def _coarse(frames: Frames) -> Frames:
    count = len(frames) // _STEP
    grouped = frames[: count * _STEP].reshape(count, _STEP, frames.shape[1] // _POOL, _POOL)
    coarse: Frames = grouped.mean(axis=(1, 3))
    return coarse


def _candidates(
    windows: Sequence[_Window], coarse: Sequence[Frames], places: Mapping[int, Frames]
) -> Iterator[tuple[_Window, int, int]]:
    """The best place of every window in every clip, where it is any good: window, clip, coarse frame."""
    size = windows[0].size
    for block in range(0, len(windows), _CHUNK):
        part = windows[block : block + _CHUNK]
        slid = _unit(np.stack([coarse[each.clip][each.at : each.at + size].ravel() for each in part]), size).T
        for clips, starts, rows in _rows(places, size):
            scores = _unit(rows, size) @ slid
            best = np.maximum.reduceat(scores, starts, axis=0)
            for index, column in np.argwhere(best >= _CANDIDATE):
                stop = starts[index + 1] if index + 1 < len(starts) else len(rows)
                place = int(scores[starts[index] : stop, column].argmax())
                clip, before = clips[index]
                yield part[column], clip, place + before - _MARGIN


def _rows(places: Mapping[int, Frames], size: int) -> Iterator[tuple[list[tuple[int, int]], list[int], Frames]]:
    """All windows of ``size`` frames in all clips, some thousands at a time.

    Yields:
        Clip and number of the first window for each part, the row where each part begins, and the rows.
    """
    clips: list[tuple[int, int]] = []
    starts: list[int] = []
    parts: list[Frames] = []
    held = 0
    for clip, frames in places.items():
        padded = np.pad(frames, ((_MARGIN, _MARGIN), (0, 0)))
        # [windows, bands, frames] as the view gives them, and then as the flattened queries have them
        windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0).swapaxes(1, 2)
        for before in range(0, len(windows), _CHUNK):
            rows = windows[before : before + _CHUNK].reshape(-1, size * frames.shape[1])
            if held + len(rows) > _CHUNK and parts:
                yield clips, starts, np.concatenate(parts)
                clips, starts, parts, held = [], [], [], 0
            clips.append((clip, before))
            starts.append(held)
            parts.append(rows)
            held += len(rows)
    if parts:
        yield clips, starts, np.concatenate(parts)


def _unit(rows: Frames, size: int) -> Frames:
    """Rows of length one, but shorter where little of the window is heard."""
    energy = np.einsum("ij,ij->i", rows, rows)
    unit: Frames = rows / np.sqrt(np.maximum(energy, _ACTIVE * _ENERGY * size))[:, None]
    return unit


def _compare(window: _Window, mine: Frames, clip: int, other: Frames, place: int) -> _Hit:
    """The score at the best place within a few fine frames around ``place``."""
    size = window.size * _STEP
    start = window.at * _STEP
    query = mine[start : start + size]
    low, high = place * _STEP - _FINE_SLACK, place * _STEP + _FINE_SLACK + size
    around = np.pad(other[max(low, 0) : max(high, 0)], ((max(-low, 0), max(high - len(other), 0)), (0, 0)))
    shifts = np.lib.stride_tricks.sliding_window_view(around, size, axis=0)
    products: npt.NDArray[np.float32] = np.einsum("sbf,fb->s", shifts, query)
    least = _ACTIVE * _FINE_ENERGY * size
    frame_energy = np.cumsum(np.insert((around**2).sum(axis=1), 0, 0))
    energies = frame_energy[size:] - frame_energy[:-size]
    scores = products / np.sqrt(np.maximum(energies, least) * max(float((query**2).sum()), least))
    best = int(scores.argmax())
    return _Hit(window.clip, clip, window.at, window.size, low + best - start, float(scores[best]))


def _patterns(frames: Frames, window: _Window) -> float:
    """How many different frames a window consists of, so to say: the participation ratio of its principal components.

    Beeps and dialling tones are the same everywhere, and say nothing of where they were recorded.
    """
    part = frames[window.at * _STEP : (window.at + window.size) * _STEP]
    powers = np.linalg.eigvalsh(part.T @ part)
    return float(powers.sum() ** 2 / max(float((powers**2).sum()), 1e-12))


def _joined(hits: Iterator[_Hit]) -> Iterator[Shared]:
    """Rows of windows that follow each other in both clips, where they are evidence enough."""
    ordered = sorted(hits, key=lambda hit: (hit.first, hit.second, hit.at))
    for _, group in groupby(ordered, key=lambda hit: (hit.first, hit.second)):
        if sound := [row for row in _rows_of_hits(group) if _is_evidence(row)]:
            yield _stretch(max(sound, key=lambda row: (len(row), max(hit.score for hit in row))))


def _rows_of_hits(hits: Iterable[_Hit]) -> list[list[_Hit]]:
    rows: list[list[_Hit]] = []
    for hit in hits:
        follows = next((row for row in reversed(rows) if _follows(row[-1], hit)), None)
        if follows is None:
            rows.append([hit])
        else:
            follows.append(hit)
    return rows


def _follows(last: _Hit, hit: _Hit) -> bool:
    gap = (hit.at - last.at) * _STEP / FRAMES_PER_SECOND
    return 0 < gap <= _MAX_GAP_S and abs(hit.offset - last.offset) <= _MAX_DRIFT


def _is_evidence(row: Sequence[_Hit]) -> bool:
    strong = STRONG if row[0].size == _WINDOW else _SHORT_STRONG
    if max(hit.score for hit in row) >= strong:
        return True
    mean = sum(hit.score for hit in row) / len(row)
    if any(_seconds(row) >= seconds and mean >= least for seconds, least in _LONG_ROWS):
        return True
    return any(_seconds(part) >= _ROW_S for part in _rows_of_hits(hit for hit in row if hit.score >= WEAK))


def _seconds(row: Sequence[_Hit]) -> float:
    return (row[-1].at + row[-1].size - row[0].at) * _STEP / FRAMES_PER_SECOND


def _stretch(row: Sequence[_Hit]) -> Shared:
    first, last = row[0], row[-1]
    start, stop = first.at * _STEP, (last.at + last.size) * _STEP
    mine = (start / FRAMES_PER_SECOND, stop / FRAMES_PER_SECOND)
    other = (max(start + first.offset, 0) / FRAMES_PER_SECOND, (stop + last.offset) / FRAMES_PER_SECOND)
    return Shared(first.first, first.second, mine, other, max(hit.score for hit in row))

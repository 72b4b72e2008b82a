"""From an audio file to samples: decode, mix to mono, crop, resample, and a digest of what is heard.

The digest is taken of the *decoded samples* in a canonical form, so that the same recording as 16-bit, 24-bit or
float WAV, or as FLAC, has one digest, and a copy under another name is recognised.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hubpub.corpus.containers import read_mpeg, read_ogg, read_sphere
from hubpub.errors import AudioError

if TYPE_CHECKING:
    import soundfile

Samples = npt.NDArray[np.float32]

MODEL_RATE = 16_000
"""What every speech model here takes, in Hz."""
MAX_FILE_SECONDS = 24 * 3600.0
MAX_CLIP_SECONDS = 2 * 3600.0
"""A few kilobytes of FLAC can decode to days of silence; these bounds keep time and memory finite."""

_BLOCK = 1 << 18  # frames decoded at a time
_MP3_SLACK = 3 * 1152  # two MPEG frames of delay and padding, and a rest of one
_MP3_PADDING = 9 * 1152  # the most that a header can tell a decoder to drop, and a frame
_UNTOLD = (1 << 63) - 1  # what libsndfile gives where a FLAC was streamed into a pipe
_UNKNOWN_LENGTH = range(0x7FFF_F000, 0x1_0000_0000)  # what programs write that stream a WAV into a pipe


@dataclass(frozen=True)
class Decoded:
    """A clip as it was recorded.

    Attributes:
        samples: float32 ``[frames]``, mono, at the native rate.
        rate: native rate in Hz.
        start: first frame of the clip in its file.
        stop: frame after the last one.
        samples_sha256: digest of the clip's samples.
        file_samples_sha256: digest of all samples of the file, whatever the crop.
    """

    samples: Samples
    rate: int
    start: int
    stop: int
    samples_sha256: str
    file_samples_sha256: str


def decode(path: Path, crop: tuple[float, float] | None = None) -> Decoded:
    """Read what libsndfile reads (WAV of any depth, FLAC, OGG, MP3 …), mixed to mono by the mean of the channels.

    Memory holds the clip, not the file.

    Args:
        path: the file.
        crop: start and end in seconds; ``None`` takes it all.

    Raises:
        AudioError: not audio, truncated, empty, NaN or infinite samples, a crop that leaves the file, too long.
    """
    where = str(path)
    try:
        with _opened(path) as file:
            rate, announced = int(file.samplerate), int(file.frames)
            if announced == _UNTOLD:
                announced = _counted(path)
            if rate <= 0 or announced / rate > MAX_FILE_SECONDS:
                raise AudioError(f"it is longer than {MAX_FILE_SECONDS / 3600:g} h", where=where, fix="split the file")
            start, stop = _frames(crop, rate, announced, where)
            whole, parts, read = SampleDigest(rate), [], 0
            for block in _mono_blocks(file, where):
                whole.update(block)
                parts.append(block[max(start - read, 0) : max(stop - read, 0)].copy())
                read += len(block)
            truncated = _is_truncated(path, file, announced, read)
            if crop is not None and stop > read + _MP3_SLACK:  # the length was a guess
                _frames(crop, rate, read, where)
            stop = min(stop, read)
    except (RuntimeError, TypeError) as error:  # TypeError: a headerless .raw file
        reason = str(error).replace(f"Error opening {where!r}: ", "").strip() or "the decoder gave up"
        raise AudioError(f"it cannot be decoded ({reason})", where=where, fix=_REPLACE) from error
    except OSError as error:
        raise AudioError(f"it cannot be read ({error.strerror or error})", where=where) from error
    if truncated:
        raise AudioError(
            f"it is truncated: {read} frames of audio are there, the file announces more", where=where, fix=_REPLACE
        )
    samples = np.concatenate(parts)
    return Decoded(samples, rate, start, stop, samples_sha256(samples, rate), whole.hexdigest())


def resample(samples: Samples, rate: int, target: int = MODEL_RATE) -> Samples:
    """Band-limited resampling by soxr at its HQ setting; float32 in and out."""
    if rate == target:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, target, quality="HQ"), dtype=np.float32)


def samples_sha256(samples: Samples, rate: int) -> str:
    """Digest of what is heard; see ``SampleDigest``."""
    digest = SampleDigest(rate)
    digest.update(samples)
    return digest.hexdigest()


class SampleDigest:
    """sha256 over the rate (decimal, a newline) and the samples as little-endian int16, rounded half to even.

    Sixteen bits because that is what recordings are published in: a wider copy of the same recording rounds back
    to the same numbers.
    """

    def __init__(self, rate: int) -> None:
        self._sha256 = hashlib.sha256(f"{rate}\n".encode())

    def update(self, samples: Samples) -> None:
        """Add samples; how they are divided into calls does not matter."""
        rounded = np.rint(samples.astype(np.float64) * 32768)
        self._sha256.update(np.clip(rounded, -32768, 32767).astype("<i2").tobytes())

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._sha256.hexdigest()


def _opened(path: Path) -> soundfile.SoundFile:
    """A file that is read from start to end: libsndfile cannot seek in a FLAC that does not tell its length."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Forward(path)


def _counted(path: Path) -> int:
    """Frames of a file that does not tell; a few more than are allowed where there are too many."""
    with _opened(path) as file:
        most, frames = MAX_FILE_SECONDS * file.samplerate, 0
        while frames <= most and (count := len(file.read(_BLOCK, dtype="float32"))):
            frames += count
    return frames


_REPLACE = "fetch the file again, or convert it to WAV or FLAC"


def _frames(crop: tuple[float, float] | None, rate: int, frames: int, where: str) -> tuple[int, int]:
    start, stop = (0, frames) if crop is None else (round(crop[0] * rate), round(crop[1] * rate))
    if frames == 0:
        raise AudioError("it holds no audio", where=where)
    if stop > frames:
        raise AudioError(
            f"the crop ends at {stop / rate:g} s, the recording at {frames / rate:g} s", where=where, fix="shorten it"
        )
    if start >= stop:
        raise AudioError("the crop is shorter than one sample", where=where)
    if (stop - start) / rate > MAX_CLIP_SECONDS:
        raise AudioError(
            f"the clip is longer than {MAX_CLIP_SECONDS / 3600:g} h", where=where, fix="use several crops of it"
        )
    return start, stop


def _mono_blocks(file: soundfile.SoundFile, where: str) -> Iterator[Samples]:
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float64).astype(np.float32)
        if not np.isfinite(mono).all():
            raise AudioError("it holds samples that are NaN or infinite", where=where, fix=_REPLACE)
        yield mono


def _is_truncated(path: Path, file: soundfile.SoundFile, announced: int, read: int) -> bool:
    """Whether the end is missing.

    Raises:
        AudioError: it is there, and libsndfile does not go on to it.
    """
    unread = None
    if file.format in ("MP3", "MPEG"):
        mpeg = read_mpeg(path)
        if mpeg is not None and read + _MP3_PADDING < mpeg.samples:
            unread = f"{(mpeg.samples - read) / file.samplerate:.1f} s more than it announces, which are not read"
        # An MP3's announced length includes the encoder's delay and padding, which the decoder drops.
        truncated = read + _MP3_SLACK < announced and (mpeg is None or mpeg.announced)
    elif file.format == "OGG":
        ogg = read_ogg(path)
        truncated = read < announced or not ogg.whole
        unread = "another stream after the first, which is not read" if ogg.chained else None
    elif file.format == "NIST":
        truncated = read < read_sphere(path)
    else:
        truncated = read < announced or _cut_short(file.extra_info)
    if unread is not None:
        raise AudioError(f"it holds {unread}", where=str(path), fix="convert it to WAV or FLAC")
    return truncated


def _cut_short(log: str) -> bool:
    """Whether libsndfile, which reads on quietly, noted a data chunk longer than the file."""
    sizes = re.findall(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    chunk = any(int(told) > int(there) and int(told) not in _UNKNOWN_LENGTH for told, there in sizes)
    frames = re.findall(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)", log)
    return chunk or any(int(told) > int(there) for there, told in frames)

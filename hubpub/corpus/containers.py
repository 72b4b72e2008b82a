"""What MP3, Ogg and NIST files hold by their own account: libsndfile stops early in some of them, and says nothing."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

_TAG_HEADER = 10  # of ID3v2
_RATES = (44_100, 48_000, 32_000)
_KBITS = {  # by whether it is MPEG 1, and layer; ISO 11172-3 and 13818-3
    (True, 1): range(0, 449, 32),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class Mpeg:
    """An MPEG audio file.

    Attributes:
        samples: of all its frames, with the encoder's delay and padding.
        announced: whether a header tells how long it is (Xing, Info or VBRI); else decoders guess by the first frame.
    """

    samples: int
    announced: bool


@dataclass(frozen=True)
class Ogg:
    """An Ogg file, by RFC 3533.

    Attributes:
        whole: whether its last page is whole and marked as the end of its stream.
        chained: whether another stream follows the first one.
    """

    whole: bool
    chained: bool


def read_mpeg(path: Path) -> Mpeg | None:
    """Walk the frames; ``None`` where their lengths cannot be told (free format)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, samples, first, announced = _after_tags(data), 0, True, False
        while at + 4 <= len(data):
            frame = _mpeg_frame(data[at : at + 4])
            # Four bytes may be anything: a frame is followed by another one, by a tag or by nothing.
            follows = None if frame is None else data[at + frame[0] : at + frame[0] + 4]
            if frame is None or (follows and not follows.startswith(_TAGS) and _mpeg_frame(follows) is None):
                at = data.find(b"\xff", at + 1)
                if at < 0:
                    break
                continue
            size, count = frame
            if not size:
                return None
            if first and any(name in data[at : at + min(size, 64)] for name in (b"Xing", b"Info", b"VBRI")):
                announced, count = True, 0
            at, samples, first = at + size, samples + count, False
    return Mpeg(samples, announced)


def read_ogg(path: Path) -> Ogg:
    """Walk the pages."""
    begun = chained = whole = False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(b"OggS")
        while at >= 0:
            lacing = data[at + 27 : at + 27 + data[at + 26]] if at + 26 < len(data) else b""
            end = at + 27 + len(lacing) + sum(lacing)
            if at + 26 >= len(data) or len(lacing) < data[at + 26] or end > len(data):
                return Ogg(False, chained)
            starts, whole = bool(data[at + 5] & 2), bool(data[at + 5] & 4)
            chained |= starts and begun
            begun |= not starts
            at = data.find(b"OggS", end)
    return Ogg(whole, chained)


def read_sphere(path: Path) -> int:
    """The samples per channel that the header announces; 0 where it does not."""
    with path.open("rb") as file:
        found = re.search(rb"^sample_count -i (\d{1,18})$", file.read(1024), re.MULTILINE)
    return int(found[1]) if found else 0


_TAGS = (b"TAG", b"APE", b"ID3", b"LYR")


def _after_tags(data: mmap.mmap) -> int:
    at = 0
    while data[at : at + 3] == b"ID3" and at + _TAG_HEADER <= len(data):
        size = 0
        for byte in data[at + 6 : at + _TAG_HEADER]:
            size = size << 7 | byte & 0x7F
        at += _TAG_HEADER + size + (_TAG_HEADER if data[at + 5] & 0x10 else 0)
    return at


def _mpeg_frame(header: bytes) -> tuple[int, int] | None:
    """Bytes and samples of the frame that begins so; no bytes where it does not tell."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # 3, 2, 0 are MPEG 1, 2, 2.5
    bits, rates, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bits == 15 or rates == 3:
        return None
    one = version == 3
    rate = _RATES[rates] // {3: 1, 2: 2, 0: 4}[version]
    kbits = _KBITS[one, layer][bits]
    samples = {1: 384, 2: 1152, 3: 1152 if one else 576}[layer]
    slot = 4 if layer == 1 else 1
    return (samples // 8 * kbits * 1000 // rate // slot + padding) * slot if kbits else 0, samples

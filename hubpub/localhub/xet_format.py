"""Xorbs and shards, the two formats in which hf_xet sends files: parsing only, no files, no network.

A file is cut into chunks. Chunks travel in *xorbs* (chunk after chunk, each maybe compressed); a *shard* then says
of which ranges of chunks of which xorbs each file consists, and what its sha256 is. After the Xet protocol
specification (huggingface/xet-core, ``spec/xorb.md`` and ``spec/shard.md``), as hf_xet 1.8.0 sends it: xorbs without
footer, shards of version 2 without footer. Every length is checked against what is there before it is used.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hubpub.errors import LocalHubError

MAX_CHUNK = 128 << 10
"""Bytes of one chunk, unpacked."""
MAX_CHUNKS = 8 << 10
"""Chunks of one xorb."""
MAX_XORB = 64 << 20
"""Bytes of all chunks of one xorb, unpacked."""
MAX_XORB_BODY = MAX_XORB + 8 * MAX_CHUNKS
"""Bytes of one xorb as sent: what does not compress is stored as it is, behind a header of 8 bytes for each chunk."""
MAX_SHARD = 64 << 20
"""Bytes of one shard; hf_xet starts another one before."""
MAX_FILE = 500 * 10**9
"""Bytes of one file: the Hub's limit. Without one, a shard of 100 bytes for each 64 MiB could fill any disk."""

RAW, LZ4, GROUPED_LZ4 = 0, 1, 2
_SCHEMES = {RAW: "none", LZ4: "LZ4", GROUPED_LZ4: "LZ4 of bytes grouped by four"}

_RECORD = 48  # every record of a shard
_TAG = b"HFRepoMetaData\0" + bytes([85, 105, 103, 69, 106, 123, 129, 87, 131, 165, 189, 217, 92, 205, 209, 74, 169])
_VERSION = 2
_FOOTER = 200
_WITH_VERIFICATION = 1 << 31
_WITH_METADATA = 1 << 30
_END = b"\xff" * 32
_NO_SHA256 = "0" * 64  # what hf_xet 1.8.0 sends for an empty file


class XetFormatError(LocalHubError):
    """A xorb or shard that breaks the format, or whose content is not what it says."""


def hash_hex(raw: bytes) -> str:
    """The 64 digits that stand for a hash of 32 bytes: four little-endian 64-bit numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def hash_bytes(text: str) -> bytes:
    """The inverse of `hash_hex`; ValueError for anything but 64 lower-case hexadecimal digits."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:80]!r} is not a hash of 64 lower-case hexadecimal digits")
    return struct.pack("<4Q", *(int(text[place : place + 16], 16) for place in range(0, 64, 16)))


# Xorbs


@dataclass(frozen=True)
class Layout:
    """Where the chunks of a xorb lie: chunk ``i`` is ``packed[i]:packed[i + 1]`` of the xorb as sent.

    Attributes:
        packed: byte offsets in the xorb as sent, headers included; the last one is its size.
        unpacked: byte offsets in what the chunks hold; the last one is the size of all.
    """

    packed: array[int]
    unpacked: array[int]

    @property
    def chunks(self) -> int:
        """How many chunks the xorb has."""
        return len(self.packed) - 1


class XorbScanner:
    """Finds the chunks of a xorb while it arrives, holding no more of it than one header.

    Args:
        where: what to call the xorb in errors.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._header = b""
        self._skip = 0  # bytes of the chunk's data still to come
        self._packed = array("Q", [0])
        self._unpacked = array("Q", [0])

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            XetFormatError: a header says what no xorb may.
        """
        view = memoryview(data)
        place = 0
        while place < len(view):
            step = min(self._skip, len(view) - place)
            self._skip -= step
            place += step
            if self._skip:
                return
            taken = view[place : place + 8 - len(self._header)]
            self._header += taken
            place += len(taken)
            if len(self._header) == 8:
                self._open_chunk(self._header)
                self._header = b""

    def finish(self) -> Layout:
        """The layout, once all bytes were fed.

        Raises:
            XetFormatError: the xorb ends within a chunk, or has none.
        """
        if self._header or self._skip:
            raise self._bad(f"the xorb ends within chunk {len(self._packed) - 1 - bool(self._skip)}")
        if len(self._packed) == 1:
            raise self._bad("the xorb is empty")
        return Layout(self._packed, self._unpacked)

    def _open_chunk(self, header: bytes) -> None:
        chunk = len(self._packed) - 1
        if chunk == MAX_CHUNKS:
            raise self._bad(f"the xorb has more than {MAX_CHUNKS} chunks")
        try:
            _, packed, unpacked = _chunk_header(header)
        except XetFormatError as error:
            raise self._bad(f"chunk {chunk}: {error.what}") from None
        if self._unpacked[-1] + unpacked > MAX_XORB:
            raise self._bad(f"the chunks hold more than {MAX_XORB} bytes")
        self._packed.append(self._packed[-1] + 8 + packed)
        self._unpacked.append(self._unpacked[-1] + unpacked)
        self._skip = packed

    def _bad(self, what: str) -> XetFormatError:
        return XetFormatError(what, where=self._where)


def _chunk_header(header: bytes) -> tuple[int, int, int]:
    """Scheme, packed length and unpacked length, if they can be."""
    version, scheme = header[0], header[4]
    packed, unpacked = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
    if version != 0:
        raise XetFormatError(f"version {version} of the chunk format is unknown")
    if scheme not in _SCHEMES:
        raise XetFormatError(f"compression scheme {scheme} is unknown")
    if not 0 < unpacked <= MAX_CHUNK:
        raise XetFormatError(f"it says that it holds {unpacked} bytes, a chunk holds 1 to {MAX_CHUNK}")
    if scheme == RAW and packed != unpacked:
        raise XetFormatError(f"it is not compressed, yet {packed} bytes are to hold {unpacked}")
    if not 0 < packed <= 2 * MAX_CHUNK:
        raise XetFormatError(f"it says that it is {packed} bytes long, a chunk is 1 to {2 * MAX_CHUNK}")
    return scheme, packed, unpacked


def unpack_chunk(record: bytes | memoryview) -> bytes | memoryview:
    """What a chunk holds.

    Args:
        record: header and data, all of them and nothing else.

    Raises:
        XetFormatError: the record is damaged, or holds more or less than its header says.
    """
    if len(record) < 8:
        raise XetFormatError(f"a chunk of {len(record)} bytes has no header")
    scheme, packed, unpacked = _chunk_header(bytes(record[:8]))
    data = memoryview(record)[8:]
    if len(data) != packed:
        raise XetFormatError(f"the chunk has {len(data)} bytes of data, its header says {packed}")
    if scheme == RAW:
        return data
    held = _lz4(data, unpacked)
    return held if scheme == LZ4 else ungroup(held)


def _lz4(data: memoryview, unpacked: int) -> bytes:
    import lz4.frame  # an extra: only a Hub on loopback needs it

    decompressor: Any = lz4.frame.LZ4FrameDecompressor()
    try:
        held: bytes = decompressor.decompress(data, max_length=unpacked + 1)
    except (RuntimeError, EOFError) as error:
        raise XetFormatError(f"the chunk's LZ4 frame is damaged ({error})") from None
    if len(held) != unpacked:
        raise XetFormatError(f"the chunk holds {'more' if len(held) > unpacked else 'less'} than the {unpacked} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise XetFormatError("the chunk's LZ4 frame does not end where the chunk does")
    return held


def ungroup(grouped: bytes) -> bytes:
    """Undo byte grouping: all first bytes of groups of four, then all second ones, and so on, back in their places."""
    size = len(grouped)
    plain = bytearray(size)
    place = 0
    for lane in range(4):
        count = (size - lane + 3) // 4
        plain[lane::4] = grouped[place : place + count]
        place += count
    return bytes(plain)


# Shards


@dataclass(frozen=True)
class Segment:
    """A run of chunks of a xorb that is a part of a file: ``start`` included, ``end`` excluded."""

    xorb: str
    unpacked: int
    start: int
    end: int


@dataclass(frozen=True)
class ShardFile:
    """A file as a shard describes it.

    Attributes:
        xet_hash: its Xet hash, 64 hexadecimal digits.
        sha256: its sha256 in hexadecimal, None where the client left it out.
        segments: records of its segments, in order, as `segments_of` reads them.
    """

    xet_hash: str
    sha256: str | None
    segments: bytes


@dataclass(frozen=True)
class ShardXorb:
    """A xorb as a shard describes it: how many chunks, and how many bytes they hold."""

    xorb: str
    chunks: int
    unpacked: int


def segments_of(records: bytes) -> Iterator[Segment]:
    """Segments from their records (48 bytes each), those of a shard."""
    for raw, _flags, unpacked, start, end in struct.iter_unpack("<32s4I", records):
        yield Segment(hash_hex(raw), unpacked, start, end)


def parse_shard(data: bytes, where: str = "the shard") -> tuple[list[ShardFile], list[ShardXorb]]:
    """Files and xorbs that a shard describes.

    Raises:
        XetFormatError: the shard is cut, too large, of another version, or says what cannot be.
    """
    reader = _Reader(data, where)
    if len(data) > MAX_SHARD:
        raise reader.bad(f"a shard has at most {MAX_SHARD} bytes, this has {len(data)}")
    tag, version, footer = struct.unpack("<32sQQ", reader.records(1))
    if tag != _TAG:
        raise reader.bad("this is not a shard: it begins with other bytes")
    if version != _VERSION:
        raise reader.bad(f"version {version} of the shard format is unknown, this Hub reads version {_VERSION}")
    if footer not in (0, _FOOTER):
        raise reader.bad(f"the footer is to be {footer} bytes long, it is 0 or {_FOOTER}")
    files, xorbs = list(_files(reader)), list(_xorbs(reader))
    if reader.left != footer:
        raise reader.bad(f"{reader.left} bytes follow the last record, the footer has {footer}")
    return files, xorbs


class _Reader:
    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._place = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._place

    def records(self, count: int) -> bytes:
        size = count * _RECORD
        if size > self.left:
            raise self.bad(f"the shard ends within a record: {size} bytes are to follow byte {self._place}")
        self._place += size
        return self._data[self._place - size : self._place]

    def bad(self, what: str) -> XetFormatError:
        return XetFormatError(what, where=self._where)


def _files(reader: _Reader) -> Iterator[ShardFile]:
    while True:
        raw, flags, count, _ = struct.unpack("<32sIIQ", reader.records(1))
        if raw == _END:
            return
        segments = reader.records(count)
        if flags & _WITH_VERIFICATION:
            reader.records(count)
        sha256 = hash_hex(reader.records(1)[:32]) if flags & _WITH_METADATA else None
        if not segments and sha256 == _NO_SHA256:
            sha256 = None
        yield _checked(ShardFile(hash_hex(raw), sha256, segments), reader)


def _checked(file: ShardFile, reader: _Reader) -> ShardFile:
    size = 0
    for segment in segments_of(file.segments):
        if segment.start >= segment.end:
            raise reader.bad(f"a segment of file {file.xet_hash} has no chunks ({segment.start}:{segment.end})")
        size += segment.unpacked
    if size > MAX_FILE:
        raise reader.bad(f"file {file.xet_hash} is to have {size} bytes, a file has at most {MAX_FILE}")
    return file


def _xorbs(reader: _Reader) -> Iterator[ShardXorb]:
    while True:
        raw, _flags, count, unpacked, _packed = struct.unpack("<32s4I", reader.records(1))
        if raw == _END:
            return
        reader.records(count)
        yield ShardXorb(hash_hex(raw), count, unpacked)

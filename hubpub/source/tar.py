"""Tar as a forward-only stream with every read bounded.

`tarfile` reads long names and pax records of any declared size into memory, and ends silently at a damaged header; so
only its header decoding is used (`TarInfo.frombuf`). Format: POSIX.1-2001 pax, with GNU long names.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hubpub.errors import UnsafeArchive

TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar")
CHUNK = 1 << 20
_BLOCK = 512
_MAX_RECORDS = 1 << 20  # bytes of pax records or of a long name
_XZ_MEMORY = 256 << 20  # bytes; `xz -9` needs 65 MB to unpack
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_KINDS = {
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)

Bound = Callable[[int, int], None]
"""Called with the packed and unpacked bytes so far; raises when that is too much."""


def _nothing() -> Iterator[bytes]:
    return iter(())


@dataclass(frozen=True)
class Entry:
    """One member of an archive: ``kind`` is "file", "folder", or words for what it is instead."""

    name: str
    size: int
    kind: str
    target: str | None = None
    chunks: Callable[[], Iterator[bytes]] = _nothing


def read_tar(path: Path, filename: str, bound: Bound) -> Iterator[Entry]:
    """Yield the entries of a tar in order; the chunks of one can be read until the next is asked for.

    Raises:
        UnsafeArchive: a header that only an attacker writes, or what ``bound`` refuses.
        EOFError, tarfile.TarError, ValueError, OSError, lzma.LZMAError: damaged or truncated.
    """
    with path.open("rb") as packed:
        stream = _Stream(_unpacked(packed, filename), packed, bound)
        shared: dict[str, str] = {}
        special: dict[str, str] = {}
        while (block := stream.exactly(_BLOCK)).strip(b"\0"):
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE) or info.type in _LONG:
                if info.size > _MAX_RECORDS:
                    raise UnsafeArchive(f"a header of {info.size} bytes", where=filename)
                data = stream.padded(info.size)
                if info.type in _LONG:
                    special[_LONG[info.type]] = _text(data.split(b"\0", 1)[0])
                elif info.type == tarfile.XGLTYPE:
                    shared |= _records(data)
                else:
                    special |= _records(data)
                continue
            if info.type == tarfile.GNUTYPE_SPARSE:
                raise UnsafeArchive(f"{info.name!r} is a sparse file of the old GNU form", where=filename)
            records, special = shared | special, {}
            yield from _entry(info, records, stream)
        stream.only_zeros_left()


def _entry(info: tarfile.TarInfo, records: dict[str, str], stream: _Stream) -> Iterator[Entry]:
    name = records.get("path", info.name)
    target = records.get("linkpath", info.linkname)
    size = int(records.get("size", info.size))
    if size < 0:
        raise ValueError("negative size")
    kind = "file" if info.type in _PLAIN else _KINDS.get(info.type, "of an unknown type")
    if any(key.startswith("GNU.sparse") for key in records):
        kind = "a sparse file"
    has_data = info.type in _PLAIN or info.type not in tarfile.SUPPORTED_TYPES
    if not has_data:
        size = 0
    data = stream.take(size)
    is_link = info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE)
    yield Entry(name, size, kind, target if is_link else None, lambda: data)
    for _ in data:  # what the reader left
        pass
    stream.exactly(-size % _BLOCK)


def _records(data: bytes) -> dict[str, str]:
    """Pax records: each a line ``length key=value``, where length counts the whole line."""
    found = {}
    while data.strip(b"\0"):
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or len(digits) > 8:
            raise tarfile.HeaderError("invalid pax record")
        length = int(digits)
        record = data[len(digits) + 1 : length]
        if length > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise tarfile.HeaderError("invalid pax record")
        key, _, value = record[:-1].partition(b"=")
        found[_text(key)] = _text(value)
        data = data[length:]
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _unpacked(packed: io.BufferedReader, filename: str) -> Iterator[bytes]:
    lower = filename.lower()
    if lower.endswith((".tar.gz", ".tgz")):
        return _chunks(gzip.GzipFile(fileobj=packed, mode="rb"))
    if lower.endswith((".tar.bz2", ".tbz")):
        return _chunks(bz2.BZ2File(packed))
    if lower.endswith((".tar.xz", ".txz")):
        return _unxz(packed)
    return _chunks(packed)


def _chunks(file: io.BufferedIOBase) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _unxz(packed: io.BufferedReader) -> Iterator[bytes]:
    """`lzma.open` with a bound on memory: a header can ask for a dictionary of 4 GB."""
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    while not unpacker.eof:
        data = packed.read(CHUNK) if unpacker.needs_input else b""
        if unpacker.needs_input and not data:
            raise EOFError("compressed data ends too early")
        yield unpacker.decompress(data, CHUNK)
    if unpacker.unused_data or packed.read(1):
        raise lzma.LZMAError("data after the end")


class _Stream:
    """Unpacked bytes, read forward; tells ``bound`` how much came out of how much."""

    def __init__(self, chunks: Iterator[bytes], packed: io.BufferedReader, bound: Bound) -> None:
        self._chunks = chunks
        self._packed = packed
        self._bound = bound
        self._held = b""
        self._at = 0  # what of `_held` is already given
        self._unpacked = 0

    def _next(self, limit: int = CHUNK) -> bytes:
        """The next bytes, at most ``limit``; empty at the end."""
        while self._at == len(self._held):
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._unpacked += len(chunk)
            self._bound(self._packed.tell(), self._unpacked)
            self._held, self._at = chunk, 0
        piece = self._held[self._at : self._at + limit]
        self._at += len(piece)
        return piece

    def take(self, count: int) -> Iterator[bytes]:
        """Yield exactly ``count`` bytes in pieces."""
        while count:
            piece = self._next(min(count, CHUNK))
            if not piece:
                raise EOFError("the archive ends too early")
            count -= len(piece)
            yield piece

    def exactly(self, count: int) -> bytes:
        return b"".join(self.take(count))

    def padded(self, count: int) -> bytes:
        """``count`` bytes, and the padding after them skipped."""
        data = self.exactly(count)
        self.exactly(-count % _BLOCK)
        return data

    def only_zeros_left(self) -> None:
        """Read to the end, so that the compressor's checksum is verified and nothing hides behind the end mark."""
        while piece := self._next():
            if piece.strip(b"\0"):
                raise tarfile.ReadError("data after the end of the archive")

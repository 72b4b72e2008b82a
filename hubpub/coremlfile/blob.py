"""Weight files of ML programs: read by offset, written in order.

The format is that of Apple's MILBlob storage, version 2: a header of 64 bytes, then per blob 64 bytes of metadata and
its data, both at multiples of 64. Nothing is mapped: a file that shrinks while it is read is an error here, a bus error
there, and pages of seven packages would count as memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hubpub.coremlfile.dtypes import ElementType
from hubpub.errors import CoremlFileError

ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
HEADER = 64
"""Bytes of the file's header."""
_HEADER = struct.Struct("<II56x")  # number of blobs, version
_METADATA = struct.Struct("<IIQQQ32x")  # sentinel, type, bytes, offset of the data, unused bits of the last byte
_AGAIN = "fetch or convert the package again"


@dataclass(frozen=True)
class BlobRef:
    """Where the data of one blob lie in its file."""

    path: Path
    start: int
    nbytes: int

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start:stop``, and no others read.

        Raises:
            CoremlFileError: the file is gone or became shorter.
        """
        stop = self.nbytes if stop is None else min(stop, self.nbytes)
        fd, _ = open_regular(self.path)
        try:
            return _pread(fd, self.start + start, max(stop - start, 0), str(self.path))
        finally:
            os.close(fd)


class BlobFile:
    """A weight file, open only while it is read."""

    def __init__(self, path: Path, where: str) -> None:
        """Check the header of ``path``; errors name it as ``where``.

        Raises:
            CoremlFileError: it cannot be read, or is not a weight file of the version that there is.
        """
        self.path = path
        self.where = where
        fd, self.size = open_regular(path, where)
        try:
            if self.size < HEADER:
                raise CoremlFileError(
                    f"has {self.size} bytes, fewer than the header of a weight file", where=where, fix=_AGAIN
                )
            head = _pread(fd, 0, HEADER, where)
        finally:
            os.close(fd)
        if head.startswith(b"version https://"):
            raise CoremlFileError("is a Git LFS pointer, not the weights", where=where, fix="run `git lfs pull`")
        self.count, version = _HEADER.unpack(head)
        if version != VERSION:
            raise CoremlFileError(
                f"is not a weight file of version {VERSION}: its header says {version}", where=where, fix=_AGAIN
            )

    def blob(self, offset: int, kind: ElementType, count: int, what: str) -> BlobRef:
        """The blob whose metadata lie at ``offset``.

        Args:
            offset: as the program says it.
            kind: element type that the program expects.
            count: number of elements that it expects.
            what: what the errors call the tensor.

        Raises:
            CoremlFileError: there is no such blob, or it is of another type or size, or ends past the end.
        """
        at = f"{self.where}: {what}"
        if offset % ALIGNMENT or offset < HEADER:
            raise CoremlFileError(f"offset {offset} is none of a blob", where=at, fix=_AGAIN)
        if offset + _METADATA.size > self.size:
            raise CoremlFileError(f"offset {offset} is past the end, at {self.size}", where=at, fix=_AGAIN)
        fd, size = open_regular(self.path, self.where)
        try:
            sentinel, code, nbytes, start, unused = _METADATA.unpack(_pread(fd, offset, _METADATA.size, at))
        finally:
            os.close(fd)
        if sentinel != SENTINEL:
            raise CoremlFileError(f"no blob begins at offset {offset} (its mark is missing)", where=at, fix=_AGAIN)
        if code != kind.blob:
            raise CoremlFileError(
                f"the blob has elements of type {code}, the program expects {kind.name} ({kind.blob})",
                where=at,
                fix=_AGAIN,
            )
        if nbytes != kind.nbytes(count) or unused != nbytes * 8 - count * kind.bits:
            raise CoremlFileError(
                f"the blob has {nbytes} bytes ({unused} bits unused), the program expects {count} x {kind.name}",
                where=at,
                fix=_AGAIN,
            )
        if start + nbytes > size:
            raise CoremlFileError(
                f"the blob ends at byte {start + nbytes}, the file at {size}: it was cut off", where=at, fix=_AGAIN
            )
        return BlobRef(self.path, start, nbytes)


class BlobWriter:
    """Writes blobs one after the other, laid out as coremltools lays them out.

    Use as a context; the header is written at its end.
    """

    def __init__(self, path: Path, progress: Callable[[int], None] | None = None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._end = HEADER
        self._count = 0
        self._progress = progress or (lambda _: None)
        self._digest = hashlib.sha256()

    def __enter__(self) -> BlobWriter:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the header and close."""
        try:
            _pwrite(self._fd, 0, _HEADER.pack(self._count, VERSION))
        finally:
            os.close(self._fd)

    @property
    def digest(self) -> bytes:
        """SHA-256 of all blobs with their metadata."""
        return self._digest.digest()

    def add(self, kind: ElementType, count: int, data: bytes) -> int:
        """Append a blob of ``count`` elements whose packed bytes are ``data``.

        Returns:
            The offset by which a program refers to it.
        """
        if kind.blob is None or len(data) != kind.nbytes(count):
            raise ValueError(f"{count} x {kind.name} are not {len(data)} bytes of a blob")
        offset = -(-self._end // ALIGNMENT) * ALIGNMENT
        start = offset + _METADATA.size
        unused = len(data) * 8 - count * kind.bits
        head = _METADATA.pack(SENTINEL, kind.blob, len(data), start, unused)
        _pwrite(self._fd, offset, head)
        _pwrite(self._fd, start, data)
        self._digest.update(head)
        self._digest.update(data)
        self._end = start + len(data)
        self._count += 1
        self._progress(len(data))
        return offset


def blob_nbytes(end: int, nbytes: int) -> int:
    """Where a file that ended at byte ``end`` ends after a blob of ``nbytes`` was appended; an empty one ends at 64."""
    return -(-end // ALIGNMENT) * ALIGNMENT + _METADATA.size + nbytes


def open_regular(path: Path, where: str | None = None) -> tuple[int, int]:
    """Open a file to read; never a folder, a pipe or a link.

    Returns:
        The descriptor and the size in bytes.

    Raises:
        CoremlFileError: there is no such file, or it cannot be read.
    """
    where = where or str(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CoremlFileError(f"cannot be read: {reason}", where=where, fix=_AGAIN) from None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return fd, status.st_size
    os.close(fd)
    raise CoremlFileError("is not a regular file", where=where, fix=_AGAIN)


def _pread(fd: int, start: int, length: int, where: str) -> bytes:
    data = os.pread(fd, length, start)
    while len(data) < length:  # one call stops short of 2 GiB
        more = os.pread(fd, length - len(data), start + len(data))
        if not more:
            raise CoremlFileError(
                f"ends at byte {start + len(data)} and was longer when it was opened",
                where=where,
                fix="let nothing write to it during a build",
            )
        data += more
    return data


def _pwrite(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]

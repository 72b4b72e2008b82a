"""The bytes of one tensor, left where they are until somebody asks for some of them."""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hubpub.errors import OnnxFileError

CHUNK = 1 << 20
"""Bytes held at once when a payload passes through this process."""

Progress = Callable[[int], None]
"""Called with the number of bytes just dealt with."""

_IN_KERNEL = 64 << 20  # per copy_file_range call, so that progress moves
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}


class Payload(ABC):
    """``nbytes`` bytes as ``raw_data`` would hold them: little-endian, row-major, sub-byte types packed.

    Two equal payloads are the same bytes at the same place; they are written once.
    """

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes in all."""

    @abstractmethod
    def chunks(self) -> Iterator[bytes]:
        """All bytes in order, in pieces of a bounded size."""

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start:stop``."""
        stop = self.nbytes if stop is None else stop
        wanted = bytearray()
        at = 0
        for chunk in self.chunks():
            wanted += chunk[max(start - at, 0) : max(stop - at, 0)]
            at += len(chunk)
            if stop <= at < self.nbytes:
                break  # read to the end otherwise: what is too much there must not go unseen
        return bytes(wanted)

    def copy_to(self, fd: int, offset: int, progress: Progress) -> None:
        """Write all bytes into the open file ``fd`` from ``offset`` on."""
        for chunk in self.chunks():
            write_at(fd, offset, chunk)
            offset += len(chunk)
            progress(len(chunk))


@dataclass(frozen=True)
class FileBytes(Payload):
    """``length`` bytes of the file ``path``, from ``offset`` on."""

    path: Path
    offset: int
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return self.length

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start:stop``, and no others read."""
        stop = self.length if stop is None else min(stop, self.length)
        fd, _ = open_regular(self.path)
        try:
            return self._pread(fd, start, max(stop - start, 0))
        finally:
            os.close(fd)

    def read_into(self, buffer: memoryview) -> None:
        """Fill ``buffer``, of `nbytes` bytes, with all bytes: read once, copied nowhere else."""
        fd, _ = open_regular(self.path)
        try:
            done = 0
            while done < self.length:  # one call stops short of 2 GiB
                count = os.preadv(fd, [buffer[done : self.length]], self.offset + done)
                if not count:
                    raise self._cut_off(self.offset + done)
                done += count
        finally:
            os.close(fd)

    def chunks(self) -> Iterator[bytes]:
        """All bytes in order, at most `CHUNK` at a time."""
        fd, _ = open_regular(self.path)
        try:
            for start in range(0, self.length, CHUNK):
                yield self._pread(fd, start, min(CHUNK, self.length - start))
        finally:
            os.close(fd)

    def copy_to(self, fd: int, offset: int, progress: Progress) -> None:
        """Write all bytes into ``fd`` from ``offset`` on, inside the kernel where it can do so."""
        source, _ = open_regular(self.path)
        try:
            done = self._copy_in_kernel(source, fd, offset, progress)
            while done < self.length:
                chunk = self._pread(source, done, min(CHUNK, self.length - done))
                write_at(fd, offset + done, chunk)
                done += len(chunk)
                progress(len(chunk))
        finally:
            os.close(source)

    def _copy_in_kernel(self, source: int, fd: int, offset: int, progress: Progress) -> int:
        """Bytes that the kernel copied: all, or fewer where the file system cannot (or the file ended)."""
        done = 0
        if hasattr(os, "copy_file_range"):
            while done < self.length:
                want = min(_IN_KERNEL, self.length - done)
                try:
                    copied = os.copy_file_range(source, fd, want, self.offset + done, offset + done)
                except OSError as error:
                    if error.errno in _NO_COPY_RANGE:
                        break
                    raise
                if not copied:
                    break
                done += copied
                progress(copied)
        return done

    def _pread(self, fd: int, start: int, length: int) -> bytes:
        data = os.pread(fd, length, self.offset + start)
        while len(data) < length:  # one call stops short of 2 GiB
            more = os.pread(fd, length - len(data), self.offset + start + len(data))
            if not more:
                raise self._cut_off(self.offset + start + len(data))
            data += more
        return data

    def _cut_off(self, at: int) -> OnnxFileError:
        return OnnxFileError(
            f"ends at byte {at} and was longer when it was opened",
            where=str(self.path),
            fix="let nothing write to it during a build",
        )


@dataclass(frozen=True)
class Varints(Payload):
    """Numbers that protobuf encoded one by one (int32_data, int64_data, uint64_data), ``itemsize`` bytes each.

    `read` decodes from the start, so a range at the end costs as much as the whole.
    """

    encoded: FileBytes
    itemsize: int
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes in all, decoded."""
        return self.count * self.itemsize

    def chunks(self) -> Iterator[bytes]:
        """All numbers in order, those of `CHUNK` encoded bytes at a time.

        Raises:
            OnnxFileError: a number is malformed, or there are more or fewer than the dims say.
        """
        import numpy as np

        found = 0
        rest = b""
        for chunk in self.encoded.chunks():
            data = np.frombuffer(rest + chunk, np.uint8)
            last = np.flatnonzero(data < 0x80)
            used = int(last[-1]) + 1 if last.size else 0
            rest = data[used:].tobytes()
            starts = np.concatenate([[0], last[:-1] + 1]) if last.size else last
            widths = last - starts + 1
            if len(rest) > 9 or (last.size and widths.max() > 10):
                raise self._wrong("a number is longer than 10 bytes")
            values = np.zeros(last.size, np.uint64)
            for index in range(int(widths.max(initial=0))):
                there = widths > index
                low = data[starts[there] + index].astype(np.uint64) & np.uint64(0x7F)
                values[there] |= low << np.uint64(7 * index)
            found += last.size
            if found > self.count:
                break
            yield values.view(np.uint8).reshape(-1, 8)[:, : self.itemsize].tobytes()
        if found != self.count or rest:
            raise self._wrong(f"it does not hold the {self.count} numbers that its dims ask for")

    def _wrong(self, what: str) -> OnnxFileError:
        return OnnxFileError(
            f"a tensor's data at byte {self.encoded.offset} is damaged: {what}",
            where=str(self.encoded.path),
            fix="fetch or export the model again",
        )


def open_regular(path: Path) -> tuple[int, int]:
    """Open a file to read; never a folder, a pipe or a link.

    Returns:
        The descriptor and the size in bytes.

    Raises:
        OnnxFileError: there is no such file, or it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return fd, status.st_size
        os.close(fd)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OnnxFileError(f"cannot be read: {reason}", where=str(path), fix="check the path") from None
    if stat.S_ISDIR(status.st_mode) and path.suffix == ".mlpackage":
        raise OnnxFileError("is a Core ML package, not an ONNX model", where=str(path), fix="name the ONNX model")
    raise OnnxFileError("is not a regular file", where=str(path), fix="check the path")


def write_at(fd: int, offset: int, data: bytes) -> None:
    """Write all of ``data`` at ``offset``, however little the system takes at a time."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]

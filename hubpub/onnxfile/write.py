"""Lay tensors out in data files, and write a model and its data."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hubpub.errors import OnnxFileError
from hubpub.onnxfile.file import OnnxFile, detach
from hubpub.onnxfile.payload import Payload, Progress, write_at
from hubpub.onnxfile.tensors import walk
from hubpub.onnxfile.wire import Steps, splice

MAX_FILE_BYTES = (1 << 31) - 1
"""What protobuf, and a browser's ArrayBuffer, can hold."""

SMALL_ALIGNMENT = 64
"""Where a tensor smaller than the alignment starts: a cache line, enough for every element type and for SIMD."""


class Slot(NamedTuple):
    """Where a tensor's bytes go: a data file beside the model, and the offset in it."""

    file: str
    offset: int


def pack(
    tensors: Iterable[tuple[Steps, Payload]], *, name: Callable[[int], str], max_bytes: int, alignment: int = 4096
) -> dict[Steps, Slot]:
    """Put tensors into data files in the order given, the next file when one is full.

    A tensor of at least ``alignment`` bytes starts at a multiple of it (ONNX recommends the page size, so that
    runtimes may map it), a smaller one at a multiple of `SMALL_ALIGNMENT`. Equal payloads share a slot.

    Args:
        tensors: steps and payload of each, at most ``max_bytes`` bytes.
        name: file name of the n-th data file, from 0.
        max_bytes: bytes a data file may have.
        alignment: bytes, a multiple of `SMALL_ALIGNMENT`.
    """
    slots: dict[Steps, Slot] = {}
    placed: dict[Payload, Slot] = {}
    number = end = 0
    for steps, payload in tensors:
        if payload not in placed:
            multiple = alignment if payload.nbytes >= alignment else SMALL_ALIGNMENT
            offset = -(-end // multiple) * multiple
            if offset + payload.nbytes > max_bytes:
                number, offset = number + 1, 0
            placed[payload] = Slot(name(number), offset)
            end = offset + payload.nbytes
        slots[steps] = placed[payload]
    return slots


def write(
    file: OnnxFile,
    target: Path,
    slots: Mapping[Steps, Slot] | None = None,
    *,
    progress: Progress = lambda _: None,
) -> dict[str, int]:
    """Write a model; the tensors in ``slots`` go to data files beside it, all others into it.

    The same model and slots give the same bytes, and no more than a chunk of a tensor is held. Files that are
    there already are replaced, each as a whole, the model last, so the source itself may be the target.
    The caller syncs.

    Args:
        file: what to write; it is not changed.
        target: the ``.onnx`` file.
        slots: from `pack`, by steps in ``file.model``.
        progress: told of every byte written.

    Returns:
        Name and size in bytes of each file written, the model last.

    Raises:
        OnnxFileError: the model would have 2 GiB or more, or the system cannot write it.
    """
    slots = slots or {}
    model = type(file.model)()
    model.CopyFrom(file.model)
    data_files: dict[str, dict[int, Payload]] = {}
    inline: dict[Steps, Payload] = {}
    for located in walk(model):
        payload = file.payload(located.tensor)
        if payload is None:
            continue
        detach(located.tensor)
        slot = slots.get(located.steps)
        if slot is None:
            inline[located.steps] = payload
            continue
        data_files.setdefault(slot.file, {})[slot.offset] = payload
        located.tensor.data_location = type(located.tensor).EXTERNAL
        for key, value in (("location", slot.file), ("offset", slot.offset), ("length", payload.nbytes)):
            located.tensor.external_data.add(key=key, value=str(value))

    graph = model.SerializeToString(deterministic=True)
    pieces, size = splice(graph, {steps: payload.nbytes for steps, payload in inline.items()}, str(target))
    if size > MAX_FILE_BYTES:
        raise OnnxFileError(
            f"would be {size} bytes with {len(inline)} tensors inline, and protobuf reads at most {MAX_FILE_BYTES}",
            where=str(target),
            fix="write them as external data",
        )

    sizes = {name: max(offset + p.nbytes for offset, p in payloads.items()) for name, payloads in data_files.items()}
    with _whole_files(target.parent) as create:
        for name, payloads in data_files.items():
            fd = create(name, sizes[name])
            for offset, payload in payloads.items():
                payload.copy_to(fd, offset, progress)
        fd = create(target.name, size)
        at = 0
        for piece in pieces:
            if isinstance(piece, bytes):
                write_at(fd, at, piece)
                progress(len(piece))
                at += len(piece)
            else:
                inline[piece.steps].copy_to(fd, at, progress)
                at += piece.nbytes
    return {**sizes, target.name: size}


@contextlib.contextmanager
def _whole_files(folder: Path) -> Iterator[Callable[[str, int], int]]:
    """Hand out files of a name and size; they get their names, in order, only when all went well."""
    fds: dict[str, int] = {}

    def partial(name: str) -> Path:
        return folder / f".{name}.partial"

    def create(name: str, size: int) -> int:
        if not name or name in fds or Path(name).name != name:
            raise ValueError(f"{name!r} is not a file name of its own")
        partial(name).unlink(missing_ok=True)  # of a process that was killed
        fds[name] = os.open(partial(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.fchmod(fds[name], 0o644)  # whatever the umask
        if hasattr(os, "posix_fallocate"):  # a full disk shows before any work, and writing is faster
            try:
                os.posix_fallocate(fds[name], 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
        return fds[name]

    try:
        yield create
        for name, fd in fds.items():
            os.close(fd)
            fds[name] = -1
        for name in fds:
            partial(name).replace(folder / name)
    except BaseException as error:
        for name, fd in fds.items():
            if fd >= 0:
                os.close(fd)
            partial(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OnnxFileError(f"cannot be written: {error.strerror}", where=str(folder)) from None
        raise

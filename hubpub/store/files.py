"""What the store needs of a file system: digests, cheap copies, atomic writes, exchanging two folders."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hubpub.errors import StoreError

CHUNK = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h
_RENAME_EXCHANGE = 2  # linux/fs.h, and RENAME_SWAP of macOS' sys/stdio.h
_AT_FDCWD = {"linux": -100, "darwin": -2}


@dataclass(frozen=True, order=True)
class FileDigest:
    """What identifies a file's bytes: sha256 in lower-case hex, and the size in bytes."""

    sha256: str
    size: int


def sha256_of(path: Path) -> FileDigest:
    """Digest of a regular file, read in chunks."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(CHUNK)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            size += count
    return FileDigest(digest.hexdigest(), size)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the bytes of ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn the operating system's refusals (disk full, permissions, quota) into one clear line."""
    try:
        yield
    except OSError as error:
        # NumPy says "6400 requested and 3040 written", and no more.
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and "written" in str(error)):
            fix = "free some space (`hubpub cache collect` removes what no recent build used) and run again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = "choose a folder that you may write to (--cache, HUBPUB_CACHE or --output)"
        else:
            fix = "nothing half-written is visible, so the same command can be run again"
        raise StoreError(
            f"cannot {doing}: {error.strerror or error}", where=str(error.filename or "") or None, fix=fix
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``path`` (mode 0644) so that a reader sees the old bytes or the new ones, whatever dies meanwhile."""
    with storage_errors(f"write {path.name}"):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, 0o644)
                file.write(data)
                file.flush()
                os.fsync(handle)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def clone_file(source: Path, target: Path) -> bool:
    """Make ``target`` share the bytes of ``source`` copy-on-write; False where the file system cannot."""
    if sys.platform == "darwin":
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.clonefile(os.fsencode(source), os.fsencode(target), 0) == 0)
    if sys.platform != "linux":
        return False
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            cloned = False
        else:
            cloned = True
    if not cloned:
        target.unlink()
    return cloned


def copy_file(source: Path, target: Path, *, link: bool = False) -> None:
    """Give ``target`` the bytes of ``source`` as cheaply as the file system can.

    Tries a reflink, then (if ``link``) a hard link, then copies. A copy gets mode 0644 and the modification time of
    ``source``; half of one never stays behind, unless the process is killed.

    Raises:
        FileExistsError: ``target`` is there already; writing through it could change a blob that it is linked to.
    """
    if not clone_file(source, target):
        if link:
            try:
                os.link(source, target)
            except FileExistsError:
                raise
            except OSError:
                pass  # another file system, or one without links
            else:
                return
        with source.open("rb") as reader, target.open("xb") as writer:
            try:
                shutil.copyfileobj(reader, writer, CHUNK)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
    stat = source.stat()
    target.chmod(0o644)
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def exchange(new: Path, live: Path) -> None:
    """Put the folder ``new`` in the place of ``live``; afterwards ``new`` holds what was there, or is gone.

    One atomic rename where the kernel can swap two names (Linux renameat2, macOS renameatx_np). Elsewhere two
    renames: a process killed between them leaves what was there as ``.<live>.previous``, and `recover` puts it back.
    """
    if not live.exists():
        new.rename(live)
        return
    if swap_names(new, live):
        return
    recover(live)
    previous = _previous(live)
    live.rename(previous)
    try:
        new.rename(live)
    except OSError:
        previous.rename(live)
        raise
    previous.rename(new)


def swap_names(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    platform = "darwin" if sys.platform == "darwin" else "linux"
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameatx_np" if platform == "darwin" else "renameat2", None)
    here = _AT_FDCWD[platform]
    return swap is not None and swap(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE) == 0


def recover(live: Path) -> None:
    """Undo, or end, what a killed `exchange` left on a system that cannot swap names atomically."""
    previous = _previous(live)
    if live.exists():
        shutil.rmtree(previous, ignore_errors=True)
    elif previous.exists():
        previous.rename(live)


def _previous(live: Path) -> Path:
    return live.with_name(f".{live.name}.previous")

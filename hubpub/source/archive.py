"""Members of wheels and sdists, read as untrusted data: streamed, bounded, and never written under their own names.

What is refused, always: names that leave the folder or differ between systems (`names.check_name`), links that leave
it, overlapping zip entries, sizes that are not as declared, more members or bytes than `Limits`, damaged or truncated
data. What is refused when wanted: links, devices, sparse or encrypted members, two members of one name.
"""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from posixpath import normpath

from hubpub.errors import SourceError, UnsafeArchive
from hubpub.source.names import check_distinct, check_name, shown
from hubpub.source.tar import TAR_SUFFIXES, Entry, read_tar
from hubpub.store import FileDigest
from hubpub.store.files import storage_errors

CHUNK = 1 << 20
_ZIP_HEADER = 30  # bytes before a member's name


@dataclass(frozen=True)
class Limits:
    """Bounds on what an archive may make us read.

    ``total``: bytes unpacked in all. ``ratio``: unpacked bytes per packed byte, beyond the first ``free`` bytes (real
    weights and audio stay below 20; deflate can reach 1032). ``members``: entries of any kind.
    """

    total: int = 64 << 30
    ratio: int = 200
    free: int = 32 << 20
    members: int = 200_000


@dataclass(frozen=True)
class Scan:
    """What an archive holds: digests of the files that were wanted, and the names of all regular files."""

    files: dict[str, FileDigest]
    names: list[str]


@dataclass(frozen=True)
class Archive:
    """A wheel, zip or tar on disk.

    ``filename`` tells the format and is what messages name; ``strip_root`` drops the one top folder of an sdist.
    """

    path: Path
    filename: str
    strip_root: bool = False
    limits: Limits = field(default_factory=Limits)

    def scan(self, wanted: Callable[[str], bool]) -> Scan:
        """Digest the members for which ``wanted(name)``, writing nothing.

        Raises:
            UnsafeArchive: it holds what we refuse.
            SourceError: it is damaged, truncated, or of an unknown format.
        """
        names: list[str] = []
        files: dict[str, FileDigest] = {}
        for name, chunks in self._wanted(wanted, names):
            digest = hashlib.sha256()
            size = 0
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
            files[name] = FileDigest(digest.hexdigest(), size)
        return Scan(files, names)

    def extract(self, wanted: Collection[str], folder: Path) -> dict[str, Path]:
        """Write the ``wanted`` members into ``folder`` under names of ours; returns member name -> file.

        Raises:
            UnsafeArchive: it holds what we refuse.
            SourceError: it is damaged or truncated, or lacks a wanted member.
        """
        written: dict[str, Path] = {}
        for name, chunks in self._wanted(frozenset(wanted).__contains__, []):
            target = folder / f"{len(written):06d}"
            with storage_errors("unpack"):
                file = target.open("xb")
            with file:
                for chunk in chunks:
                    with storage_errors("unpack"):
                        file.write(chunk)
                with storage_errors("unpack"):
                    file.flush()
            written[name] = target
        if absent := sorted(set(wanted) - set(written)):
            raise SourceError(f"holds no file {shown(absent[0])}", where=self.filename)
        return written

    def _wanted(self, wanted: Callable[[str], bool], names: list[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield wanted members in the archive's order, each to be read before the next; collect all file names."""
        chosen: set[str] = set()
        total = 0
        with _damage_as_errors(self.filename):
            for name, entry in self._checked():
                if entry.kind == "file":
                    names.append(name)
                if entry.kind == "folder" or not wanted(name):
                    continue
                if entry.kind != "file":
                    raise self._refusal(f"{shown(name)} is {entry.kind}", "list the files you need with `include`")
                if name in chosen:
                    raise self._refusal(f"holds {shown(name)} twice")
                chosen.add(name)
                total += entry.size
                if total > self.limits.total:
                    raise self._refusal(f"unpacks to more than {self.limits.total} bytes")
                yield name, _exactly(entry.size, entry.chunks(), self.filename, name)
        check_distinct(sorted(chosen), self.filename)

    def _checked(self) -> Iterator[tuple[str, Entry]]:
        """Every entry with its name made relative to the root; refuses what is refused even when not wanted."""
        root: str | None = None
        for count, entry in enumerate(self._entries(), start=1):
            if count > self.limits.members:
                raise self._refusal(f"holds more than {self.limits.members} members")
            name = entry.name.removeprefix("./").removesuffix("/" if entry.kind == "folder" else "")
            if entry.kind == "folder" and name in ("", "."):
                continue
            check_name(name, self.filename)
            if self.strip_root:
                top, _, name = name.partition("/")
                root = root or top
                if top != root:
                    raise self._refusal(f"holds {shown(entry.name)} beside its folder {shown(root)}")
                if not name:
                    if entry.kind == "folder":
                        continue
                    raise self._refusal(f"holds {shown(entry.name)} beside a folder")
            if entry.target is not None:
                self._check_link(name, entry, root)
            yield name, entry

    def _check_link(self, name: str, entry: Entry, root: str | None) -> None:
        target = entry.target or ""
        if entry.kind == "a hard link":  # named from the archive's top, not from the link's folder
            reached = normpath(target.removeprefix("./"))
            leaves = root is not None and reached.split("/")[0] != root
        else:
            reached = normpath(f"{name}/../{target}")
            leaves = False
        if leaves or target.startswith(("/", "\\")) or reached.split("/")[0] == ".." or "\0" in target:
            raise self._refusal(f"the link {shown(name)} leaves the folder")

    def _entries(self) -> Iterator[Entry]:
        lower = self.filename.lower()
        if lower.endswith((".whl", ".zip")):
            return self._read_zip()
        if lower.endswith(TAR_SUFFIXES):
            return read_tar(self.path, self.filename, self._bound)
        raise SourceError("is neither a zip nor a tar", where=self.filename)

    def _bound(self, packed: int, unpacked: int) -> None:
        """Refuse a bomb: ``unpacked`` bytes came (or are declared to come) out of ``packed``."""
        if unpacked > self.limits.total:
            raise self._refusal(f"unpacks to more than {self.limits.total} bytes")
        if unpacked > self.limits.free + self.limits.ratio * packed:
            raise self._refusal(f"{packed} bytes unpack to {unpacked} or more, like a decompression bomb")

    def _read_zip(self) -> Iterator[Entry]:
        with zipfile.ZipFile(self.path) as archive:
            self._refuse_overlap(archive.infolist())
            for info in archive.infolist():
                kind = _zip_kind(info)
                target = None
                if kind == "a symbolic link":
                    with archive.open(info) as file:
                        target = file.read(4096).decode(errors="replace")
                if kind == "file":
                    entry = Entry(info.orig_filename, info.file_size, kind, None, self._zip_reader(archive, info))
                else:
                    entry = Entry(info.orig_filename, 0, kind, target)
                yield entry

    def _zip_reader(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], Iterator[bytes]]:
        def chunks() -> Iterator[bytes]:
            self._bound(info.compress_size, info.file_size)
            with archive.open(info) as file:
                while chunk := file.read(CHUNK):  # zipfile checks the CRC at the end
                    yield chunk

        return chunks

    def _refuse_overlap(self, infos: list[zipfile.ZipInfo]) -> None:
        """Entries sharing packed bytes make small files huge (D. Fifield, A better zip bomb, WOOT 2019)."""
        ordered = sorted(infos, key=lambda info: info.header_offset)
        for info, following in pairwise(ordered):
            if info.header_offset + _ZIP_HEADER + info.compress_size > following.header_offset:
                raise self._refusal(f"{shown(info.orig_filename)} overlaps {shown(following.orig_filename)}")

    def _refusal(self, what: str, fix: str | None = None) -> UnsafeArchive:
        return UnsafeArchive(what, where=self.filename, fix=fix or "do not trust where this comes from")


def _zip_kind(info: zipfile.ZipInfo) -> str:
    unix_type = stat.S_IFMT(info.external_attr >> 16)
    if info.orig_filename.endswith("/"):
        return "folder"
    if info.flag_bits & 0x1:
        return "encrypted"
    if unix_type == stat.S_IFLNK:
        return "a symbolic link"
    if unix_type not in (0, stat.S_IFREG):
        return "a device or other special file"
    return "file"


def _exactly(size: int, chunks: Iterator[bytes], where: str, name: str) -> Iterator[bytes]:
    """Pass on ``chunks``, refusing more or fewer than ``size`` bytes."""
    got = 0
    with _damage_as_errors(where):
        for chunk in chunks:
            got += len(chunk)
            if got > size:
                break
            yield chunk
    if got != size:
        raise UnsafeArchive(f"{shown(name)} declares {size} bytes and holds {got}", where=where)


@contextlib.contextmanager
def _damage_as_errors(filename: str) -> Iterator[None]:
    """Say in one line what the readers of the standard library raise on damaged data."""
    with storage_errors(f"read {filename}"):
        try:
            yield
        except (
            zipfile.BadZipFile,
            tarfile.TarError,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            struct.error,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            raise _damaged(filename, error) from error
        except OSError as error:
            if error.errno is None:  # gzip and bz2 report bad data so; a real failure of the disk has a number
                raise _damaged(filename, error) from error
            raise


def _damaged(filename: str, error: Exception) -> SourceError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return SourceError(f"is damaged or truncated ({reason})", where=filename)

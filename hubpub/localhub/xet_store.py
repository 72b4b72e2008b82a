"""Xorbs on disk, and what is known of files that came as Xet: from which chunks, and with which sha256.

Nothing is believed: a file is rebuilt from its xorbs when its shard arrives, and its sha256 compared; then it is a
blob like any other. What is not checked is the hash in a xorb's name (BLAKE3, for which Python has no module of its
own): a xorb with a wrong name shows itself when the first file is rebuilt from it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sqlite3
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hubpub.localhub.blobs import Blobs
from hubpub.localhub.xet_format import (
    Layout,
    Segment,
    ShardFile,
    ShardXorb,
    XetFormatError,
    XorbScanner,
    parse_shard,
    segments_of,
    unpack_chunk,
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    xet_hash TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    segments BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_sha256 ON files (sha256);
"""


@dataclass(frozen=True)
class XetFile:
    """A file that was rebuilt and checked: sha256, size in bytes, and its segments as in `ShardFile`."""

    sha256: str
    size: int
    segments: bytes


@dataclass(frozen=True)
class Term:
    """Chunks ``start:end`` of a xorb that are a part of what was asked for, ``unpacked`` bytes.

    Attributes:
        first: first byte of the chunks in the xorb as stored.
        last: their last byte, included.
    """

    xorb: str
    unpacked: int
    start: int
    end: int
    first: int
    last: int


class XetStore:
    """Xorbs as files by hash, files in a database; whole or not there, whatever is killed meanwhile.

    Safe for many threads. A xorb never changes once it is here.

    Args:
        root: folder for xorbs and the database, on the file system of ``blobs``.
        blobs: where rebuilt files go.
    """

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self._xorbs = root / "xorbs"
        self._xorbs.mkdir(parents=True, exist_ok=True)
        self.blobs = blobs
        self._lock = threading.Lock()
        self._database = root / "xet.sqlite"
        with self._open() as database:
            database.executescript(_SCHEMA)
        self._layout = lru_cache(maxsize=64)(self._read_layout)

    # Xorbs

    def xorb_path(self, xorb: str) -> Path:
        """Where the xorb lies, or would lie."""
        return self._xorbs / xorb[:2] / xorb

    def has_xorb(self, xorb: str) -> bool:
        """Whether the xorb is here."""
        return self.xorb_path(xorb).is_file()

    def keep_xorb(self, path: Path, xorb: str) -> bool:
        """Take the file at ``path``, whose structure the caller has checked, as a xorb; False if it was here before."""
        place = self.xorb_path(xorb)
        place.parent.mkdir(exist_ok=True)
        _sync(path)
        with self._lock:
            if place.exists():
                return False
            path.replace(place)
        _sync(place.parent)
        return True

    def _read_layout(self, xorb: str) -> Layout:
        scanner = XorbScanner(f"xorb {xorb}")
        with self.xorb_path(xorb).open("rb") as file:
            scanner.feed(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        return scanner.finish()

    # Files

    def file(self, xet_hash: str) -> XetFile | None:
        """What is known of a file, None if it never came."""
        query = "SELECT sha256, size, segments FROM files WHERE xet_hash = ?"
        with self._open() as database:
            row = database.execute(query, (xet_hash,)).fetchone()
        return None if row is None else XetFile(*row)

    def xet_hash(self, sha256: str) -> str | None:
        """The Xet hash of the file with this sha256, None if it never came as Xet."""
        query = "SELECT xet_hash FROM files WHERE sha256 = ? ORDER BY xet_hash LIMIT 1"
        with self._open() as database:
            row = database.execute(query, (sha256,)).fetchone()
        return None if row is None else str(row[0])

    def register(self, shard: bytes) -> int:
        """Rebuild, check and keep every file of a shard.

        Returns:
            How many of them were new.

        Raises:
            XetFormatError: the shard is damaged, names chunks that are not here, or a file is not what it says; no
                file of the shard is then known.
        """
        files, xorbs = parse_shard(shard)
        for listed in xorbs:
            self._check_xorb(listed)
        for file in files:
            self._check_segments(file)
        new = [(file, *rebuilt) for file in files if (rebuilt := self._rebuild(file))]
        # An empty file is a blob only: nothing can be asked of it through Xet.
        rows = [(file.xet_hash, sha256, size, file.segments) for file, sha256, size in new if size]
        with self._open() as database:
            database.executemany("INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?)", rows)
        return len(rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database, for one transaction."""
        with closing(sqlite3.connect(self._database, timeout=60)) as database, database:
            yield database

    def _check_xorb(self, listed: ShardXorb) -> None:
        where = f"xorb {listed.xorb}"
        layout = self._known_layout(listed.xorb, where)
        if (listed.chunks, listed.unpacked) != (layout.chunks, layout.unpacked[-1]):
            raise XetFormatError(
                f"the shard says {listed.chunks} chunks of {listed.unpacked} bytes in all, "
                f"the xorb has {layout.chunks} of {layout.unpacked[-1]}",
                where=where,
            )

    def _check_segments(self, file: ShardFile) -> None:
        where = f"file {file.xet_hash}"
        for segment in segments_of(file.segments):
            layout = self._known_layout(segment.xorb, where)
            if segment.end > layout.chunks:
                raise XetFormatError(
                    f"chunks {segment.start}:{segment.end} are asked of xorb {segment.xorb}, which has {layout.chunks}",
                    where=where,
                )
            held = layout.unpacked[segment.end] - layout.unpacked[segment.start]
            if held != segment.unpacked:
                raise XetFormatError(
                    f"chunks {segment.start}:{segment.end} of xorb {segment.xorb} hold {held} bytes, "
                    f"the shard says {segment.unpacked}",
                    where=where,
                )

    def _known_layout(self, xorb: str, where: str) -> Layout:
        if not self.has_xorb(xorb):
            raise XetFormatError(
                f"xorb {xorb} is not here",
                where=where,
                fix="a client that believes so has another Hub's cache: give it a fresh HF_HOME",
            )
        return self._layout(xorb)

    def _rebuild(self, file: ShardFile) -> tuple[str, int] | None:
        """Make a blob of the file; sha256 and size, or None if it is known already."""
        where = f"file {file.xet_hash}"
        known = self.file(file.xet_hash)
        if known and file.sha256 not in (known.sha256, None):
            raise XetFormatError(f"it is known with sha256 {known.sha256}, the shard says {file.sha256}", where=where)
        if known and self.blobs.has(known.sha256):
            return None
        digest = hashlib.sha256()
        size = 0
        with self.blobs.incoming() as path:
            with path.open("wb") as sink:
                for data in self._chunks(file):
                    digest.update(data)
                    size += sink.write(data)
            sha256 = digest.hexdigest()
            if file.sha256 not in (sha256, None):
                raise XetFormatError(f"its sha256 is {sha256}, the shard says {file.sha256}", where=where)
            self.blobs.keep(path, sha256)
        return sha256, size

    def _chunks(self, file: ShardFile) -> Iterator[bytes | memoryview]:
        for segment in segments_of(file.segments):
            packed = self._layout(segment.xorb).packed
            with self.xorb_path(segment.xorb).open("rb", buffering=0) as xorb:
                for chunk in range(segment.start, segment.end):
                    record = os.pread(xorb.fileno(), packed[chunk + 1] - packed[chunk], packed[chunk])
                    try:
                        yield unpack_chunk(record)
                    except XetFormatError as error:
                        raise XetFormatError(error.what, where=f"xorb {segment.xorb}, chunk {chunk}") from None

    def terms(self, file: XetFile, first: int, last: int) -> tuple[int, list[Term]]:
        """The chunks that hold bytes ``first`` to ``last`` (included, both within the file), in order.

        Returns:
            How many bytes of the first chunk come before ``first``, and the chunks.
        """
        terms: list[Term] = []
        skipped = place = 0
        for segment in segments_of(file.segments):
            if place <= last and first < place + segment.unpacked:
                before, term = self._cut(segment, max(first - place, 0), min(last - place, segment.unpacked - 1))
                skipped = skipped if terms else before
                terms.append(term)
            place += segment.unpacked
        return skipped, terms

    def _cut(self, segment: Segment, first: int, last: int) -> tuple[int, Term]:
        """The chunks of a segment that hold its bytes ``first`` to ``last``; what in them comes before ``first``."""
        layout = self._layout(segment.xorb)
        base = layout.unpacked[segment.start]
        start = bisect_right(layout.unpacked, base + first) - 1
        end = bisect_right(layout.unpacked, base + last)
        held = layout.unpacked[end] - layout.unpacked[start]
        term = Term(segment.xorb, held, start, end, layout.packed[start], layout.packed[end] - 1)
        return base + first - layout.unpacked[start], term


def _sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

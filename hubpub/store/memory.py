"""What was read once need not be read again: sha256 of files by path, size, modification time and inode."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from hubpub.store.files import FileDigest, sha256_of

_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_000_000_000
"""Clock ticks of file systems: the kernel's 10 ms at most, or 1 s to 2 s where times are kept in whole seconds."""


@dataclass(frozen=True)
class Stamp:
    """What changes when a file is written to. Only an edit that keeps the size and puts the time back goes unseen."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of ``path`` as it is now."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def settled(self) -> bool:
        """Whether another write, from now on, would show as another time (git's rule for its index)."""
        tick = _TICK_NS if self.mtime_ns % 1_000_000_000 else _COARSE_TICK_NS
        return time.time_ns() - self.mtime_ns >= tick


class DigestMemory:
    """A small database of digests. It is only a memory: what goes wrong with it costs time, never truth."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = self._open()

    def recall(self, path: Path) -> FileDigest | None:
        """The digest of ``path``, if it was remembered and the file has the same stamp still.

        Raises:
            OSError: there is no such file.
        """
        stamp = Stamp.of(path)
        try:
            row = self._db.execute(
                "SELECT sha256 FROM seen WHERE path = ? AND size = ? AND mtime = ? AND inode = ?", _key(path, stamp)
            ).fetchone()
        except sqlite3.Error as error:
            self._mend(error)
            return None
        return FileDigest(row[0], stamp.size) if row else None

    def read(self, path: Path) -> tuple[FileDigest, Stamp]:
        """Read ``path``, and remember what was read unless somebody may be writing to it.

        Raises:
            OSError: it cannot be read.
        """
        stamp = Stamp.of(path)
        settled = stamp.settled()
        digest = sha256_of(path)
        if settled:
            self.remember(path, digest, stamp)
        return digest, stamp

    def remember(self, path: Path, digest: FileDigest, stamp: Stamp) -> None:
        """Note the digest of what ``path`` held at ``stamp``, a settled one."""
        try:
            if digest.size == stamp.size and Stamp.of(path) == stamp:
                row = (*_key(path, stamp), digest.sha256)
                self._db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            self._mend(error)
        except OSError:
            pass  # the file is gone again

    def forget_missing(self) -> None:
        """Drop what was known of files that are no more."""
        try:
            paths = [path for (path,) in self._db.execute("SELECT path FROM seen")]
            gone = [(path,) for path in paths if not os.path.lexists(path)]
            self._db.executemany("DELETE FROM seen WHERE path = ?", gone)
        except sqlite3.Error as error:
            self._mend(error)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except sqlite3.OperationalError:  # no space, read-only, a file system without locks
            return _connect(":memory:")
        except sqlite3.DatabaseError:
            return self._begin_anew()

    def _begin_anew(self) -> sqlite3.Connection:
        try:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            return _connect(self._path)
        except (OSError, sqlite3.Error):
            return _connect(":memory:")

    def _mend(self, error: sqlite3.Error) -> None:
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = self._begin_anew()


def _key(path: Path, stamp: Stamp) -> tuple[bytes, int, int, str]:
    # Names need not be Unicode, and an inode number may need all of 64 bits, which SQLite's integers do not have.
    return os.fsencode(path.absolute()), stamp.size, stamp.mtime_ns, str(stamp.inode)


def _connect(path: Path | str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=OFF")
        db.execute(
            "CREATE TABLE IF NOT EXISTS seen"
            " (path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, inode TEXT, sha256 TEXT) WITHOUT ROWID"
        )
    except sqlite3.Error:
        db.close()
        raise
    return db

"""The store on disk.

    <root>/
      blobs/ab/<sha256>       bytes; a name exists only when all bytes are durable behind it
      results/ab/<key>.json   what a step with this key gave: names and digests of its outputs, and its facts
      downloads/              partial downloads, kept so that the next run can go on
      environments/           virtual environments of script steps
      scratch/<id>/           work in progress; its owner holds <id>.lock, what nobody holds is swept
      locks/                  one file per key being worked on
      digests.sqlite          sha256 of files by (path, size, mtime, inode), so that nothing is read twice

A blob may be hard-linked into a release folder. If somebody edits that file in place, its modification time no longer
agrees with the remembered one: the blob is read again, found damaged, dropped, and made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.errors import DigestMismatch, StoreError
from hubpub.store.files import FileDigest, copy_file, sha256_of, storage_errors, sync_file, sync_folder, write_atomic

_HEX = frozenset("0123456789abcdef")


def default_root() -> Path:
    """``HUBPUB_CACHE`` if set, else hubpub's folder in the platform's cache folder."""
    if named := os.environ.get("HUBPUB_CACHE"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("hubpub"))


@dataclass(frozen=True)
class Result:
    """What a step gave: its outputs by name (POSIX path within the step) and what it found out."""

    outputs: dict[str, FileDigest]
    facts: dict[str, Any]
    observed: dict[str, Any]
    """Timings and other figures that differ from run to run; never part of a digest."""


@dataclass(frozen=True)
class Damage:
    """A blob whose bytes no longer have its name's digest, or a result whose blobs are gone."""

    what: str
    why: str


class Store:
    """Blobs and step results below ``root``, which is created when missing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.downloads = root / "downloads"
        self.environments = root / "environments"
        with storage_errors("open the cache"):
            for folder in ("blobs", "results", "downloads", "environments", "scratch", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            tag = root / "CACHEDIR.TAG"
            if not tag.exists():
                write_atomic(tag, b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of hubpub.\n")
            self._use = (root / "locks" / "in-use").open("a")  # shared while open: `collect` waits for all builds
            fcntl.flock(self._use, fcntl.LOCK_SH)
        self._digests = _DigestMemory(root / "digests.sqlite")
        self._sweep()

    def close(self) -> None:
        """Let `collect` of another process go ahead."""
        self._use.close()
        self._digests.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- blobs

    def has(self, sha256: str) -> bool:
        """Whether the blob is here, undamaged as far as size, time and inode tell."""
        path = self._blob(sha256)
        if not path.exists():
            return False
        if self.digest(path).sha256 == sha256:
            return True
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # edited in place through a hard link: never serve it
        return False

    def path(self, sha256: str) -> Path:
        """Where the blob's bytes can be read.

        Raises:
            StoreError: it is not here, or its bytes were changed.
        """
        if not self.has(sha256):
            raise StoreError(f"blob {sha256} is not in the cache", where=str(self.root), fix="run the build again")
        return self._blob(sha256)

    def put(self, path: Path, *, expected: FileDigest | None = None) -> FileDigest:
        """Move the finished file ``path`` (on the store's file system) into the store.

        Raises:
            DigestMismatch: the bytes are not the ``expected`` ones; the file is left where it is.
        """
        with storage_errors("store a file"):
            digest = sha256_of(path)
            if expected is not None and digest != expected:
                raise DigestMismatch(path.name, expected=expected.sha256, got=digest.sha256)
            target = self._blob(digest.sha256)
            if self.has(digest.sha256):
                path.unlink()
                return digest
            path.chmod(0o644)
            # A time in the past: an edit in place, however soon, then shows as another modification time.
            past = int(time.time()) - 2
            os.utime(path, (past, past))
            sync_file(path)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
            sync_folder(target.parent)
        self._digests.remember(target, digest)
        return digest

    def place(self, digest: FileDigest, target: Path) -> None:
        """Make the blob appear at ``target`` (reflink, hard link or copy); parents are created."""
        source = self.path(digest.sha256)
        with storage_errors(f"write {target.name}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(source, target, link=True)
        self._digests.remember(target, digest)

    def digest(self, path: Path) -> FileDigest:
        """Digest of any file, read only if it changed since it was last seen."""
        known = self._digests.recall(path)
        if known is None:
            with storage_errors(f"read {path.name}"):
                known = sha256_of(path)
            self._digests.remember(path, known)
        return known

    # -- results

    def result(self, key: str) -> Result | None:
        """The result of the step with this key, if it and all its blobs are here."""
        try:
            data = json.loads(self._result(key).read_bytes())
            result = Result(
                {name: FileDigest(entry["sha256"], entry["size"]) for name, entry in data["outputs"].items()},
                data["facts"],
                data["observed"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None  # absent, or written by another version: the step runs again
        if not all(self.has(output.sha256) for output in result.outputs.values()):
            return None
        with contextlib.suppress(OSError):
            os.utime(self._result(key))  # `collect` keeps what was used lately
        return result

    def save(self, key: str, result: Result) -> None:
        """Remember ``result``; its blobs must be in the store already."""
        data = {
            "outputs": {name: {"sha256": out.sha256, "size": out.size} for name, out in sorted(result.outputs.items())},
            "facts": result.facts,
            "observed": result.observed,
        }
        path = self._result(key)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False).encode())

    # -- work in progress

    @contextlib.contextmanager
    def scratch(self, label: str) -> Iterator[Path]:
        """A private folder on the store's file system; removed afterwards, or by the next run if we are killed."""
        with storage_errors("make a scratch folder"):
            handle, name = tempfile.mkstemp(prefix=f"{_file_name(label)}-", suffix=".lock", dir=self.root / "scratch")
            fcntl.flock(handle, fcntl.LOCK_EX)
            folder = Path(name).with_suffix("")
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(name).unlink(missing_ok=True)
            os.close(handle)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold ``name`` alone among all processes that use this store."""
        with (self.root / "locks" / _file_name(name)).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # -- housekeeping

    def results(self) -> Iterator[tuple[str, Result, float]]:
        """All complete results with the time (seconds since the epoch) of their last use."""
        for path in sorted((self.root / "results").glob("*/*.json")):
            used = path.stat().st_mtime
            result = self.result(path.stem)
            if result is not None:
                os.utime(path, (used, used))  # looking is not using
                yield path.stem, result, used

    def blobs(self) -> Iterator[FileDigest]:
        """All blobs, by name and size on disk."""
        for path in sorted((self.root / "blobs").glob("*/*")):
            yield FileDigest(path.name, path.stat().st_size)

    def verify(self) -> Iterator[Damage]:
        """Read every byte; a damaged blob is removed, so that the next build makes it anew."""
        for path in sorted((self.root / "blobs").glob("*/*")):
            with storage_errors(f"read {path.name}"):
                found = sha256_of(path)
            if found.sha256 != path.name:
                path.unlink(missing_ok=True)
                yield Damage(f"blob {path.name}", f"its bytes have sha256 {found.sha256}; removed")
            else:
                self._digests.remember(path, found)
        for path in sorted((self.root / "results").glob("*/*.json")):
            if self.result(path.stem) is None:
                path.unlink(missing_ok=True)
                yield Damage(f"result {path.stem}", "its record or one of its blobs is missing; removed")

    def collect(self, *, unused_for: float) -> tuple[int, int]:
        """Remove results not used for ``unused_for`` seconds and every blob that no result names any more.

        Returns:
            How many files were removed, and their bytes.

        Raises:
            StoreError: a build is using the store.
        """
        try:
            fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                "another build is using the cache", where=str(self.root), fix="collect again when it has ended"
            ) from error
        now = time.time()
        removed: list[int] = []

        def remove(path: Path) -> None:
            removed.append(path.stat().st_size)
            path.unlink()

        named: set[str] = set()
        kept: set[Path] = set()
        for key, result, used in self.results():
            if now - used <= unused_for:
                kept.add(self._result(key))
                named.update(output.sha256 for output in result.outputs.values())
        with storage_errors("collect"):
            for path in (self.root / "results").glob("*/*.json"):
                if path not in kept:
                    remove(path)
            for path in (self.root / "blobs").glob("*/*"):
                if path.name not in named and now - path.stat().st_atime > unused_for:
                    remove(path)
            for folder in (self.downloads, self.environments):
                for entry in folder.iterdir():
                    if now - entry.stat().st_mtime > unused_for:
                        files = [entry] if entry.is_file() else [file for file in entry.rglob("*") if file.is_file()]
                        removed.extend(file.lstat().st_size for file in files)
                        entry.unlink() if entry.is_file() else shutil.rmtree(entry)
            for path in (self.root / "locks").iterdir():
                if path.name != "in-use":
                    path.unlink()
            for path in (self.root / "scratch").iterdir():  # no build is running: nobody owns these
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._digests.forget_missing()
        fcntl.flock(self._use, fcntl.LOCK_SH)
        return len(removed), sum(removed)

    def _sweep(self) -> None:
        """Remove scratch folders whose owner has died."""
        for lock_path in (self.root / "scratch").glob("*.lock"):
            with contextlib.suppress(OSError), lock_path.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
                lock_path.unlink()

    def _blob(self, sha256: str) -> Path:
        if len(sha256) != 64 or not _HEX.issuperset(sha256):
            raise StoreError(f"{sha256[:80]!r} is not a sha256")
        return self.root / "blobs" / sha256[:2] / sha256

    def _result(self, key: str) -> Path:
        if len(key) != 64 or not _HEX.issuperset(key):
            raise StoreError(f"{key[:80]!r} is not a step key")
        return self.root / "results" / key[:2] / f"{key}.json"


class _DigestMemory:
    """sha256 of files, remembered for as long as size, modification time and inode stay the same.

    A file changed within the clock's last tick could keep its modification time, so fresh files are not remembered by
    `recall` of a path that we did not write ourselves (the same rule as git's index).
    """

    _TICK_NS = 20_000_000

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors("open the cache"):
            try:
                self._open()
            except sqlite3.DatabaseError:
                path.unlink(missing_ok=True)  # only a memory: losing it costs time, not truth
                self._open()

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS digests"
            " (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, inode INTEGER, sha256 TEXT) WITHOUT ROWID"
        )

    def recall(self, path: Path) -> FileDigest | None:
        stat = path.stat()
        row = self._db.execute(
            "SELECT sha256 FROM digests WHERE path = ? AND size = ? AND mtime = ? AND inode = ?",
            (str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino),
        ).fetchone()
        return FileDigest(row[0], stat.st_size) if row else None

    def remember(self, path: Path, digest: FileDigest) -> None:
        stat = path.stat()
        if stat.st_size != digest.size or time.time_ns() - stat.st_mtime_ns < self._TICK_NS:
            return
        self._db.execute(
            "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)",
            (str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino, digest.sha256),
        )

    def forget_missing(self) -> None:
        gone = [(path,) for (path,) in self._db.execute("SELECT path FROM digests") if not Path(path).exists()]
        self._db.executemany("DELETE FROM digests WHERE path = ?", gone)

    def close(self) -> None:
        self._db.close()


def _file_name(label: str) -> str:
    """``label`` as a file name: what is not plain becomes ``_``."""
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in label)[:100]

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
agrees with the remembered one: the blob is read again, found damaged, dropped, and made anew. (An edit that keeps the
size and puts the old time back goes unseen until `verify`, which reads everything.)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.errors import DigestMismatch, StoreError
from hubpub.store.files import FileDigest, copy_file, sha256_of, storage_errors, sync_file, sync_folder, write_atomic
from hubpub.store.memory import DigestMemory, Stamp

_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)


def default_root() -> Path:
    """``HUBPUB_CACHE`` if set, else hubpub's folder in the platform's cache folder."""
    if named := os.environ.get("HUBPUB_CACHE"):
        return Path(os.path.expanduser(named))  # noqa: PTH111 (the other one raises for an unknown ~user)
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
        self.root = root = root.absolute()
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
        self._digests = DigestMemory(root / "digests.sqlite")
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
        return self._intact(self._blob(sha256)) is not None

    def path(self, sha256: str) -> Path:
        """Where the blob's bytes can be read.

        Raises:
            StoreError: it is not here, or its bytes were changed.
        """
        path = self._blob(sha256)
        if self._intact(path) is None:
            raise StoreError(f"blob {sha256} is not in the cache", where=str(self.root), fix="run the build again")
        with storage_errors(f"read {path.name}"), path.open("rb", buffering=0) as file:
            file.read(1)  # a link to it may be all that is made: `collect` goes by the time of the last reading
        return path

    def put(self, path: Path, *, expected: FileDigest | None = None) -> FileDigest:
        """Move the finished file ``path`` (on the store's file system) into the store.

        Raises:
            DigestMismatch: the bytes are not the ``expected`` ones; the file is left where it is.
            StoreError: it is not a regular file, somebody still writes to it, or the disk refuses.
        """
        with storage_errors("store a file"):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise StoreError("cannot be stored: it is not a regular file", where=path.name)
            path.chmod(0o644)
            # A time in the past: an edit in place, however soon, then shows as another modification time.
            past = int(time.time()) - 2
            os.utime(path, (past, past))
            stamp = Stamp.of(path)
            digest = sha256_of(path)
            if expected is not None and digest != expected:
                raise DigestMismatch(path.name, expected=expected.sha256, got=digest.sha256)
            target = self._blob(digest.sha256)
            if self._intact(target) is not None:
                path.unlink()
                return digest
            sync_file(path)
            if Stamp.of(path) != stamp:
                raise StoreError(
                    "was written to while it was stored", where=path.name, fix="end what writes to it, then run again"
                )
            target.parent.mkdir(exist_ok=True)
            with self.lock("blobs"):
                path.replace(target)
            sync_folder(target.parent)
        self._digests.remember(target, digest, stamp)
        return digest

    def place(self, digest: FileDigest, target: Path, *, link: bool = True) -> None:
        """Make the blob appear at ``target`` (reflink, link or copy), which must not exist; parents are created."""
        source = self.path(digest.sha256)
        with storage_errors(f"write {target.name}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(source, target, link=link)
            self._digests.remember(target, digest, Stamp.of(target))

    def digest(self, path: Path) -> FileDigest:
        """Digest of any file, read only if it changed since it was last seen."""
        with storage_errors(f"read {path.name}"):
            return self._digests.recall(path) or self._digests.read(path)[0]

    def _intact(self, path: Path) -> FileDigest | None:
        """The blob at ``path``, if it is here; a damaged one is dropped, never served."""
        with storage_errors(f"read {path.name}"):
            try:
                known = self._digests.recall(path)
                if known is not None and known.sha256 == path.name:
                    return known
                found, stamp = self._digests.read(path)
            except FileNotFoundError:
                return None
            if found.sha256 == path.name:
                return found
            self._drop(path, stamp)
            return None

    def _drop(self, path: Path, stamp: Stamp) -> None:
        """Remove the damaged blob that had this stamp, not the good one that another build just put in its place."""
        with self.lock("blobs"), contextlib.suppress(FileNotFoundError):
            if Stamp.of(path) == stamp:
                path.unlink()

    # -- results

    def result(self, key: str) -> Result | None:
        """The result of the step with this key, if it and all its blobs are here."""
        path = self._result(key)
        result = self._complete(path)
        if result is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # `collect` keeps what was used lately
        return result

    def save(self, key: str, result: Result) -> None:
        """Remember ``result``; its blobs must be in the store already."""
        data = {
            "outputs": {name: {"sha256": out.sha256, "size": out.size} for name, out in sorted(result.outputs.items())},
            "facts": result.facts,
            "observed": result.observed,
        }
        path = self._result(key)
        with storage_errors("save a result"):
            path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(data, sort_keys=True, indent=1).encode())

    def _complete(self, path: Path) -> Result | None:
        """What the record at ``path`` says, if it is one and all its blobs are here."""
        with storage_errors(f"read {path.name}"):
            result = _read_record(path)
        if result is None or any(self._intact(self._blob(out.sha256)) != out for out in result.outputs.values()):
            return None
        return result

    # -- work in progress

    @contextlib.contextmanager
    def scratch(self, label: str) -> Iterator[Path]:
        """A private folder on the store's file system; removed afterwards, or by the next run if we are killed."""
        with storage_errors("make a scratch folder"):
            held, folder = self._claim_scratch(label)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
            os.close(held)

    def _claim_scratch(self, label: str) -> tuple[int, Path]:
        while True:
            held, name = tempfile.mkstemp(prefix=f"{_file_name(label)}-", suffix=".lock", dir=self.root / "scratch")
            folder = Path(name).with_suffix("")
            try:
                fcntl.flock(held, fcntl.LOCK_EX)
                if os.fstat(held).st_nlink:  # else another run, just starting, swept it before we held it
                    folder.mkdir()
                    return held, folder
            except BaseException:
                Path(name).unlink(missing_ok=True)
                os.close(held)
                raise
            os.close(held)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold ``name`` alone among all processes (and threads) that use this store; not to be taken twice."""
        with storage_errors("lock the cache"):
            held = os.open(self.root / "locks" / f"{_file_name(name)}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with storage_errors("lock the cache"):
                fcntl.flock(held, fcntl.LOCK_EX)
            yield
        finally:
            os.close(held)

    # -- housekeeping

    def results(self) -> Iterator[tuple[str, Result, float]]:
        """All complete results with the time (seconds since the epoch) of their last use."""
        for path in self._records():
            with contextlib.suppress(FileNotFoundError):
                used = path.stat().st_mtime
                if (result := self._complete(path)) is not None:
                    yield path.stem, result, used

    def blobs(self) -> Iterator[FileDigest]:
        """All blobs, by name and size on disk."""
        for path in sorted((self.root / "blobs").glob("*/*")):
            with contextlib.suppress(FileNotFoundError):  # found damaged and dropped by another run
                yield FileDigest(path.name, path.stat().st_size)

    def verify(self) -> Iterator[Damage]:
        """Read every byte; a damaged blob is removed, so that the next build makes it anew."""
        for path in sorted((self.root / "blobs").glob("*/*")):
            with storage_errors(f"read {path.name}"), contextlib.suppress(FileNotFoundError):
                found, stamp = self._digests.read(path)
                if found.sha256 != path.name:
                    self._drop(path, stamp)
                    yield Damage(f"blob {path.name}", f"its bytes have sha256 {found.sha256}; removed")
        for path in self._records():
            if self._complete(path) is None and path.exists():
                path.unlink(missing_ok=True)
                yield Damage(f"result {path.stem}", "its record or one of its blobs is missing; removed")

    def collect(self, *, unused_for: float) -> tuple[int, int]:
        """Remove results not used for ``unused_for`` seconds and every blob that no result names any more.

        Returns:
            How many files were removed, and their bytes.

        Raises:
            StoreError: a build is using the store.
        """
        with self._alone(), storage_errors("collect"):
            return self._collect(unused_for)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise StoreError(
                "another build is using the cache", where=str(self.root), fix="collect again when it has ended"
            ) from error
        finally:
            fcntl.flock(self._use, fcntl.LOCK_SH)  # also when refused: the attempt let go of what was held

    def _collect(self, unused_for: float) -> tuple[int, int]:
        now = time.time()
        removed: list[int] = []

        def remove(path: Path) -> None:
            removed.append(path.lstat().st_size)
            path.unlink()

        blobs = {path: path.stat().st_atime for path in sorted((self.root / "blobs").glob("*/*"))}  # before any is read
        named: set[str] = set()
        kept: set[Path] = set()
        for key, result, used in self.results():
            if now - used <= unused_for:
                kept.add(self._result(key))
                named.update(output.sha256 for output in result.outputs.values())
        for path in sorted((self.root / "results").glob("*/*")):  # also what a killed `save` left
            if path not in kept:
                remove(path)
        for path, used in blobs.items():
            if path.name not in named and now - used > unused_for and path.exists():
                remove(path)
        for entry in [*self.downloads.iterdir(), *self.environments.iterdir()]:
            if now - entry.stat().st_mtime > unused_for:
                files = [entry] if entry.is_file() else [file for file in entry.rglob("*") if file.is_file()]
                removed.extend(file.lstat().st_size for file in files)
                entry.unlink() if entry.is_file() else shutil.rmtree(entry)
        for path in sorted((self.root / "locks").glob("*.lock")):
            path.unlink()
        for path in sorted((self.root / "scratch").iterdir()):  # no build is running: nobody owns these
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._digests.forget_missing()
        return len(removed), sum(removed)

    def _sweep(self) -> None:
        """Remove scratch folders whose owner has died."""
        for path in list((self.root / "scratch").iterdir()):
            lock = path if path.suffix == ".lock" else path.with_name(f"{path.name}.lock")
            try:
                with lock.open("rb") as held:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink()
            except FileNotFoundError:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)  # its owner ended, but could not remove it all
            except OSError:
                continue  # its owner lives

    def _records(self) -> list[Path]:
        return sorted(path for path in (self.root / "results").glob("*/*.json") if _KEY.fullmatch(path.stem))

    def _blob(self, sha256: str) -> Path:
        if not _KEY.fullmatch(sha256):
            raise StoreError(f"{sha256[:80]!r} is not a sha256")
        return self.root / "blobs" / sha256[:2] / sha256

    def _result(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreError(f"{key[:80]!r} is not a step key")
        return self.root / "results" / key[:2] / f"{key}.json"


def _read_record(path: Path) -> Result | None:
    """The record at ``path``; None if it is absent, damaged, or of another version: then the step runs again."""
    try:
        data = json.loads(path.read_bytes())
        outputs = {name: FileDigest(entry["sha256"], entry["size"]) for name, entry in data["outputs"].items()}
        result = Result(outputs, dict(data["facts"]), dict(data["observed"]))
        sound = all(_KEY.fullmatch(out.sha256) and isinstance(out.size, int) for out in outputs.values())
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return result if sound else None


def _file_name(label: str) -> str:
    """``label`` as a file name: itself if it is short and plain, else something like it with a digest of it."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", label)[:80]
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()
    return plain if plain == label else f"{plain}-{digest[:16]}"

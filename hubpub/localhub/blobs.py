"""Contents of the files of every repo, one file on disk per sha256."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_SYNCS = 16


class Batch:
    """Files that are to be kept together; ``files`` holds their paths by sha256.

    Args:
        folder: where they lie meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.files: dict[str, Path] = {}

    def incoming(self) -> Path:
        """Where the next file may be written."""
        self._count += 1
        return self._folder / str(self._count)

    def keep(self, path: Path, sha256: str) -> None:
        """Keep the file in the end; the caller has checked the digest."""
        self.files[sha256] = path


class Blobs:
    """Blobs by sha256 under ``root/blobs``; what is still arriving lies in ``root/incoming``.

    Safe for many threads and processes at once: a blob appears by rename, whole, and never changes.

    Args:
        root: the folder of the Hub.
    """

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._incoming = root / "incoming"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)

    def has(self, sha256: str) -> bool:
        """Whether the blob is here."""
        return self.path(sha256).is_file()

    def path(self, sha256: str) -> Path:
        """Where the blob lies, or would lie."""
        return self._blobs / sha256[:2] / sha256

    def size(self, sha256: str) -> int:
        """Its size in bytes; ``FileNotFoundError`` when it is not here."""
        return self.path(sha256).stat().st_size

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """An empty temporary file in the same filesystem; removed at the end unless it was kept."""
        handle, name = tempfile.mkstemp(dir=self._incoming)
        os.close(handle)
        path = Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, path: Path, sha256: str) -> None:
        """Make the file at ``path`` the blob ``sha256``: synced, then renamed; the caller has checked the digest."""
        _sync(path)
        _sync(self._place(path, sha256))

    def _place(self, path: Path, sha256: str) -> Path:
        place = self.path(sha256)
        place.parent.mkdir(exist_ok=True)
        path.replace(place)
        return place.parent

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Keep many files at once, when the block ends well: a disk syncs a hundred at a time as fast as one."""
        folder = Path(tempfile.mkdtemp(dir=self._incoming))
        try:
            batch = Batch(folder)
            yield batch
            with ThreadPoolExecutor(_SYNCS) as pool:
                list(pool.map(_sync, batch.files.values()))
                folders = {self._place(path, sha256) for sha256, path in batch.files.items()}
                list(pool.map(_sync, folders))
        finally:
            shutil.rmtree(folder)

    def clean(self) -> None:
        """Remove what arrived in part before the last server was killed; only while no other process writes here."""
        shutil.rmtree(self._incoming)
        self._incoming.mkdir()


def _sync(path: Path) -> None:
    """Have the file or folder written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

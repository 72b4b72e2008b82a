"""The release as it is to stand on the Hub: every file with its digest, the manifest included."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from hubpub.errors import ReleaseError
from hubpub.manifest import MANIFEST, Digest, Manifest, read_manifest
from hubpub.recipe import unsafe_path
from hubpub.store import sha256_of
from hubpub.store.files import storage_errors


@dataclass(frozen=True)
class Release:
    """A release folder whose files have the digests of ``files``; these are trusted, and not computed again."""

    folder: Path
    manifest: Manifest
    files: dict[str, Digest]
    _sha1: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def short(self) -> str:
        """The first half of a line's worth of the digest, as commit messages quote it."""
        return self.manifest.digest[:12]

    def git_sha1(self, path: str) -> str:
        """Git's name for a file that it keeps itself; read once, and checked against the manifest on the way.

        Raises:
            ReleaseError: the bytes are not those of the manifest.
        """
        if path not in self._sha1:
            with storage_errors("read the release"):
                content = (self.folder / path).read_bytes()
            if hashlib.sha256(content).hexdigest() != self.files[path].sha256:
                raise ReleaseError(f"{path} has other bytes than recorded", where=str(self.folder), fix=_AGAIN)
            header = b"blob %d\0" % len(content)
            self._sha1[path] = hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
        return self._sha1[path]


_AGAIN = "build it again"


def open_release(folder: Path) -> Release:
    """The release in ``folder``; names, presence and sizes are checked, contents are not.

    Raises:
        ReleaseError: it is not one, or not whole.
    """
    manifest = read_manifest(folder)
    files = {path: Digest(sha256=each.sha256, size=each.size) for path, each in manifest.listed_files().items()}
    with storage_errors("read the release"):
        for path, digest in files.items():
            file = folder / path
            if reason := unsafe_path(path):
                raise ReleaseError(f"its manifest lists {path!r}, which {reason}", where=str(folder))
            if file.is_symlink() or not file.is_file():
                raise ReleaseError(f"{path} is missing", where=str(folder), fix=_AGAIN)
            if (size := file.stat().st_size) != digest.size:
                what = f"{path} has {size} bytes, {digest.size} are recorded"
                raise ReleaseError(what, where=str(folder), fix=_AGAIN)
        own = sha256_of(folder / MANIFEST)
    return Release(folder, manifest, {**files, MANIFEST: Digest(sha256=own.sha256, size=own.size)})

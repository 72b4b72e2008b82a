"""A folder put under a repo id, as if it had been published; the server may run or not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubpub.errors import LocalHubError
from hubpub.localhub.blobs import Batch, Blobs
from hubpub.localhub.database import Database
from hubpub.localhub.modes import Attributes
from hubpub.localhub.refusal import Refusal
from hubpub.localhub.repos import File, Kind, Repos, lfs_file, regular_file
from hubpub.localhub.roots import in_use

OWNER = "tester"
_SAMPLE = 512


def seed(
    database: Database,
    blobs: Blobs,
    repo_id: str,
    folder: Path,
    *,
    repo_type: Kind = "model",
    message: str = "Seed",
    revision: str = "main",
    tag: str | None = None,
) -> str:
    """Make the head of a branch equal to a folder, by one more commit; the repo and the branch are made when missing.

    Args:
        database: the Hub's.
        blobs: the Hub's.
        repo_id: ``owner/name``.
        folder: files that it lacks are deleted, but for ``.gitattributes``, which every repo of the Hub has.
        repo_type: ``model`` or ``dataset``.
        message: of the commit.
        revision: the branch; a new one starts at main.
        tag: put on the commit.

    Returns:
        The commit id. ``LocalHubError`` when the folder or a name will not do.
    """
    if not folder.is_dir():
        raise LocalHubError("is not a folder", where=str(folder), fix="name the folder whose files to seed")
    repos = Repos(database, blobs)
    own = folder / ".gitattributes"
    try:
        repo = repos.find(repo_type, repo_id) or repos.create(repo_type, repo_id, OWNER)
        main = repos.files(repos.resolve(repo, "main").tree)
        kept = {} if own.is_file() or ".gitattributes" not in main else {".gitattributes": main[".gitattributes"]}
        rules = (
            own.read_bytes()
            if own.is_file()
            else b"".join(blobs.path(each.sha256).read_bytes() for each in kept.values())
        )
        attributes = Attributes(rules)
        with blobs.batch() as batch:
            files = {name: _keep(blobs, batch, path, name, attributes) for name, path in _walk(folder)}
        with database.change():
            commit = repos.commit(
                repo,
                f"refs/heads/{revision}",
                lambda _: kept | files,
                title=message,
                author=OWNER,
                start=repos.resolve(repo, "main").oid,
            )
            if tag:
                repos.add_ref(repo, f"refs/tags/{tag}", commit.oid)
    except Refusal as refusal:
        raise LocalHubError(refusal.message, where=repo_id) from None
    except OSError as error:
        raise LocalHubError(f"cannot be seeded: {error.strerror or error}", where=str(folder)) from None
    return commit.oid


def seed_root(root: Path, repo_id: str, folder: Path, **options: Any) -> str:
    """``seed`` for the Hub at ``root``, whether a server uses it or not; the options are the same."""
    with in_use(root) as blobs:
        database = Database(root)
        try:
            return seed(database, blobs, repo_id, folder, **options)
        finally:
            database.close()


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            path = Path(where, name)
            yield path.relative_to(folder).as_posix(), path


def _keep(blobs: Blobs, batch: Batch, path: Path, name: str, attributes: Attributes) -> File:
    digest = hashlib.sha256()
    git = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    size, sample = 0, b""
    place = batch.incoming()
    with path.open("rb") as source, place.open("wb") as target:
        while piece := source.read(1 << 20):
            sample = sample or piece[:_SAMPLE]
            size += len(piece)
            digest.update(piece)
            git.update(piece)
            target.write(piece)
    sha256 = digest.hexdigest()
    if blobs.has(sha256):
        place.unlink()
    else:
        batch.keep(place, sha256)
    if attributes.mode(name, size, sample) == "lfs":
        return lfs_file(sha256, size)
    return regular_file(git.hexdigest(), sha256, size)

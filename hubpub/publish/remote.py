"""A repo on the Hub at one commit: its files by hash, and the manifest that was published with them."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubpub.errors import HubpubError, PublishError
from hubpub.manifest import MANIFEST, MAX_BYTES, Manifest, read_manifest

if TYPE_CHECKING:
    from hubpub.publish.client import Hub


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it.

    Attributes:
        size: bytes of its content.
        blob_id: git's sha1, of the content, or of the pointer where the content is stored apart (LFS, Xet).
        sha256: of the content, where it is stored apart.
    """

    size: int
    blob_id: str
    sha256: str | None = None


@dataclass(frozen=True)
class Remote:
    """What is there.

    Attributes:
        commit: the head that was read; None when there is no such repo yet.
        branch_exists: else ``commit`` is the head of main, from which the branch would be made.
        files: by path.
        manifest: of the published release; None when there is none that this version reads.
        note: why there is no manifest though there is a hubpub.json.
    """

    commit: str | None
    files: dict[str, RemoteFile]
    manifest: Manifest | None = None
    branch_exists: bool = True
    note: str | None = None


ABSENT = Remote(None, {}, branch_exists=False)
"""A repo that does not exist."""


def read_remote(hub: Hub, branch: str) -> Remote:
    """The head of ``branch``; of main where there is no such branch.

    Raises:
        PublishError: the Hub cannot be read.
    """
    head = hub.head(branch)
    if head is not None:
        return read_commit(hub, head)
    if branch == "main" or (main := hub.head("main")) is None:
        return ABSENT
    there = read_commit(hub, main)
    return Remote(there.commit, there.files, there.manifest, branch_exists=False, note=there.note)


def read_commit(hub: Hub, commit: str, files: dict[str, RemoteFile] | None = None) -> Remote:
    """The manifest at ``commit``, and its files unless they were read before."""
    files = hub.tree(commit) if files is None else files
    manifest, note = _read_manifest(hub, commit, files.get(MANIFEST))
    return Remote(commit, files, manifest, note=note)


def _read_manifest(hub: Hub, commit: str, listed: RemoteFile | None) -> tuple[Manifest | None, str | None]:
    """An unreadable manifest counts as none: everything is compared, and the next publication replaces it."""
    if listed is None:
        return None, None
    if listed.size > MAX_BYTES:
        return None, f"the published {MANIFEST} is larger than {MAX_BYTES} bytes and counts as none"
    with tempfile.TemporaryDirectory(prefix="hubpub-") as folder:
        (Path(folder) / MANIFEST).write_bytes(content_of(hub, commit, MANIFEST, listed))
        try:
            return read_manifest(Path(folder)), None
        except HubpubError as error:
            return None, f"the published {MANIFEST} counts as none: it {error.what}"


def content_of(hub: Hub, commit: str, path: str, listed: RemoteFile) -> bytes:
    """The bytes of a small file, checked against the Hub's own hash.

    Raises:
        PublishError: they cannot be had, or are not those that the Hub lists.
    """
    content = hub.download(path, commit, limit=listed.size)
    if listed.sha256 is not None:
        sound = hashlib.sha256(content).hexdigest() == listed.sha256
    else:
        header = b"blob %d\0" % len(content)
        sound = hashlib.sha1(header + content, usedforsecurity=False).hexdigest() == listed.blob_id
    if not sound:
        fix = "try again later; a proxy on the way may change what it passes on"
        raise PublishError(f"{path} came with other bytes than the Hub lists", where=hub.where, fix=fix)
    return content

"""Object ids as git computes them: the Hub's file, tree and commit ids are git's."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]+)\n")


def object_id(kind: str, body: bytes) -> str:
    """Id of the object of ``kind`` (blob, tree or commit)."""
    return hashlib.sha1(b"%s %d\0%s" % (kind.encode(), len(body), body), usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """What git holds in place of an LFS file of ``size`` bytes."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def read_pointer(content: bytes) -> tuple[str, int] | None:
    """The sha256 and size that a pointer names, or None when the content is not a pointer."""
    found = _POINTER.fullmatch(content)
    return (found[1].decode(), int(found[2])) if found else None


def tree_ids(files: Mapping[str, str]) -> dict[str, str]:
    """Id of every folder.

    Args:
        files: blob id by path; paths are ``/``-separated.

    Returns:
        Tree id by folder path; ``""`` is the root, which is always there.
    """
    below: defaultdict[str, dict[str, str]] = defaultdict(dict)
    folders = {""}
    for path, oid in files.items():
        parent, _, name = path.rpartition("/")
        below[parent][name] = oid
        while parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    ids: dict[str, str] = {}
    for folder in sorted(folders, key=lambda path: (path.count("/") + 1 if path else 0, path), reverse=True):
        blobs = [(name.encode(), b"100644", oid) for name, oid in below[folder].items()]
        trees = [(name.encode(), b"40000", oid) for name, oid in below[f"{folder}\0"].items()]
        # git sorts a folder as if its name ended with a slash
        entries = sorted([*blobs, *trees], key=lambda entry: entry[0] + (b"/" if entry[1] == b"40000" else b""))
        ids[folder] = object_id(
            "tree", b"".join(b"%s %s\0%s" % (mode, name, bytes.fromhex(oid)) for name, mode, oid in entries)
        )
        if folder:
            parent, _, name = folder.rpartition("/")
            below[f"{parent}\0"][name] = ids[folder]
    return ids


def commit_id(tree: str, parents: Sequence[str], author: str, seconds: int, message: str) -> str:
    """Id of a commit; author and committer are the same person at the same second, UTC."""
    who = f"{author} <{author}@users.noreply.localhost> {seconds} +0000"
    lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {who}", f"committer {who}"]
    return object_id("commit", "\n".join([*lines, "", message, ""]).encode())

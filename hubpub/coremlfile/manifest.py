"""``Manifest.json`` of a ``.mlpackage``: which items the folder holds, and which of them is the model.

An item's path is relative to the folder ``Data``. Identifiers are UUIDs; those that we write are derived from the
content of the model, so that the same model gets the same ones.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hubpub.coremlfile.blob import open_regular
from hubpub.errors import CoremlFileError

NAME = "Manifest.json"
DATA = "Data"
_MAX_BYTES = 1 << 20
_AGAIN = "fetch or convert the package again"


@dataclass(frozen=True)
class Item:
    """One entry: ``path`` is relative to ``Data``, and checked to stay in it."""

    identifier: str
    path: PurePosixPath
    name: str
    author: str
    description: str


@dataclass(frozen=True)
class Manifest:
    """The entries in the order of the file, and the one that is the model."""

    items: tuple[Item, ...]
    root: Item

    @classmethod
    def read(cls, package: Path) -> Manifest:
        """Read that of the folder ``package``.

        Raises:
            CoremlFileError: there is none, or an entry is missing, malformed, leaves the folder or is not there.
        """
        where = f"{package.name}/{NAME}"
        path = package / NAME
        if not path.is_symlink() and not path.exists():
            raise CoremlFileError(f"has no {NAME}, so it is not an ML package", where=package.name, fix=_AGAIN)
        fd, size = open_regular(path, where)
        os.close(fd)
        if size > _MAX_BYTES:
            raise CoremlFileError(f"has {size} bytes, more than {_MAX_BYTES}", where=where, fix=_AGAIN)
        try:
            document = json.loads(path.read_bytes().decode("utf-8"))
            entries = document["itemInfoEntries"]
            root = document["rootModelIdentifier"]
            listed = [_item(identifier, entry, where) for identifier, entry in entries.items()]
        except (ValueError, RecursionError):
            raise CoremlFileError("is not JSON", where=where, fix=_AGAIN) from None
        except (KeyError, TypeError, AttributeError):
            raise CoremlFileError(
                "lacks itemInfoEntries with paths, or rootModelIdentifier", where=where, fix=_AGAIN
            ) from None
        version = document.get("fileFormatVersion")
        if version != "1.0.0":
            raise CoremlFileError(f"fileFormatVersion is {version!r}, known is '1.0.0'", where=where, fix=_AGAIN)
        for item in listed:
            check_inside(package, PurePosixPath(DATA, item.path), where)
        found = next((item for item in listed if item.identifier == root), None)
        if found is None:
            raise CoremlFileError(f"has no entry {root!r}, which it says is the model", where=where, fix=_AGAIN)
        return cls(tuple(listed), found)

    def covers(self, path: PurePosixPath) -> bool:
        """Whether ``path`` (relative to ``Data``) is an item or lies in one."""
        return any(item.path == path or item.path in path.parents for item in self.items)


def check_inside(package: Path, path: PurePosixPath, where: str) -> Path:
    """The file or folder ``path`` of ``package``, no step of it a link.

    Raises:
        CoremlFileError: it leaves the package, goes through a link, or is not there.
    """
    if path.is_absolute() or ".." in path.parts or "\x00" in str(path):
        raise CoremlFileError(f"refers outside the package: {str(path)!r}", where=where, fix="do not use this package")
    at = package
    for part in path.parts:
        at = at / part
        if at.is_symlink():
            raise CoremlFileError(
                f"{path} goes through a link", where=where, fix="copy the package with its links resolved"
            )
        if not at.exists():
            raise CoremlFileError(f"{path} is missing from the package", where=where, fix=_AGAIN)
    return at


def manifest_bytes(items: Iterable[Item], root: Item, digest: str) -> bytes:
    """The manifest of a package whose content has the digest ``digest``; the identifiers are derived from it."""
    entries = {
        _identifier(digest, item): {
            "author": item.author,
            "description": item.description,
            "name": item.name,
            "path": str(item.path),
        }
        for item in items
    }
    document = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": _identifier(digest, root),
    }
    return (json.dumps(document, indent=4, sort_keys=True) + "\n").encode()


def _identifier(digest: str, item: Item) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{digest} {item.path}")).upper()


def _item(identifier: object, entry: object, where: str) -> Item:
    if not isinstance(identifier, str) or not isinstance(entry, dict) or not isinstance(entry["path"], str):
        raise TypeError
    path = entry["path"]
    if not path or "\\" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise CoremlFileError(
            f"the path of an item leaves the package: {path!r}", where=where, fix="do not use this package"
        )
    texts = {key: str(entry.get(key, "")) for key in ("name", "author", "description")}
    return Item(identifier, PurePosixPath(path), **texts)

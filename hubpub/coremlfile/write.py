"""Writing a package: the program canonically, weights one after the other, identifiers from the content.

The same model gives the same bytes in every process: protobuf's deterministic mode sorts its maps, no date and no
random UUID is written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hubpub.coremlfile.blob import BlobWriter
from hubpub.coremlfile.dtypes import ElementType
from hubpub.coremlfile.manifest import DATA, NAME, check_inside, manifest_bytes
from hubpub.coremlfile.package import MODEL_FOLDER, PROGRAM, Package, parts_of
from hubpub.coremlfile.program import values
from hubpub.coremlfile.proto import mil_messages
from hubpub.coremlfile.values import count_of

IMMEDIATE = 10
"""Tensors of fewer elements are written into the program, as coremltools does."""

_DATES = ("com.github.apple.coremltools.conversion_date",)
_FIRST_HANDLE = 1 << 62
_CHUNK = 1 << 20

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Payload:
    """New content of a tensor: what it is, and how its packed bytes are made when they are written.

    Payloads of one ``key`` are the same bytes and are written once.
    """

    key: tuple[Any, ...]
    kind: ElementType
    shape: tuple[int, ...]
    produce: Callable[[], bytes]

    @property
    def count(self) -> int:
        """Number of elements."""
        return count_of(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes, packed."""
        return self.kind.nbytes(self.count)


class Edit:
    """New values for a package that is going to be written."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.payloads: list[Payload] = []

    def value(self, file: str, payload: Payload) -> Any:
        """A `Value` message that stands for ``payload`` until the package is written.

        Args:
            file: the weight file that it goes into, as the program calls it.
            payload: its content.
        """
        made = mil_messages().Value()
        made.type.tensorType.dataType = payload.kind.code
        made.type.tensorType.rank = len(payload.shape)
        for size in payload.shape:
            made.type.tensorType.dimensions.add().constant.size = size
        made.blobFileValue.fileName = file
        made.blobFileValue.offset = _FIRST_HANDLE + len(self.payloads)
        self.payloads.append(payload)
        return made

    def write(self, target: Path, progress: Progress) -> dict[str, int]:
        """Write the package as the folder ``target``, which does not exist.

        Weight files without a new value are copied byte for byte.

        Returns:
            Bytes of each weight file, by the name that the programs call it.
        """
        package, spec = self.package, type(self.package.spec)()
        spec.CopyFrom(package.spec)
        _drop_dates(spec)
        root = package.manifest.root.path
        sizes: dict[str, int] = {}
        digest = hashlib.sha256()
        for file, found in _by_file(spec).items():
            path = target / DATA / root.parent / file.removeprefix(MODEL_FOLDER)
            path.parent.mkdir(parents=True, exist_ok=True)
            if any(_handle(value) is not None for _, value in found):
                digest.update(self._rewrite(path, found, progress))
            else:
                digest.update(_copy(package.weight_file(file).path, path, progress))
            sizes[file] = path.stat().st_size
        data = spec.SerializeToString(deterministic=True)
        model = target / DATA / root
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_bytes(data)
        digest.update(hashlib.sha256(data).digest())
        self._carry(target, digest)
        items = [item for item in package.manifest.items if (target / DATA / item.path).exists()]
        (target / NAME).write_bytes(manifest_bytes(items, package.manifest.root, digest.hexdigest()))
        return sizes

    def _carry(self, target: Path, digest: Any) -> None:
        """Copy what else the manifest lists, byte for byte."""
        data = self.package.path / DATA
        for item in sorted(self.package.manifest.items, key=lambda each: each.path):
            if (target / DATA / item.path).exists():
                continue
            source = data / item.path
            for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
                relative = file.relative_to(data)
                check_inside(self.package.path, PurePosixPath(DATA, relative.as_posix()), self.package.path.name)
                if file.is_file():
                    (target / DATA / relative).parent.mkdir(parents=True, exist_ok=True)
                    digest.update(_copy(file, target / DATA / relative, lambda _: None))

    def _rewrite(self, path: Path, found: list[tuple[str, Any]], progress: Progress) -> bytes:
        """Write one weight file, and into ``found`` where each value is; its digest."""
        offsets: dict[object, int] = {}
        with BlobWriter(path, progress) as writer:
            for what, value in found:
                handle = _handle(value)
                if handle is None:
                    kind, shape, ref = self.package.blob(value, what)
                    at: object = value.blobFileValue.offset
                    if at not in offsets:
                        offsets[at] = writer.add(kind, count_of(shape), ref.read())
                else:
                    payload = self.payloads[handle]
                    at = payload.key
                    if payload.count < IMMEDIATE:
                        _put_inline(value.immediateValue.tensor, payload)
                        continue
                    if at not in offsets:
                        offsets[at] = writer.add(payload.kind, payload.count, payload.produce())
                value.blobFileValue.offset = offsets[at]
        return writer.digest


def _put_inline(tensor: Any, payload: Payload) -> None:
    """Write a payload into the program, in the field in which its type is read there."""
    data = payload.produce()
    if payload.kind.name == "fp32":
        tensor.floats.values[:] = payload.kind.unpack(data, payload.count).tolist()
    else:
        tensor.bytes.values = data


def _by_file(spec: Any) -> dict[str, list[tuple[str, Any]]]:
    """Values that lie in weight files, by file, in the order of the programs."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for part in parts_of(spec, "it"):
        if part.kind == PROGRAM:
            for what, value in values(part.program):
                if value.WhichOneof("value") == "blobFileValue":
                    found.setdefault(value.blobFileValue.fileName, []).append((what, value))
    return found


def _handle(value: Any) -> int | None:
    offset = int(value.blobFileValue.offset)
    return offset - _FIRST_HANDLE if offset >= _FIRST_HANDLE else None


def _drop_dates(spec: Any) -> None:
    for model in (spec, *(part.spec for part in parts_of(spec, "it"))):
        for key in _DATES:
            model.description.metadata.userDefined.pop(key, None)


def _copy(source: Path, target: Path, progress: Progress) -> bytes:
    """Copy a file; the digest of its bytes."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            progress(len(chunk))
        os.fchmod(writer.fileno(), 0o644)
    return digest.digest()

"""Which tensors a model holds, how many bytes each must have, and where external ones may lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from hubpub.errors import OnnxFileError
from hubpub.onnxfile.payload import FileBytes, Payload, Varints, open_regular
from hubpub.onnxfile.wire import MESSAGES, Cut, Steps

if TYPE_CHECKING:
    import onnx

# Numbers of TensorProto.DataType. Undefined (0) and string (8) have no size.
_BITS = {
    **dict.fromkeys((1, 6, 12), 32),  # float, int32, uint32
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),  # uint8, int8, bool, the float8 types
    **dict.fromkeys((4, 5, 10, 16), 16),  # uint16, int16, float16, bfloat16
    **dict.fromkeys((7, 11, 13, 14), 64),  # int64, double, uint64, complex64
    15: 128,  # complex128
    **dict.fromkeys((21, 22, 23), 4),  # uint4, int4, float4e2m1
    **dict.fromkeys((25, 26), 2),  # uint2, int2
    **dict.fromkeys((27, 28), 6),  # float6e2m3, float6e3m2
}
_TYPED = {
    "float_data": {1, 14},
    "double_data": {11, 15},
    "int64_data": {7},
    "uint64_data": {12, 13},
    "int32_data": set(_BITS) - {1, 7, 11, 12, 13, 14, 15, 27, 28},
}
_STRING = 8
_MAX_RANK = 256  # a shape is multiplied out before anything is read


@dataclass(frozen=True)
class Located:
    """A tensor of a model, the way to it, and the node whose attribute it is (None for an initializer)."""

    steps: Steps
    tensor: onnx.TensorProto
    node: onnx.NodeProto | None

    @property
    def place(self) -> str:
        """What an error calls it: ``tensor 'w' (graph.initializer[3])``."""
        return f"tensor {_short(self.tensor.name)} ({'.'.join(f'{name}[{index}]' for name, index in self.steps)})"


def walk(model: onnx.ModelProto) -> Iterator[Located]:
    """Every tensor of a model: of a graph first its initializers, then what its nodes hold."""

    def visit(message: Any, kind: str, steps: Steps, node: onnx.NodeProto | None) -> Iterator[Located]:
        if kind == "TensorProto":
            yield Located(steps, message, node)
            return
        if kind == "NodeProto":
            node = message
        elif kind == "GraphProto":
            node = None
        for name, child, repeated in MESSAGES[kind].values():
            if repeated:
                for index, inner in enumerate(getattr(message, name)):
                    yield from visit(inner, child, (*steps, (name, index)), node)
            elif message.HasField(name):
                yield from visit(getattr(message, name), child, (*steps, (name, 0)), node)

    return visit(model, "ModelProto", (), None)


def raw_nbytes(tensor: onnx.TensorProto, where: str) -> int:
    """Bytes that a tensor's ``raw_data`` must have, from its type and dims.

    Raises:
        OnnxFileError: it has no fixed size (strings, an unknown type) or dims that cannot be.
    """
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        kind = "strings" if tensor.data_type == _STRING else f"elements of the unknown type {tensor.data_type}"
        raise OnnxFileError(f"holds {kind}, which cannot be stored as plain bytes", where=where)
    if len(tensor.dims) > _MAX_RANK or min(tensor.dims, default=0) < 0:
        raise OnnxFileError(f"its shape {list(tensor.dims[:8])} cannot be", where=where, fix="export the model again")
    bits_in_all = bits
    for size in tensor.dims:
        bits_in_all *= size
    return -(-bits_in_all // 8)


def inline_payload(tensor: onnx.TensorProto, cut: Cut, path: Path, where: str) -> Payload:
    """The payload that `strip` left in the file ``path``.

    Raises:
        OnnxFileError: it does not fit the tensor's type and dims.
    """
    nbytes = raw_nbytes(tensor, where)
    stored = FileBytes(path, cut.offset, cut.length)
    if cut.field != "raw_data" and tensor.data_type not in _TYPED[cut.field]:
        raise OnnxFileError(f"type {tensor.data_type} cannot be stored as {cut.field}", where=where)
    if cut.field in ("raw_data", "float_data", "double_data"):
        fits = cut.length == nbytes
        payload: Payload = stored
    else:
        itemsize = max(_BITS[tensor.data_type] // 8, 1)
        payload = Varints(stored, itemsize, nbytes // itemsize)
        fits = payload.count <= cut.length <= 10 * payload.count
    if not fits:
        raise OnnxFileError(
            f"its shape {list(tensor.dims)} needs {nbytes} bytes, {cut.field} at byte {cut.offset} has {cut.length}",
            where=where,
            fix="fetch or export the model again",
        )
    return payload


class Folder:
    """The folder that a model's external data must lie in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, tuple[Path, int]] = {}

    def payload(self, tensor: onnx.TensorProto, where: str) -> FileBytes:
        """The bytes that an external tensor refers to.

        ``length`` may be missing: it is what type and dims ask for. Entries other than ``location``, ``offset``
        and ``length`` are not looked at.

        Raises:
            OnnxFileError: the entries are not sound, the file is missing, too short, or outside the folder.
        """
        nbytes = raw_nbytes(tensor, where)
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in entries:
                raise OnnxFileError(f"its external data states {_short(entry.key)} twice", where=where)
            entries[entry.key] = entry.value
        if "location" not in entries:
            raise OnnxFileError("its data is external, but no location is stated", where=where)
        offset = _number(entries.get("offset", "0"), "offset", where)
        length = _number(entries["length"], "length", where) if "length" in entries else nbytes
        if length != nbytes:
            raise OnnxFileError(
                f"its external data has length {length}, type and shape ask for {nbytes}",
                where=where,
                fix="export the model again",
            )
        path, size = self._file(entries["location"], where)
        if offset + length > size:
            raise OnnxFileError(
                f"external data {_short(entries['location'])} is too short: {size} bytes, {offset + length} are needed",
                where=where,
                fix="fetch it again, it was cut off",
            )
        return FileBytes(path, offset, length)

    def _file(self, location: str, where: str) -> tuple[Path, int]:
        if location not in self._files:
            self._files[location] = self._resolve(location, where)
        return self._files[location]

    def _resolve(self, location: str, where: str) -> tuple[Path, int]:
        def refuse(why: str) -> OnnxFileError:
            fix = "its data must be a file in the model's own folder, named by a relative path"
            return OnnxFileError(f"external data {_short(location)} {why}", where=where, fix=fix)

        if not isinstance(location, str):  # protobuf hands out bytes for what is not UTF-8
            raise refuse("is not a name in UTF-8")
        if not location or "\0" in location or "\\" in location:
            raise refuse("is empty or holds a NUL or a backslash")
        name = PurePosixPath(location)
        if name.is_absolute() or PureWindowsPath(location).drive:
            raise refuse("is an absolute path")
        if ".." in name.parts:
            raise refuse("is outside the model's folder")
        try:
            path = (self._path / name).resolve(strict=True)
        except FileNotFoundError:
            raise refuse("is missing") from None
        except (OSError, RuntimeError, UnicodeError) as error:  # name too long, a loop of links
            raise refuse(f"cannot be opened ({error.__class__.__name__})") from None
        if not path.is_relative_to(self._path):
            raise refuse("is a link that leaves the model's folder")
        try:
            fd, size = open_regular(path)
        except OnnxFileError as error:
            raise refuse(error.what) from None
        os.close(fd)
        return path, size


def _number(text: str, key: str, where: str) -> int:
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20):
        raise OnnxFileError(
            f"its external data states {key} {_short(text)}, which is not a number of bytes", where=where
        )
    return int(text)


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 120 else f"{shown[:100]}…{shown[-15:]}"

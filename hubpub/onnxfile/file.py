"""An ONNX model in memory without its large tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.errors import OnnxFileError
from hubpub.onnxfile.payload import FileBytes, Payload, open_regular
from hubpub.onnxfile.tensors import Folder, Located, inline_payload, walk
from hubpub.onnxfile.wire import PAYLOAD_FIELDS, Wire, strip

if TYPE_CHECKING:
    import numpy as np
    import onnx

LAZY_BYTES = 1024
"""Inline tensors from this size on stay in the file; external ones always do."""

_KEY = "payload"
_LFS_POINTER = b"version https://git-lfs"


class OnnxFile:
    """A model whose graph is loaded and whose bulk stays in its files.

    ``model`` is an ordinary ModelProto to read and to edit. A tensor whose bytes are not in it is marked as
    external and carries a handle instead of a location; the handle goes along when the tensor is copied or moved.
    Nothing is held open: the files must stay as they are while the object is in use.
    """

    def __init__(self, path: Path, model: onnx.ModelProto) -> None:
        self.path = path
        self.model = model
        self._payloads: list[Payload] = []
        self._handles: dict[Payload, int] = {}

    @classmethod
    def open(cls, path: Path, *, lazy_bytes: int = LAZY_BYTES) -> OnnxFile:
        """Read a model of any size; its external data lies beside it.

        Args:
            path: the ``.onnx`` file, of which only the graph is read.
            lazy_bytes: inline payloads of fewer bytes (>= 1) come with the graph.

        Raises:
            OnnxFileError: the file is damaged or not ONNX, or a tensor's data is not where and what it must be.
        """
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        where = str(path)
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise OnnxFileError("there is no such file", where=where, fix="check the path") from None
        fd, size = open_regular(real)
        try:
            if os.pread(fd, len(_LFS_POINTER), 0) == _LFS_POINTER:
                raise OnnxFileError("is a Git LFS pointer, not the model", where=where, fix="run `git lfs pull`")
            wire = Wire(lambda start, end: os.pread(fd, end - start, start), size, where)
            graph, cuts = strip(wire, max(lazy_bytes, 1))
        finally:
            os.close(fd)
        model = onnx.ModelProto()
        try:
            model.ParseFromString(graph)
        except DecodeError as error:
            raise OnnxFileError(f"not a sound ONNX model: {error}", where=where, fix="fetch it again") from None
        if not (model.HasField("graph") and model.ir_version):
            raise OnnxFileError("holds no graph or no ir_version, so it is not an ONNX model", where=where)

        file = cls(path, model)
        # External data lies beside the name by which the model is opened, as in a folder of links to a store.
        folder = Folder(path.parent.resolve())
        external = onnx.TensorProto.EXTERNAL
        for located in walk(model):
            tensor = located.tensor
            cut = cuts.get(located.steps)
            if cut is None and tensor.data_location != external:
                continue
            at = f"{path}: {located.place}"
            if tensor.HasField("segment"):
                raise OnnxFileError("is one segment of a tensor, which no runtime reads", where=at)
            if cut is not None and (tensor.data_location == external or tensor.external_data):
                raise OnnxFileError("has both inline and external data", where=at, fix="export the model again")
            if cut is None and any(_filled(tensor, field) for field in PAYLOAD_FIELDS.values()):
                raise OnnxFileError("has both inline and external data", where=at, fix="export the model again")
            payload = inline_payload(tensor, cut, real, at) if cut else folder.payload(tensor, at)
            file.attach(tensor, payload)
        return file

    def tensors(self) -> Iterator[Located]:
        """Every tensor of ``model`` as it is now, in packing order."""
        return walk(self.model)

    def payload(self, tensor: onnx.TensorProto) -> Payload | None:
        """The bytes behind a tensor of ``model``, or None when they are in the tensor itself."""
        if tensor.data_location != type(tensor).EXTERNAL:
            return None
        for entry in tensor.external_data:
            if entry.key == _KEY:
                return self._payloads[int(entry.value)]
        return None

    def attach(self, tensor: onnx.TensorProto, payload: Payload) -> None:
        """Let ``payload`` be the bytes of ``tensor``, in place of all that it had; equal payloads are shared.

        The caller sees to it that type and dims ask for as many bytes.
        """
        detach(tensor)
        if not payload.nbytes:  # nothing to point at; an empty tensor is all there
            tensor.raw_data = b""
            return
        handle = self._handles.setdefault(payload, len(self._payloads))
        if handle == len(self._payloads):
            self._payloads.append(payload)
        tensor.data_location = type(tensor).EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = _KEY, str(handle)

    def read(self, tensor: onnx.TensorProto, start: int = 0, stop: int | None = None) -> bytes:
        """The raw bytes ``start:stop`` of a tensor, wherever they are."""
        payload = self.payload(tensor)
        if payload is not None:
            return payload.read(start, stop)
        from onnx import numpy_helper

        if tensor.HasField("raw_data"):
            return tensor.raw_data[start:stop]
        return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data[start:stop]

    def array(self, tensor: onnx.TensorProto) -> np.ndarray[Any, np.dtype[Any]]:
        """A tensor's values, in memory as a whole; types that NumPy lacks come as those of ml_dtypes."""
        import numpy as np
        import onnx
        from onnx import helper, numpy_helper

        payload = self.payload(tensor)
        if payload is None:
            return numpy_helper.to_array(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if isinstance(payload, FileBytes) and dtype.isbuiltin == 1:
            values = np.empty(tuple(tensor.dims), dtype.newbyteorder("<"))
            payload.read_into(values.reshape(-1).view(np.uint8).data)
            return values
        whole = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=payload.read())
        return numpy_helper.to_array(whole)


def detach(tensor: onnx.TensorProto) -> None:
    """Take a tensor's data from it, inline or external."""
    for field in (*PAYLOAD_FIELDS.values(), "data_location", "external_data"):
        tensor.ClearField(field)


def _filled(tensor: onnx.TensorProto, field: str) -> bool:
    return bool(getattr(tensor, field))

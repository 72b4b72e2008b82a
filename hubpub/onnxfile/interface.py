"""What a graph takes and gives: enough to say whether another file can stand in its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from hubpub.errors import OnnxFileError
from hubpub.onnxfile.file import LAZY_BYTES
from hubpub.onnxfile.payload import open_regular
from hubpub.onnxfile.wire import Wire, strip

if TYPE_CHECKING:
    import onnx


class Port(BaseModel):
    """An input or output: its type as ONNX names it (``float``, ``int64``), each dimension a size, a symbol or None."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None = None


class Interface(BaseModel):
    """What a graph takes and gives, in its own order; inputs that have a default are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def graph_bytes(path: Path) -> bytes:
    """A serialized model without the payload of its large tensors; its external data need not be there.

    Raises:
        OnnxFileError: the file is not there, damaged or not ONNX.
    """
    try:
        fd, size = open_regular(path.resolve(strict=True))
    except OSError as error:
        raise OnnxFileError(f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        return strip(Wire(lambda start, end: os.pread(fd, end - start, start), size, str(path)), LAZY_BYTES)[0]
    finally:
        os.close(fd)


def parse_graph(data: bytes, where: str) -> onnx.ModelProto:
    """The model in ``data``, as `graph_bytes` gives it.

    Raises:
        OnnxFileError: it is not ONNX.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise OnnxFileError(f"not a sound ONNX model: {error}", where=where, fix="fetch it again") from None
    if not (model.HasField("graph") and model.ir_version):
        raise OnnxFileError("holds no graph or no ir_version, so it is not an ONNX model", where=where)
    return model


def interface_of(path: Path) -> Interface:
    """Inputs and outputs of the ONNX file ``path``, of which only the graph is read.

    Raises:
        OnnxFileError: the file is not there, damaged or not ONNX.
    """
    graph = parse_graph(graph_bytes(path), str(path)).graph
    defaults = {tensor.name for tensor in graph.initializer}
    return Interface(
        inputs=tuple(_port(value) for value in graph.input if value.name not in defaults),
        outputs=tuple(_port(value) for value in graph.output),
    )


def _port(value: onnx.ValueInfoProto) -> Port:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(name=value.name, type=(kind or "undefined").removesuffix("_type"))
    tensor = value.type.tensor_type
    names = onnx.TensorProto.DataType.keys()
    element = names[tensor.elem_type].lower() if 0 <= tensor.elem_type < len(names) else str(tensor.elem_type)
    if not tensor.HasField("shape"):
        return Port(name=value.name, type=element)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return Port(name=value.name, type=element, shape=shape)

"""Element types and shapes of the values of an ML program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hubpub.coremlfile.dtypes import BY_CODE, STRING
from hubpub.errors import CoremlFileError

FLOATS = ("fp16", "fp32")
_ALIASES = {"float16": "fp16", "float32": "fp32", "float": "fp32", "int": "int32", "i32": "int32"}


def from_text(dtype: str) -> str:
    """The type that a program names in a string, such as ``cast`` does; unknown ones come back as they are."""
    return _ALIASES.get(dtype, dtype)


@dataclass(frozen=True)
class TensorType:
    """A tensor, or a list of tensors, which is held as one tensor with the list's length in front.

    ``dtype`` is as `ElementType.name` calls it, or ``string``; a size of ``shape`` that is known only when it runs is
    ``None``.
    """

    dtype: str
    shape: tuple[int | None, ...]

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point tensor."""
        return self.dtype in FLOATS

    @property
    def onnx_name(self) -> str:
        """What ONNX calls the element type."""
        return {"fp16": "float16", "fp32": "float"}.get(self.dtype, self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


def tensor_type(value_type: Any, where: str) -> TensorType:
    """Of a protobuf ``ValueType``.

    Raises:
        CoremlFileError: it is neither a tensor nor a list of tensors of a known type.
    """
    kind = value_type.WhichOneof("type")
    if kind == "listType":
        inner = tensor_type(value_type.listType.type, where)
        return TensorType(inner.dtype, (None, *inner.shape))
    if kind != "tensorType":
        what = "is a state, which lives from one prediction to the next" if kind == "stateType" else f"is a {kind}"
        raise CoremlFileError(f"a value {what}", where=where, fix="take a model of plain tensors")
    tensor = value_type.tensorType
    if tensor.dataType not in BY_CODE and tensor.dataType != STRING:
        raise CoremlFileError(f"element type {tensor.dataType} is not known", where=where)
    if tensor.rank < 0 or (tensor.rank and tensor.rank != len(tensor.dimensions)):
        raise CoremlFileError("a value has no fixed number of axes", where=where, fix="convert it with fixed shapes")
    sizes = tuple(each.constant.size if each.HasField("constant") else None for each in tensor.dimensions)
    return TensorType("string" if tensor.dataType == STRING else BY_CODE[tensor.dataType].name, sizes)

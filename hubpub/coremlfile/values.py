"""Values of MIL: their types, and those that are written into the program itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubpub.coremlfile.dtypes import BY_CODE, STRING, ElementType
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy as np

_MAX_ELEMENTS = 1 << 40
_AGAIN = "fetch or convert the package again"


def tensor_type(value: Any, what: str, where: str) -> ElementType | None:
    """Element type of a `Value` or a `NamedValueType` that is a tensor; None: strings.

    Raises:
        CoremlFileError: it is not a tensor, or of a type that is not known.
    """
    if value.type.WhichOneof("type") != "tensorType":
        raise CoremlFileError(f"{what} is not a tensor", where=where)
    code = value.type.tensorType.dataType
    if code == STRING:
        return None
    kind = BY_CODE.get(code)
    if kind is None:
        raise CoremlFileError(f"{what} has elements of the type {code}, which is not known", where=where, fix=_AGAIN)
    return kind


def shape_of(value: Any, what: str, where: str) -> tuple[int, ...]:
    """Shape of a `Value` or a `NamedValueType` whose dimensions are all constant.

    Raises:
        CoremlFileError: one is not, or they are too many or too large.
    """
    tensor = value.type.tensorType
    sizes = []
    count = 1
    for dimension in tensor.dimensions:
        if dimension.WhichOneof("dimension") != "constant":
            raise CoremlFileError(f"{what} has a dimension without a size", where=where)
        sizes.append(int(dimension.constant.size))
        count *= max(sizes[-1], 1)
    if tensor.rank != len(sizes):
        raise CoremlFileError(f"{what} has {len(sizes)} dimensions and rank {tensor.rank}", where=where, fix=_AGAIN)
    if count > _MAX_ELEMENTS:
        raise CoremlFileError(f"{what} asks for {count} elements", where=where, fix=_AGAIN)
    return tuple(sizes)


def count_of(shape: tuple[int, ...]) -> int:
    """Number of elements."""
    count = 1
    for size in shape:
        count *= size
    return count


def unpacked(value: Any, what: str, where: str) -> np.ndarray[Any, np.dtype[Any]]:
    """A tensor that is an immediate value; strings as an array of objects.

    Raises:
        CoremlFileError: it is not a tensor, or holds more or fewer elements than its shape says.
    """
    import numpy as np

    kind, shape = tensor_type(value, what, where), shape_of(value, what, where)
    count = count_of(shape)
    immediate = value.immediateValue
    if value.WhichOneof("value") != "immediateValue" or immediate.WhichOneof("value") != "tensor":
        raise CoremlFileError(f"{what} has no value", where=where, fix=_AGAIN)
    field = immediate.tensor.WhichOneof("value")
    stored: Any = getattr(immediate.tensor, field).values if field else ()
    if field == "bytes":
        if kind is None or len(stored) != kind.nbytes(count):
            raise CoremlFileError(f"{what} has {len(stored)} bytes for {count} elements", where=where, fix=_AGAIN)
        return kind.unpack(stored, count).reshape(shape)
    if len(stored) != count:
        raise CoremlFileError(f"{what} has {len(stored)} values for {count} elements", where=where, fix=_AGAIN)
    if (kind is None) != (field == "strings") and count:
        raise CoremlFileError(f"{what} has values of another type than it says", where=where, fix=_AGAIN)
    if kind is None:
        return np.array(list(stored), object).reshape(shape)
    if field == "bools" or kind.name == "bool":
        return np.array(stored, bool).astype(kind.dtype()).reshape(shape)
    source = np.array(stored, np.float64 if field in ("floats", "doubles") else np.int64)
    if field in ("ints", "longInts") and kind.numpy.startswith(("int", "uint")):
        low, high = (-(1 << (kind.bits - 1)), (1 << (kind.bits - 1)) - 1) if kind.signed else (0, (1 << kind.bits) - 1)
        if count and (source.min() < low or source.max() > high):
            raise CoremlFileError(f"{what} has values that are no {kind.name}", where=where, fix=_AGAIN)
    with np.errstate(over="ignore", invalid="ignore"):
        return source.astype(kind.dtype()).reshape(shape)

"""Compressed constants of an ML program, made dense as the ``constexpr_*`` operations define it.

Apple's definitions: coremltools, ``converters/mil/mil/ops/defs``, ``iOS16/constexpr_ops`` and ``iOS18/compression``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hubpub.coremlfile.dtypes import BY_NAME

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Arrays = Mapping[str, Array]

Decompress = Callable[["Arrays"], "tuple[Array, ...]"]


def cast(given: Arrays) -> tuple[Array]:
    """``constexpr_cast``: fp16 as fp32."""
    import numpy as np

    return (given["source_val"].astype(np.float32),)


def affine(given: Arrays) -> tuple[Array]:
    """``constexpr_affine_dequantize``: ``scale * (data - zero_point)``, both of them scalars or along ``axis``."""
    data, axis = given["quantized_data"], int(given["axis"].item())
    scale = _along(given["scale"], data.ndim, axis)
    zero_point = _along(given["zero_point"], data.ndim, axis)
    return ((data.astype(scale.dtype) - zero_point.astype(scale.dtype)) * scale,)


def lut_to_dense(given: Arrays) -> tuple[Array]:
    """``constexpr_lut_to_dense``: with ``shape`` the flat form of iOS 16, without it the form of iOS 18."""
    lut, indices = given["lut"], given["indices"]
    if "shape" in given:
        shape = tuple(given["shape"].tolist())
        bits = max(1, (lut.size - 1).bit_length())
        return (lut[_unpacked(indices, bits, shape)].reshape(shape),)
    return (_look_up(indices, lut, _optional(given, "vector_axis")),)


def sparse_to_dense(given: Arrays) -> tuple[Array]:
    """``constexpr_sparse_to_dense``: with ``shape`` the packed mask of iOS 16, without it a mask of ones and zeros."""
    import numpy as np

    mask = given["mask"]
    if "shape" in given:
        shape = tuple(given["shape"].tolist())
        mask = _unpacked(mask, 1, shape).reshape(shape)
    return (_spread(given["nonzero_data"], mask != np.uint8(0)),)


def blockwise(given: Arrays) -> tuple[Array]:
    """``constexpr_blockwise_shift_scale``: ``scale * (data - offset)``, each of them for a block of the data."""
    return (_shift_scale(given["data"], given["scale"], given.get("offset")),)


def lut_to_sparse(given: Arrays) -> tuple[Array, Array]:
    """``constexpr_lut_to_sparse``: the mask, and the values of what is not zero."""
    import numpy as np

    mask, axis = given["indices_mask"], _optional(given, "vector_axis")
    indices = _spread(given["indices_nonzero_data"], mask != np.uint8(0))
    dense = _look_up(indices, given["lut"], axis)
    wide = mask if axis is None else np.repeat(mask, given["lut"].shape[-1], axis=axis)
    return wide, dense[wide != np.uint8(0)]


def sparse_blockwise(given: Arrays) -> tuple[Array, Array]:
    """``constexpr_sparse_blockwise_shift_scale``: the mask, and the values of what is not zero."""
    import numpy as np

    mask = given["data_mask"]
    present = mask != np.uint8(0)
    dense = _shift_scale(_spread(given["nonzero_data"], present), given["scale"], given.get("offset"))
    return mask, dense[present]


DECOMPRESS: dict[str, Decompress] = {
    "constexpr_cast": cast,
    "constexpr_affine_dequantize": affine,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
    "constexpr_blockwise_shift_scale": blockwise,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise,
}


def _unpacked(packed: Array, bits: int, shape: tuple[int, ...]) -> Array:
    return BY_NAME[f"uint{bits}"].unpack(packed.tobytes(), math.prod(shape))


def _optional(given: Arrays, name: str) -> int | None:
    return int(given[name].item()) if name in given else None


def _along(values: Array, rank: int, axis: int) -> Array:
    if values.ndim == 0:
        return values
    return values.reshape([-1 if each == axis % rank else 1 for each in range(rank)])


def _spread(values: Array, present: npt.NDArray[np.bool_]) -> Array:
    import numpy as np

    dense = np.zeros(present.shape, values.dtype)
    dense[present] = values
    return dense


def _blocks(values: Array, shape: tuple[int, ...]) -> Array:
    """``values`` repeated so that each stands for its block of an array of this shape."""
    for axis, size in enumerate(shape):
        if values.shape[axis] != size:
            values = values.repeat(size // values.shape[axis], axis=axis)
    return values


def _shift_scale(data: Array, scale: Array, offset: Array | None) -> Array:
    found = data.astype(scale.dtype)
    if offset is not None:
        found = found - _blocks(offset, data.shape).astype(scale.dtype)
    return found * _blocks(scale, data.shape)


def _look_up(indices: Array, lut: Array, vector_axis: int | None) -> Array:
    """``lut`` is ``[one size for each axis of indices…, entries, vector]``: a table for each block of the indices."""
    import numpy as np

    tables = lut.shape[: indices.ndim]
    block = np.zeros(indices.shape, np.int64)  # which table each index is of
    for axis, (size, count) in enumerate(zip(indices.shape, tables, strict=True)):
        place = (np.arange(size) // (size // count)).reshape([-1 if a == axis else 1 for a in range(indices.ndim)])
        block = block * count + place
    vectors = lut.reshape(-1, *lut.shape[-2:])[block, indices.astype(np.int64)]  # [*indices, vector]
    if vectors.shape[-1] == 1:
        return vectors[..., 0]
    axis = (vector_axis or 0) % indices.ndim
    moved = np.moveaxis(vectors, -1, axis + 1)
    shape = list(indices.shape)
    shape[axis] *= vectors.shape[-1]
    return moved.reshape(shape)

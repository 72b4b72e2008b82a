"""Element types of ML programs: how they are called, stored and read.

The codes are those of ``MIL.proto`` (enum DataType) and of the blob file format (``MILBlob/Blob/BlobDataType.hpp``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ElementType:
    """One element type.

    Attributes:
        name: as coremltools writes it (fp16, uint6).
        code: in ``MIL.proto``.
        bits: of one element; fewer than 8 are packed without gaps, the first element in the lowest bits.
        numpy: name of the NumPy (or ml_dtypes) type that one element is unpacked to.
        blob: code in a weight file; None where the format has none.
    """

    name: str
    code: int
    bits: int
    numpy: str
    blob: int | None

    @property
    def signed(self) -> bool:
        """Whether packed bits are a two's complement."""
        return self.numpy.startswith("int")

    def nbytes(self, count: int) -> int:
        """Bytes that ``count`` elements take, packed."""
        return (count * self.bits + 7) // 8

    def dtype(self) -> np.dtype[Any]:
        """The NumPy type, little-endian."""
        import numpy as np

        if self.numpy.startswith(("bfloat", "float8")):
            import ml_dtypes

            special: np.dtype[Any] = np.dtype(getattr(ml_dtypes, self.numpy))
            return special
        return np.dtype(self.numpy).newbyteorder("<")

    def unpack(self, raw: bytes, count: int) -> np.ndarray[Any, np.dtype[Any]]:
        """``count`` elements, flat, of ``raw`` little-endian bytes, of which there are `nbytes` at least."""
        import numpy as np

        if self.bits >= 8:
            return np.frombuffer(raw, self.dtype(), count)
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=count * self.bits, bitorder="little")
        low = np.packbits(bits.reshape(count, self.bits), axis=1, bitorder="little")[:, 0]
        if self.signed:
            return ((low << (8 - self.bits)).view(np.int8) >> (8 - self.bits)).astype(np.int8)
        return low

    def pack(self, values: np.ndarray[Any, np.dtype[Any]]) -> bytes:
        """The inverse of `unpack`."""
        import numpy as np

        if self.bits >= 8:
            return np.ascontiguousarray(values, self.dtype()).tobytes()
        elements = np.ascontiguousarray(values).reshape(-1, 1).astype(np.uint8)
        if 8 % self.bits == 0:  # shifts are faster than single bits
            each = 8 // self.bits
            padded = np.zeros(-(-len(elements) // each) * each, np.uint8)
            padded[: len(elements)] = elements[:, 0] & ((1 << self.bits) - 1)
            shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
            packed: bytes = np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1).astype(np.uint8).tobytes()
            return packed
        return np.packbits(
            np.unpackbits(elements, axis=1, bitorder="little")[:, : self.bits], bitorder="little"
        ).tobytes()


ELEMENT_TYPES = (
    ElementType("bool", 1, 8, "bool", None),
    ElementType("fp16", 10, 16, "float16", 1),
    ElementType("fp32", 11, 32, "float32", 2),
    ElementType("fp64", 12, 64, "float64", None),
    ElementType("bf16", 13, 16, "bfloat16", 5),
    ElementType("int8", 21, 8, "int8", 4),
    ElementType("int16", 22, 16, "int16", 6),
    ElementType("int32", 23, 32, "int32", 14),
    ElementType("int64", 24, 64, "int64", None),
    ElementType("int4", 25, 4, "int8", 8),
    ElementType("uint8", 31, 8, "uint8", 3),
    ElementType("uint16", 32, 16, "uint16", 7),
    ElementType("uint32", 33, 32, "uint32", 15),
    ElementType("uint64", 34, 64, "uint64", None),
    ElementType("uint4", 35, 4, "uint8", 11),
    ElementType("uint2", 36, 2, "uint8", 10),
    ElementType("uint1", 37, 1, "uint8", 9),
    ElementType("uint6", 38, 6, "uint8", 13),
    ElementType("uint3", 39, 3, "uint8", 12),
    ElementType("fp8_e4m3fn", 40, 8, "float8_e4m3fn", 16),
    ElementType("fp8_e5m2", 41, 8, "float8_e5m2", 17),
)

BY_CODE = {kind.code: kind for kind in ELEMENT_TYPES}
BY_NAME = {kind.name: kind for kind in ELEMENT_TYPES}
STRING = 2
"""Code of strings, which are immediate values only."""

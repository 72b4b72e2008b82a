"""safetensors files, of which only the header is read: what is in them, checked, and how one is laid out anew.

The format: https://github.com/huggingface/safetensors#format. A file is 8 bytes of header length, little-endian, a JSON
object, and the tensors without gaps. Everything is checked before a byte of a tensor is looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.errors import StepError
from hubpub.onnxfile import FileBytes
from hubpub.onnxfile.payload import open_regular

MAX_HEADER_BYTES = 100_000_000
"""As in the reference implementation."""

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of an element, by the name of its type."""

_MAX_RANK = 64
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Entry:
    """A tensor: its name, the name of its type, its shape and where its bytes are (None: not written yet)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: FileBytes | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that type and shape ask for."""
        bits = BITS[self.dtype]
        for size in self.shape:
            bits *= size
        return -(-bits // 8)


@dataclass(frozen=True)
class Header:
    """What a file says: its tensors in the order of their bytes, and its metadata."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check a file's header.

    Raises:
        OnnxFileError: the file cannot be read.
        StepError: it is not a sound safetensors file: cut short, not JSON, a key twice, an unknown type, a shape that
            does not fit its bytes, tensors that overlap, gaps, bytes that belong to no tensor.
    """
    where = path.name

    def broken(what: str) -> StepError:
        return StepError(f"not a sound safetensors file: {what}", where=where, fix="fetch it again, it is damaged")

    real = path.resolve()
    fd, size = open_regular(real)
    try:
        length = int.from_bytes(os.pread(fd, 8, 0), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise broken(f"a header of {length} bytes in a file of {size}")
        text = os.pread(fd, length, 8)
    finally:
        os.close(fd)
    if len(text) != length or text[:1] != b"{":
        raise broken("the header is not an object")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise broken(f"the header cannot be read ({' '.join(str(error).split())[:80]})") from None
    metadata = document.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise broken("its metadata are not texts by name")
    start, left = 8 + length, size - 8 - length
    entries = []
    end = 0
    for name, value in sorted(document.items(), key=lambda item: (_begin(item[1]), item[0])):
        try:
            name.encode("utf-8")
            entry, begin, stop = _entry(name, value, real, start)
        except (ValueError, UnicodeEncodeError) as error:
            raise broken(f"tensor {name[:80]!r}: {error}") from None
        if begin != end:
            raise broken(f"tensor {name[:80]!r} begins at byte {begin}, the one before ends at {end}")
        if stop > left:
            raise broken(f"tensor {name[:80]!r} ends at byte {stop} of {left}")
        entries.append(entry)
        end = stop
    if end != left:
        raise broken(f"{left - end} bytes belong to no tensor")
    return Header(tuple(entries), metadata)


def lay_out(entries: Iterable[Entry], metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a file and where in it each tensor begins.

    The order is that of the reference implementation: wide types first, so that all are aligned, then by name. The
    header is compact, its metadata sorted, and padded with blanks to a multiple of 8 bytes.
    """
    document: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    begins: dict[str, int] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: (-BITS[entry.dtype], entry.name)):
        begins[entry.name] = end
        end += entry.nbytes
        offsets = [begins[entry.name], end]
        document[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + begin for name, begin in begins.items()}


def _entry(name: str, value: Any, path: Path, start: int) -> tuple[Entry, int, int]:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("it must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"its type {str(dtype)[:40]!r} is not known")
    if not _counts(shape) or len(shape) > _MAX_RANK:
        raise ValueError("its shape cannot be")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError("its data_offsets cannot be")
    begin, stop = offsets
    entry = Entry(name, dtype, tuple(shape), FileBytes(path, start + begin, stop - begin))
    if entry.nbytes != stop - begin:
        raise ValueError(f"its shape {shape[:8]} as {dtype} needs {entry.nbytes} bytes, it has {stop - begin}")
    return entry, begin, stop


def _counts(values: Any) -> bool:
    """Whether it is a list of numbers that may count something."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _begin(value: Any) -> tuple[int, int]:
    """By which entries are ordered; what is not sound comes first, and is found to be so."""
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    return (offsets[0], offsets[1]) if _counts(offsets) and offsets and len(offsets) == 2 else (-1, -1)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")

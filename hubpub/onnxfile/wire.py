"""Protobuf's wire format, walked with every length checked: take bulk out of an ONNX file, put bulk back.

protobuf itself stops at 2 GB and holds all it reads. `strip` copies a model without the payload of its
large tensors, whatever the size of the file, and `splice` is its inverse. Both address a tensor by its
steps from the model, ``(("graph", 0), ("initializer", 3))``, so nothing in the file can claim another's bytes.

The format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from hubpub.errors import OnnxFileError

MAX_GRAPH_BYTES = 256 << 20
"""What may remain of a model when its large tensors are out; it is held in memory about three times."""

MAX_FIELDS = 2_000_000
"""Fields looked at in one file (a large model has some ten thousand); bounds the time for a hostile one."""

MAX_DEPTH = 100
"""Nested messages, protobuf's own default; an If inside an If takes four."""

Steps = tuple[tuple[str, int], ...]
"""The way from the model to a message: field name and index, one pair per level."""


class Child(NamedTuple):
    """A field whose message may hold a tensor."""

    name: str
    message: str
    repeated: bool


MESSAGES: dict[str, dict[int, Child]] = {
    "ModelProto": {
        7: Child("graph", "GraphProto", False),
        25: Child("functions", "FunctionProto", True),
        20: Child("training_info", "TrainingInfoProto", True),
    },
    "TrainingInfoProto": {1: Child("initialization", "GraphProto", False), 2: Child("algorithm", "GraphProto", False)},
    "GraphProto": {
        5: Child("initializer", "TensorProto", True),
        15: Child("sparse_initializer", "SparseTensorProto", True),
        1: Child("node", "NodeProto", True),
    },
    "FunctionProto": {7: Child("node", "NodeProto", True), 11: Child("attribute_proto", "AttributeProto", True)},
    "NodeProto": {5: Child("attribute", "AttributeProto", True)},
    "AttributeProto": {
        5: Child("t", "TensorProto", False),
        10: Child("tensors", "TensorProto", True),
        6: Child("g", "GraphProto", False),
        11: Child("graphs", "GraphProto", True),
        22: Child("sparse_tensor", "SparseTensorProto", False),
        23: Child("sparse_tensors", "SparseTensorProto", True),
    },
    "SparseTensorProto": {1: Child("values", "TensorProto", False), 2: Child("indices", "TensorProto", False)},
    "TensorProto": {},
}
"""Every way to a TensorProto, in the order in which tensors are numbered and packed."""

DATA_TYPE = 2
RAW_DATA = 9
PAYLOAD_FIELDS = {
    4: "float_data",
    5: "int32_data",
    7: "int64_data",
    RAW_DATA: "raw_data",
    10: "double_data",
    11: "uint64_data",
}
_ONE_ENTRY_PER_6_BITS = (27, 28)  # FLOAT6E2M3 and FLOAT6E3M2: int32_data is not the raw bytes, unlike for all others

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WINDOW = 16 << 10


class Cut(NamedTuple):
    """A payload left in the file: ``length`` bytes at ``offset``, as the field named encodes them."""

    field: str
    offset: int
    length: int


class Field(NamedTuple):
    """One field: its tag is at ``start``, its value in ``body:end``; ``value`` is that of a varint, else 0."""

    number: int
    wire: int
    start: int
    body: int
    end: int
    value: int


class Wire:
    """Fields of a message, each checked to lie inside it.

    Args:
        read: returns the bytes ``start:stop``, shorter if they are not there.
        size: bytes there are.
        where: the file, for errors.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, where: str) -> None:
        self.size = size
        self._read = read
        self._where = where
        self._window = b""
        self._base = 0
        self._fields = 0

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message at ``start:end``.

        Raises:
            OnnxFileError: one of them is cut short, runs past its message, or is of no known kind.
        """
        while start < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise self.broken(start, f"holds more than {MAX_FIELDS} fields")
            tag, body = self._varint(start, end)
            number, kind = tag >> 3, tag & 7
            value = 0
            if kind == _VARINT:
                value, stop = self._varint(body, end)
            elif kind == _BYTES:
                length, body = self._varint(body, end)
                stop = body + length
            elif kind in (_FIXED64, _FIXED32):
                stop = body + (8 if kind == _FIXED64 else 4)
            else:
                raise self.broken(start, f"wire type {kind} does not occur in ONNX")
            if not 0 < number < 1 << 29:
                raise self.broken(start, f"field number {number} does not exist")
            if stop > end:
                raise self.broken(start, f"field {number} ends at byte {stop}, its message at {end}")
            yield Field(number, kind, start, body, stop, value)
            start = stop

    def span(self, start: int, end: int) -> bytes:
        """The bytes ``start:end``, all of them."""
        data = self._read(start, end)
        if len(data) != end - start:
            raise self.broken(start + len(data), "the file ends here and did not when it was opened")
        return data

    def broken(self, offset: int, what: str) -> OnnxFileError:
        """The error for damage at ``offset``."""
        return OnnxFileError(
            f"not a sound ONNX model: at byte {offset} {what}",
            where=self._where,
            fix="fetch or export it again, it is damaged or not ONNX",
        )

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        value = 0
        for index in range(10):
            offset = start + index
            if offset >= end:
                raise self.broken(start, "a number is cut short")
            at = offset - self._base
            if not 0 <= at < len(self._window):
                self._window = self.span(offset, min(offset + _WINDOW, self.size))
                self._base, at = offset, 0
            byte = self._window[at]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value & (1 << 64) - 1, offset + 1
        raise self.broken(start, "a number is longer than 10 bytes")


def strip(wire: Wire, lazy_bytes: int) -> tuple[bytes, dict[Steps, Cut]]:
    """Copy a serialized ModelProto without the payloads of at least ``lazy_bytes`` (>= 1).

    A payload that a tensor holds in several pieces (legal, not seen in the wild) is not cut.

    Returns:
        The rest of the model, a complete ModelProto, and where the payloads lie.
    """
    cuts: dict[Steps, Cut] = {}
    kept = 0

    def keep(start: int, end: int) -> bytes:
        nonlocal kept
        kept += end - start
        if kept > MAX_GRAPH_BYTES:
            raise wire.broken(start, f"the graph without its large tensors is over {MAX_GRAPH_BYTES} bytes")
        return wire.span(start, end)

    def message(kind: str, start: int, end: int, steps: Steps) -> bytes:
        if len(steps) >= MAX_DEPTH:
            raise wire.broken(start, f"messages are nested more than {MAX_DEPTH} deep")
        if kind == "TensorProto":
            return tensor(start, end, steps)
        out = bytearray()
        verbatim = start
        seen: Counter[int] = Counter()
        for field in wire.fields(start, end):
            child = MESSAGES[kind].get(field.number)
            if child is None or field.wire != _BYTES:
                continue
            index = seen[field.number]
            seen[field.number] += 1
            if index and not child.repeated:  # protobuf would merge the two, and a payload would change owner
                raise wire.broken(field.start, f"{child.name} occurs twice in one {kind}")
            if field.end - field.body >= lazy_bytes:
                out += keep(verbatim, field.start)
                inner = message(child.message, field.body, field.end, (*steps, (child.name, index)))
                out += _head(field.number, len(inner)) + inner
                verbatim = field.end
        return bytes(out + keep(verbatim, end))

    def tensor(start: int, end: int, steps: Steps) -> bytes:
        field: Field | None = None
        pieces = element = 0
        for part in wire.fields(start, end):
            if part.number in PAYLOAD_FIELDS:
                field = part
                pieces += 1
            elif part.number == DATA_TYPE:
                element = part.value
        if field and pieces == 1:
            name = PAYLOAD_FIELDS[field.number]
            plain = not (name == "int32_data" and element in _ONE_ENTRY_PER_6_BITS)
            if plain and field.wire == _BYTES and field.end - field.body >= lazy_bytes:
                cuts[steps] = Cut(name, field.body, field.end - field.body)
                return keep(start, field.start) + keep(field.end, end)
        return keep(start, end)

    return message("ModelProto", 0, wire.size, ()), cuts


class Hole(NamedTuple):
    """Where in a serialized model the ``nbytes`` of the tensor at ``steps`` belong."""

    steps: Steps
    nbytes: int


def splice(model: bytes, raw: Mapping[Steps, int], where: str) -> tuple[list[bytes | Hole], int]:
    """Make room for the ``raw_data`` of tensors that have none, without ever holding it.

    Args:
        model: a serialized ModelProto.
        raw: bytes that the tensor at each of these steps shall have.
        where: the file, for errors.

    Returns:
        Pieces that make up the model in order, and the bytes they come to. Filled with the payloads they are
        what protobuf's own serializer would have written.
    """
    wire = Wire(lambda start, end: model[start:end], len(model), where)
    on_the_way = {steps[:depth] for steps in raw for depth in range(len(steps) + 1)}

    def message(kind: str, start: int, end: int, steps: Steps) -> tuple[list[bytes | Hole], int]:
        if steps in raw:
            return tensor(start, end, steps)
        pieces: list[bytes | Hole] = []
        size = 0
        verbatim = start
        seen: Counter[int] = Counter()
        for field in wire.fields(start, end):
            child = MESSAGES[kind].get(field.number)
            if child is None or field.wire != _BYTES:
                continue
            inner_steps = (*steps, (child.name, seen[field.number]))
            seen[field.number] += 1
            if inner_steps in on_the_way:
                inner, inner_size = message(child.message, field.body, field.end, inner_steps)
                before = model[verbatim : field.start] + _head(field.number, inner_size)
                pieces += [before, *inner]
                size += len(before) + inner_size
                verbatim = field.end
        pieces.append(model[verbatim:end])
        return pieces, size + end - verbatim

    def tensor(start: int, end: int, steps: Steps) -> tuple[list[bytes | Hole], int]:
        # Fields are written in the order of their numbers.
        at = next((field.start for field in wire.fields(start, end) if field.number > RAW_DATA), end)
        before = model[start:at] + _head(RAW_DATA, raw[steps])
        return [before, Hole(steps, raw[steps]), model[at:end]], len(before) + raw[steps] + end - at

    return message("ModelProto", 0, len(model), ()) if raw else ([model], len(model))


def _head(number: int, length: int) -> bytes:
    return _encode(number << 3 | _BYTES) + _encode(length)


def _encode(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

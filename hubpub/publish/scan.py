"""Looks for secrets in the files of a release: all of what is text, and the text that binary formats carry.

Weights are told by their content, whatever they are called: of them only the header, the metadata or the graph is
read. Memory is bounded by a window, or by the graph of one model.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.errors import OnnxFileError
from hubpub.onnxfile.interface import graph_bytes, parse_graph
from hubpub.publish.secrets import OVERLAP, Secret, find
from hubpub.report import Reporter

WINDOW = 1 << 20
"""Bytes read at once."""

HEAD = 1 << 20
"""Of large binary files of no format that we know, so many bytes at either end are looked at."""

WHOLE = 16 << 20
"""Smaller ones are looked at from end to end."""

GGUF_METADATA = 64 << 20
"""Metadata and names of tensors stand at the start of a GGUF file; a vocabulary makes them large."""

_SAMPLE = 64 << 10
_BOMS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


@dataclass(frozen=True)
class Found:
    """A secret in a file; ``place`` is a line, or a field of a model."""

    place: str
    secret: Secret


def secrets_in(folder: Path, names: Iterable[str], reporter: Reporter) -> list[str]:
    """A line for every secret in the named files of ``folder``; what is not there is passed over."""
    lines: list[str] = []
    for name in names:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            continue
        for found in scan(path):
            lines.append(
                f"{name}{found.place}: holds what looks like a secret: {found.secret.kind} ({found.secret.hint}…); "
                "revoke it where it was issued, take it out, and build again"
            )
        reporter.advance(path.stat().st_size)
    return lines


def scan(path: Path) -> Iterator[Found]:
    """Every secret in the text that the file ``path`` holds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        sample = file.read(_SAMPLE)
    if encoding := _encoding(sample):
        yield from _lines(path, encoding)
    elif path.suffix == ".onnx" or sample[:1] == b"\x08":
        try:
            yield from _model(path)
        except OnnxFileError:  # not a model, or a damaged one
            yield from _binary(path, sample, size)
    else:
        yield from _binary(path, sample, size)


def _encoding(sample: bytes) -> str | None:
    """How the text is to be read; None for what is no text. UTF-8 is read as Latin-1: secrets are ASCII."""
    if encoding := _BOMS.get(sample[:2]):
        return encoding
    if b"\0" not in sample:
        control = sum(sample.count(byte) for byte in _CONTROL)
        return "latin-1" if control <= len(sample) // 100 else None
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if even + odd >= len(sample) // 3 and min(even, odd) <= max(even, odd) // 20:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


_CONTROL = [bytes([byte]) for byte in range(32) if byte not in b"\t\n\r\f\b\x1b"]


def _lines(path: Path, encoding: str) -> Iterator[Found]:
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        windows = iter(lambda: file.read(WINDOW), "")
        for line, secret in _stream(windows):
            yield Found(f":{line}", secret)


def _stream(windows: Iterator[str], *, glued: bool = False) -> Iterator[tuple[int, Secret]]:
    """Line (from 1) and secret; what crosses the edge of a window is found once."""
    kept, line, done = "", 1, 0
    window = next(windows, "")
    while window:
        following = next(windows, "")
        text = kept + window
        stop = len(text) - OVERLAP if following else len(text)
        if stop > done:
            at = 0
            for secret in sorted(find(text, glued=glued), key=lambda secret: secret.start):
                if done <= secret.start < stop:
                    line += text.count("\n", at, secret.start)
                    at = secret.start
                    yield line, secret
            cut = max(stop - _CONTEXT, 0)
            line += text.count("\n", at, cut) if cut >= at else -text.count("\n", cut, at)
            kept, done = text[cut:], stop - cut
        else:
            kept = text
        window = following


_CONTEXT = 16
"""Characters before a secret that tell whether it stands alone."""


def _binary(path: Path, sample: bytes, size: int) -> Iterator[Found]:
    for start, stop in _spans(path, sample, size):
        for _, secret in _stream(_pieces(path, start, stop), glued=True):
            yield Found("", secret)


def _spans(path: Path, sample: bytes, size: int) -> list[tuple[int, int]]:
    """The parts of a binary file that may hold text."""
    header = int.from_bytes(sample[:8], "little")
    if sample[8:9] == b"{" and 8 + header <= size:  # safetensors
        return [(8, 8 + header)]
    if sample[:4] == b"GGUF":
        return [(0, min(size, GGUF_METADATA))]
    if sample[:6] == b"\x93NUMPY":
        return [(0, min(size, _SAMPLE))]
    if size <= WHOLE or path.suffix == ".mlmodel":
        return [(0, size)]
    return [(0, HEAD), (size - HEAD, size)]


def _pieces(path: Path, start: int, stop: int) -> Iterator[str]:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while start < stop and (data := file.read(min(WINDOW, stop - start))):
            start += len(data)
            yield _worth_reading(data).decode("latin-1")


_PRINTABLE = bytes(32 <= byte < 127 for byte in range(256))


def _worth_reading(data: bytes) -> bytes:
    """``data``, or its ends alone where no stretch of it could be a secret: weights are passed over at once."""
    if b"\1" * _SHORTEST in data.translate(_PRINTABLE):
        return data
    return data[:_SHORTEST] + b"\0" + data[-_SHORTEST:]


def _model(path: Path) -> Iterator[Found]:
    """Secrets in any string of an ONNX file but its large tensors; then in what the schema does not know."""
    data = graph_bytes(path)
    text, places = _strings(parse_graph(data, str(path)))
    starts = [start for start, _ in places]
    kinds = set()
    for secret in find(text):
        kinds.add(secret.kind)
        yield Found(f": {places[bisect_right(starts, secret.start) - 1][1]}", secret)
    windows = (data[at : at + WINDOW].decode("latin-1") for at in range(0, len(data), WINDOW))
    for _, secret in _stream(windows, glued=True):
        if secret.kind not in kinds:
            yield Found(": in its graph", secret)


def _strings(model: Any) -> tuple[str, list[tuple[int, str]]]:
    """All texts of a protobuf message, a line each, and where each begins: offset and field."""
    parts: list[str] = []
    places: list[tuple[int, str]] = []
    offset = 0

    def add(value: str | bytes, place: str) -> None:
        nonlocal offset
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if len(text) >= _SHORTEST:
            places.append((offset, place))
            parts.append(text)
            offset += len(text) + 1

    pending: list[tuple[Any, str]] = [(model, "")]
    while pending:
        message, path = pending.pop()
        if type(message).__name__ == "StringStringEntryProto":  # together, so that names such as api_key count
            add(f'"{message.key}": "{message.value}"', f"{path.rstrip('.')} ({message.key[:60]!r})")
            continue
        for field, value in message.ListFields():
            if field.type not in (field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_MESSAGE):
                continue
            several = not isinstance(value, str | bytes) and not hasattr(value, "ListFields")
            for index, each in enumerate(value if several else (value,)):
                place = f"{path}{field.name}[{index}]" if several else f"{path}{field.name}"
                if field.type == field.TYPE_MESSAGE:
                    pending.append((each, f"{place}."))
                else:
                    add(each, place)
    return "\n".join(parts), places


_SHORTEST = 16

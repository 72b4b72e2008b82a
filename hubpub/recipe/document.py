"""YAML as data with the place of every value, so that each error can name file, line and column.

YAML 1.2's core schema is used (``no`` is a word, ``on`` is a key, dates are text). Duplicate keys are refused, aliases
are allowed but what they unfold to is bounded, and nothing is ever constructed but plain data.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hubpub.errors import Problem, RecipeError

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 40

Loc = tuple[str | int, ...]
"""Where a value stands: keys and indices from the root."""


_CORE = "tag:yaml.org,2002:"
_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", "~nN", lambda _: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "int": (
        r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
        "-+0123456789",
        lambda text: int(text, 0) if text[:2] in ("0o", "0x") else int(text),
    ),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
    "str": (r"[\s\S]*", "", str),
}
"""Tag → pattern, first characters, conversion: YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema)."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that knows these scalars, and no others."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own class attribute)


for _tag, (_pattern, _first, _) in _SCALARS.items():
    if _first:
        _Loader.add_implicit_resolver(f"{_CORE}{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver(f"{_CORE}null", re.compile("^$"), [""])


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data.

    ``places`` gives (line, column), from 1, of each value's key or item; ``written`` how what is not text stands in the
    file (``0.10``, ``true``); ``lone`` which of these values came from a placeholder that stood alone.
    """

    path: Path
    data: Any
    places: dict[Loc, tuple[int, int]]
    written: dict[Loc, str] = field(default_factory=dict)
    lone: frozenset[Loc] = frozenset()

    def place(self, loc: Loc) -> tuple[int, int]:
        """The place of ``loc``, or of the nearest enclosing value that has one."""
        while loc and loc not in self.places:
            loc = loc[:-1]
        return self.places.get(loc, (1, 1))

    def problem(self, loc: Loc, message: str) -> Problem:
        """A `Problem` at ``loc``."""
        line, column = self.place(loc)
        return Problem(str(self.path), line, column, dotted(loc), one_line(message))


def one_line(text: str) -> str:
    """``text`` with everything escaped that would break the line or the terminal, and shortened when very long."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:1000])
    return shown if len(text) <= 1000 else f"{shown}…"


def dotted(loc: Loc) -> str:
    """``("files", "a.onnx", "chain", 0)`` as ``files.a.onnx.chain[0]``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return one_line(text)


def read_document(path: Path) -> Document:
    """Read ``path``.

    Raises:
        RecipeError: it cannot be read, is too large, or is not the YAML we accept; all duplicate keys at once.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)  # no more, whatever it is
    except (OSError, ValueError) as error:  # a name with NUL is a ValueError
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise RecipeError([Problem(str(path), 0, 0, "", message)]) from error
    return parse_document(path, raw)


def parse_document(path: Path, raw: bytes) -> Document:
    """Parse ``raw`` as the content of ``path``; see `read_document`."""

    def fail(message: str, line: int = 0, column: int = 0) -> RecipeError:
        return RecipeError([Problem(str(path), line, column, "", one_line(message))])

    if len(raw) > MAX_BYTES:
        raise fail(f"has more than {MAX_BYTES} bytes, which is all that a recipe may have")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        raise fail("is not UTF-8", before.count(b"\n") + 1, error.start - before.rfind(b"\n")) from error
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        before_it = text[: error.position]
        line, column = before_it.count("\n") + 1, error.position - before_it.rfind("\n")
        raise fail(f"not valid YAML: the character {error.character:#06x} is not allowed", line, column) from error
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or loader.get_mark()
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise fail(f"not valid YAML: {problem}", mark.line + 1, mark.column + 1) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML does not check the range of "\UFFFFFFFF"
        mark = loader.get_mark()
        raise fail(f"not valid YAML: {error}", mark.line + 1, mark.column + 1) from error
    except RecursionError as error:
        raise fail("is nested too deeply") from error
    finally:
        loader.dispose()
    if root is None:
        raise fail("is empty")
    reader = _Reader(path)
    data = reader.read(root, (), 0)
    if reader.problems:
        raise RecipeError(reader.problems)
    return Document(path, data, reader.places, reader.written)


class _Reader:
    """Turns YAML nodes into data, noting places and problems."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[Loc, tuple[int, int]] = {}
        self.written: dict[Loc, str] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def problem(self, node: yaml.Node, loc: Loc, message: str) -> None:
        mark = node.start_mark
        self.problems.append(Problem(str(self.path), mark.line + 1, mark.column + 1, dotted(loc), one_line(message)))

    def read(self, node: yaml.Node, loc: Loc, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            message = f"unfolds to more than {MAX_NODES} values or {MAX_DEPTH} levels; are aliases nested?"
            self.problem(node, loc[:3], message)
            raise RecipeError(self.problems)
        self.places.setdefault(loc, (node.start_mark.line + 1, node.start_mark.column + 1))
        kind = node.tag.removeprefix(_CORE)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.read_mapping(node, loc, depth)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.read(item, (*loc, index), depth + 1) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            return self.read_scalar(node, loc, kind)
        self.problem(node, loc, f"the tag {node.tag.replace(_CORE, '!!')} is not allowed")
        return None

    def read_scalar(self, node: yaml.ScalarNode, loc: Loc, kind: str) -> Any:
        text: str = node.value
        pattern, _, convert = _SCALARS[kind]
        if wrong := _unwanted(text, "\t\n\r\x85"):
            self.problem(node, loc, wrong)
        elif kind == "str":
            return text
        elif len(text) > 100 or not re.fullmatch(pattern, text):  # a tag may claim what is not so
            self.problem(node, loc, f"{text[:100]!r} is not a valid {kind}")
        elif isinstance(value := convert(text), float) and not math.isfinite(value):
            self.problem(node, loc, f"{text} is not a finite number")
        else:
            self.written[loc] = text
            return value
        return None

    def read_mapping(self, node: yaml.MappingNode, loc: Loc, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.removeprefix(_CORE) not in _SCALARS:
                self.problem(key_node, loc, "a key must be text")
                continue
            key = key_node.value
            if wrong := _unwanted(key, ""):
                self.problem(key_node, (*loc, key), wrong)
            elif key == "<<" and key_node.style is None:
                message = "merge keys (<<) are not in YAML 1.2: give the whole mapping an alias, or write its keys out"
                self.problem(key_node, (*loc, key), message)
            elif key in data:
                first = self.places[(*loc, key)][0]
                self.problem(key_node, (*loc, key), f"duplicate key; it stands in line {first} already")
            else:
                self.places[(*loc, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
                data[key] = self.read(value_node, (*loc, key), depth + 1)
        return data


def _unwanted(text: str, allowed: str) -> str | None:
    """What an escape put into ``text`` that no file, card or command line should hold."""
    for char in text:
        if char not in allowed and unicodedata.category(char) in ("Cc", "Cs"):
            what = "control character" if unicodedata.category(char) == "Cc" else "half of a surrogate pair"
            return f"holds the {what} U+{ord(char):04X}"
    return None

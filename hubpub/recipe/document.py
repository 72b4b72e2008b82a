"""YAML as data with the place of every value, so that each error can name file, line and column.

YAML 1.2's core schema is used (``no`` is a word, ``on`` is a key, dates are text). Duplicate keys are refused, aliases are
allowed but what they unfold to is bounded, and nothing is ever constructed but plain data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hubpub.errors import Problem, RecipeError

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 40

Loc = tuple[str | int, ...]
"""Where a value stands: keys and indices from the root."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema)."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own class attribute)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data; ``places`` gives (line, column), from 1, of each value's key or item."""

    path: Path
    data: Any
    places: dict[Loc, tuple[int, int]]

    def place(self, loc: Loc) -> tuple[int, int]:
        """The place of ``loc``, or of the nearest enclosing value that has one."""
        while loc and loc not in self.places:
            loc = loc[:-1]
        return self.places.get(loc, (1, 1))

    def problem(self, loc: Loc, message: str) -> Problem:
        """A `Problem` at ``loc``."""
        line, column = self.place(loc)
        return Problem(str(self.path), line, column, dotted(loc), message)


def dotted(loc: Loc) -> str:
    """``("files", "a.onnx", "chain", 0)`` as ``files.a.onnx.chain[0]``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: Path) -> Document:
    """Read ``path``.

    Raises:
        RecipeError: it cannot be read, is too large, or is not the YAML we accept; all duplicate keys at once.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise RecipeError([Problem(str(path), 0, 0, "", message)]) from error
    return parse_document(path, raw)


def parse_document(path: Path, raw: bytes) -> Document:
    """Parse ``raw`` as the content of ``path``; see `read_document`."""

    def fail(message: str, mark: yaml.Mark | None = None) -> RecipeError:
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        return RecipeError([Problem(str(path), line, column, "", message)])

    if len(raw) > MAX_BYTES:
        raise fail(f"is {len(raw)} bytes; a recipe may have {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fail(f"is not UTF-8 (byte {error.start})") from error
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise fail(f"not valid YAML: {problem}", error.problem_mark) from error
    except yaml.YAMLError as error:
        raise fail(f"not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise fail("is nested too deeply") from error
    if root is None:
        raise fail("is empty")
    reader = _Reader(path)
    data = reader.read(root, (), 0)
    if reader.problems:
        raise RecipeError(reader.problems)
    return Document(path, data, reader.places)


class _Reader:
    """Turns YAML nodes into data, noting places and problems."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[Loc, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.count = 0
        self.scalars = yaml.constructor.SafeConstructor()

    def problem(self, node: yaml.Node, loc: Loc, message: str) -> None:
        mark = node.start_mark
        self.problems.append(Problem(str(self.path), mark.line + 1, mark.column + 1, dotted(loc), message))

    def read(self, node: yaml.Node, loc: Loc, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            message = f"unfolds to more than {MAX_NODES} values or {MAX_DEPTH} levels; are aliases nested?"
            self.problem(node, loc, message)
            raise RecipeError(self.problems)
        self.places.setdefault(loc, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.MappingNode):
            return self.read_mapping(node, loc, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*loc, index), depth + 1) for index, item in enumerate(node.value)]
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rsplit(":", 1)[1] not in _SCALARS:
            self.problem(node, loc, f"the tag {node.tag} is not allowed")
            return None
        try:
            return _SCALARS[node.tag.rsplit(":", 1)[1]](node.value)
        except ValueError:
            self.problem(node, loc, f"{node.value!r} is not a {node.tag.rsplit(':', 1)[1]}")
            return None

    def read_mapping(self, node: yaml.MappingNode, loc: Loc, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, loc, "a key must be text")
                continue
            key = key_node.value
            if key in data:
                first = self.places[(*loc, key)][0]
                self.problem(key_node, (*loc, key), f"duplicate key; it stands in line {first} already")
                continue
            self.places[(*loc, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            data[key] = self.read(value_node, (*loc, key), depth + 1)
        return data


def _int(text: str) -> int:
    if len(text) > 100:
        raise ValueError(text)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": _int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
}

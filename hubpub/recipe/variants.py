"""The matrix: entries that speak of ``${name}`` are written out once per variant; equal ones become one.

A variant is a name with values. ``${variant}`` stands for its name, ``${key}`` for one of its values, ``$$`` for a
dollar sign. A text that is nothing but one placeholder takes the value's own type (unless text is wanted there); within
other text the value is spelt as the recipe spells it. Entries of `EXPANDED` sections are written out for every variant:
where all variants give the same entry it is shared, so its step runs once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hubpub.errors import Problem, RecipeError, nearest
from hubpub.recipe.document import MAX_NODES, Document, Loc

EXPANDED = ("steps", "files", "choices", "measure", "gates")
_PLACEHOLDER = re.compile(r"\$(?:\$|\{([^{}]*)\}|\{)")


def expand(document: Document) -> tuple[Document, dict[str, dict[str, tuple[str, ...]]]]:
    """Write out the variants of a recipe.

    Returns:
        The document without placeholders, and per section and entry the variants that it belongs to
        (no variants at all: an empty tuple).

    Raises:
        RecipeError: a placeholder that no variant knows; variants that give one name different contents.
    """
    data = document.data
    if not isinstance(data, dict):
        raise RecipeError([document.problem((), "a recipe is a mapping with `version: 1` at the top")])
    work = _Expansion(document)
    result = dict(data)
    owners: dict[str, dict[str, tuple[str, ...]]] = {}
    for section in EXPANDED:
        if isinstance(data.get(section), dict):
            result[section], owners[section] = work.section(section, data[section])
        elif isinstance(data.get(section), list):
            result[section] = work.items(section, data[section])
    if wrong := work.wrong():
        raise RecipeError(report(document, wrong))
    done = work.done
    return Document(document.path, result, done.places, done.written, frozenset(done.lone)), owners


def report(document: Document, found: Iterable[tuple[Loc, str]]) -> list[Problem]:
    """The problems in the order of the file; what is wrong with an entry that variants share is told once."""
    once: dict[tuple[int, int, Loc, str], Problem] = {}
    for loc, message in found:
        problem = document.problem(loc, message)
        within = loc[2:] if loc[:1] in {(name,) for name in EXPANDED} else loc
        once.setdefault((problem.line, problem.column, within, message), problem)
    return sorted(once.values(), key=lambda problem: (problem.line, problem.column, problem.field, problem.message))


@dataclass(frozen=True)
class _Value:
    data: Any
    text: str
    """How the recipe spells it."""


_Variant = dict[str, _Value]


@dataclass
class _Trace:
    """Where the values of what was written out come from; see `Document`."""

    places: dict[Loc, tuple[int, int]] = field(default_factory=dict)
    written: dict[Loc, str] = field(default_factory=dict)
    lone: set[Loc] = field(default_factory=set)

    def add(self, other: _Trace) -> None:
        self.places |= other.places
        self.written |= other.written
        self.lone |= other.lone


class _Expansion:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0
        self.conflicts: list[tuple[Loc, str]] = []
        self.unknown: dict[tuple[Loc, str], dict[str, _Variant]] = {}
        self.matrix = self._matrix()
        self.done = _Trace(
            {loc: place for loc, place in document.places.items() if loc[:1] not in {(name,) for name in EXPANDED}},
            {loc: text for loc, text in document.written.items() if loc[:1] not in {(name,) for name in EXPANDED}},
        )
        for section in EXPANDED:
            if (section,) in document.places:
                self.done.places[(section,)] = document.places[(section,)]

    def _matrix(self) -> dict[str, _Variant]:
        declared = self.document.data.get("variants")
        matrix: dict[str, _Variant] = {}
        for name, values in declared.items() if isinstance(declared, dict) else ():
            matrix[name] = {"variant": _Value(name, name)}
            for key, value in values.items() if isinstance(values, dict) else ():
                if key == "variant":
                    self.conflict(("variants", name, key), "is the variant's own name; call this value something else")
                else:
                    text = self.document.written.get(("variants", name, key), str(value))
                    matrix[name][key] = _Value(value, text)
        return matrix or {"": {}}

    def section(self, section: str, entries: dict[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
        written: dict[str, Any] = {}
        owners: dict[str, tuple[str, ...]] = {}
        made_by: dict[str, str] = {}
        for name, entry in entries.items():
            loc: Loc = (section, name)
            for variant, values in self.matrix.items():
                trace = _Trace()
                new_name = self.text(name, values, loc)
                new = self.fill(entry, values, loc, (section, new_name), trace)
                mine = (variant,) if variant else ()
                if new_name not in written:
                    written[new_name], owners[new_name], made_by[new_name] = new, mine, name
                    self.done.add(trace)
                elif made_by[new_name] != name:
                    self.conflict(loc, f"gives the name {new_name!r}, and so does the entry {made_by[new_name]!r}")
                elif repr(written[new_name]) == repr(new):  # not ==, for which 1 is True
                    owners[new_name] += mine
                else:
                    message = f"{new_name!r} means something else for {owners[new_name][0]} and for {variant}"
                    self.conflict(loc, f"{message}; put a placeholder that tells them apart into its name")
        return written, owners

    def items(self, section: str, items: list[Any]) -> list[Any]:
        written: list[Any] = []
        seen: set[str] = set()
        for index, item in enumerate(items):
            for values in self.matrix.values():
                trace = _Trace()
                new = self.fill(item, values, (section, index), (section, len(written)), trace)
                if repr(new) not in seen:
                    seen.add(repr(new))
                    written.append(new)
                    self.done.add(trace)
        return written

    def fill(self, value: Any, values: _Variant, loc: Loc, new_loc: Loc, trace: _Trace) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise RecipeError(
                [self.document.problem(loc[:1], f"the variants unfold it to more than {MAX_NODES} values")]
            )
        trace.places[new_loc] = self.document.place(loc)
        if isinstance(value, dict):
            filled: dict[str, Any] = {}
            for key, item in value.items():
                new_key = self.text(key, values, (*loc, key))
                if new_key in filled:
                    self.conflict((*loc, key), f"gives the key {new_key!r} a second time")
                filled[new_key] = self.fill(item, values, (*loc, key), (*new_loc, new_key), trace)
            return filled
        if isinstance(value, list):
            return [
                self.fill(item, values, (*loc, index), (*new_loc, index), trace) for index, item in enumerate(value)
            ]
        if not isinstance(value, str):
            trace.written[new_loc] = self.document.written.get(loc, str(value))
            return value
        whole = _PLACEHOLDER.fullmatch(value)
        known = values.get(whole.group(1) or "") if whole else None
        if known is None:
            return self.text(value, values, loc)
        if not isinstance(known.data, str):
            trace.written[new_loc] = known.text
            trace.lone.add(new_loc)
        return known.data

    def text(self, text: str, values: _Variant, loc: Loc) -> str:
        def lookup(match: re.Match[str]) -> str:
            name = match.group(1)
            if match.group() == "$$":
                return "$"
            if name is None:
                self.conflict(loc, "`${` is not closed; write `$${` for the characters themselves")
                return ""
            if name not in values:
                self.unknown.setdefault((loc, name), {})[values["variant"].data if values else ""] = values
                return ""
            return values[name].text

        return _PLACEHOLDER.sub(lookup, text)

    def conflict(self, loc: Loc, message: str) -> None:
        self.conflicts.append((loc, message))

    def wrong(self) -> list[tuple[Loc, str]]:
        """Unknown placeholders; where there are none, what they would only have led to."""
        return [(loc, self._explain(name, lacking)) for (loc, name), lacking in self.unknown.items()] or self.conflicts

    def _explain(self, name: str, lacking: dict[str, _Variant]) -> str:
        if "" in lacking:
            return f"${{{name}}} stands for a value of a variant, and there are none; write $$ for a dollar sign"
        known = sorted({key for values in lacking.values() for key in values})
        hint = nearest(name, known) or f"; known here: {', '.join(known)}"
        everywhere = len(lacking) == len(self.matrix)
        return f"there is no value {name!r} in {'any variant' if everywhere else ', '.join(lacking)}{hint}"

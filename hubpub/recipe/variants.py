"""The matrix: entries that speak of ``${name}`` are written out once per variant; equal ones become one.

A variant is a name with values. ``${variant}`` stands for its name, ``${key}`` for one of its values; a text that is nothing
but one placeholder takes the value's own type. Entries of `EXPANDED` sections are written out for every variant: where
all variants give the same entry it is shared, so its step runs once.
"""

from __future__ import annotations

import re
from typing import Any

from hubpub.errors import Problem, RecipeError
from hubpub.recipe.document import Document, Loc

EXPANDED = ("steps", "files", "measure")
_PLACEHOLDER = re.compile(r"\$(?:\$|\{([^}]*)\})")


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
    declared = data.get("variants", {})
    matrix: dict[str, dict[str, Any]] = {}
    if isinstance(declared, dict):
        for name, values in declared.items():
            matrix[name] = {**(values if isinstance(values, dict) else {}), "variant": name}
    work = _Expansion(document)
    result = dict(data)
    owners: dict[str, dict[str, tuple[str, ...]]] = {}
    for section in EXPANDED:
        if isinstance(data.get(section), dict):
            result[section], owners[section] = work.section(section, data[section], matrix)
    if isinstance(data.get("gates"), list):
        result["gates"] = work.items(("gates",), data["gates"], matrix)
    if work.problems:
        raise RecipeError(work.problems)
    return Document(document.path, result, work.places), owners


class _Expansion:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.places = dict(document.places)
        self.problems: list[Problem] = []

    def section(
        self, section: str, entries: dict[str, Any], matrix: dict[str, dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
        written: dict[str, Any] = {}
        owners: dict[str, tuple[str, ...]] = {}
        made_by: dict[str, str] = {}
        for name, entry in entries.items():
            loc: Loc = (section, name)
            for variant, values in (matrix or {"": {}}).items():
                new_name = str(self.fill(name, values, loc))
                new = self.fill_all(entry, values, loc, (section, new_name))
                self.places[(section, new_name)] = self.document.place(loc)
                mine = (variant,) if variant else ()
                if new_name not in written:
                    written[new_name], owners[new_name], made_by[new_name] = new, mine, name
                elif made_by[new_name] == name and written[new_name] == new:
                    owners[new_name] += mine
                else:
                    other = owners[new_name][0] if made_by[new_name] == name else f"entry {made_by[new_name]}"
                    message = f"{new_name} means something else for {other} and for {variant}"
                    self.report(loc, f"{message}; put a placeholder that tells them apart into its name")
        return written, owners

    def items(self, loc: Loc, items: list[Any], matrix: dict[str, dict[str, Any]]) -> list[Any]:
        written: list[Any] = []
        for index, item in enumerate(items):
            for values in (matrix or {"": {}}).values():
                new_loc = (*loc, len(written))
                new = self.fill_all(item, values, (*loc, index), new_loc)
                if new not in written:
                    self.places[new_loc] = self.document.place((*loc, index))
                    written.append(new)
        return written

    def fill_all(self, value: Any, values: dict[str, Any], loc: Loc, new_loc: Loc) -> Any:
        self.places.setdefault(new_loc, self.document.place(loc))
        if isinstance(value, dict):
            return {
                str(self.fill(key, values, (*loc, key))): self.fill_all(
                    item, values, (*loc, key), (*new_loc, str(self.fill(key, values, (*loc, key))))
                )
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.fill_all(item, values, (*loc, index), (*new_loc, index)) for index, item in enumerate(value)]
        return self.fill(value, values, loc) if isinstance(value, str) else value

    def fill(self, text: str, values: dict[str, Any], loc: Loc) -> Any:
        def lookup(match: re.Match[str]) -> Any:
            name = match.group(1)
            if name is None:
                return "$"
            if name not in values:
                known = ", ".join(sorted(values)) or "none, for there are no variants"
                self.report(loc, f"no variant has a value ${{{name}}}; known here: {known}")
                return ""
            return values[name]

        whole = _PLACEHOLDER.fullmatch(text)
        if whole:
            return lookup(whole)
        return _PLACEHOLDER.sub(lambda match: str(lookup(match)), text)

    def report(self, loc: Loc, message: str) -> None:
        problem = self.document.problem(loc, message)
        if problem not in self.problems:
            self.problems.append(problem)

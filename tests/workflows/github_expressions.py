"""The part of GitHub's expressions that our workflows use; anything else is an error, never a guess.

https://docs.github.com/en/actions/reference/workflows-and-actions/expressions
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|&&|\|\||==|!=|[!(),]|[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)")
STATUS = ("always", "cancelled", "failure", "success")
"""Functions whose absence from an ``if`` puts ``success() &&`` before it."""

Contexts = Mapping[str, Any]
Functions = Mapping[str, Callable[..., Any]]


def interpolate(text: str, contexts: Contexts, functions: Functions) -> str:
    """``text`` with every ``${{ }}`` replaced by what it comes to, as GitHub writes it."""

    def written(match: re.Match[str]) -> str:
        value = evaluate(match[1], contexts, functions)
        return value if isinstance(value, str) else json.dumps(value) if isinstance(value, bool) else _text(value)

    return re.sub(r"\$\{\{(.*?)\}\}", written, text)


def evaluate(text: str, contexts: Contexts, functions: Functions) -> Any:
    """The value of one expression.

    Raises:
        ValueError: it uses what is not known here.
    """
    return _Parser(text, contexts, functions).whole()


def condition(text: str, contexts: Contexts, functions: Functions) -> bool:
    """An ``if``, with or without ``${{ }}``."""
    bare = text.strip()
    if bare.startswith("${{") and bare.endswith("}}"):
        bare = bare[3:-2]
    asks = any(re.search(rf"\b{name}\s*\(", bare) for name in STATUS)
    return bool((asks or functions["success"]()) and _truth(evaluate(bare, contexts, functions)))


def _text(value: Any) -> str:
    if value is None:
        return ""
    raise ValueError(f"{value!r} has no text here")


def _truth(value: Any) -> bool:
    return value not in (None, False, "", 0)


class _Parser:
    def __init__(self, text: str, contexts: Contexts, functions: Functions) -> None:
        self._tokens: list[str] = []
        self._contexts, self._functions = contexts, functions
        position, text = 0, text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ValueError(f"{text[position:]!r} is not known here")
            self._tokens.append(match[1])
            position = match.end()

    def whole(self) -> Any:
        value = self._either()
        if self._tokens:
            raise ValueError(f"{self._tokens} is left over")
        return value

    def _next(self, *wanted: str) -> str | None:
        return self._tokens.pop(0) if self._tokens and self._tokens[0] in wanted else None

    def _either(self) -> Any:
        value = self._both()
        while self._next("||"):
            other = self._both()
            value = value if _truth(value) else other
        return value

    def _both(self) -> Any:
        value = self._comparison()
        while self._next("&&"):
            other = self._comparison()
            value = other if _truth(value) else value
        return value

    def _comparison(self) -> Any:
        value = self._single()
        if sign := self._next("==", "!="):
            other = self._single()
            if not (isinstance(value, str | None) and isinstance(other, str)):
                raise ValueError(f"{value!r} {sign} {other!r}: only texts are compared here")
            return ((value or "").lower() == other.lower()) == (sign == "==")
        return value

    def _single(self) -> Any:
        if self._next("!"):
            return not _truth(self._single())
        if self._next("("):
            value = self._either()
            self._expect(")")
            return value
        if not self._tokens:
            raise ValueError("something is missing at the end")
        token = self._tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if self._next("("):
            return self._call(token)
        return self._look_up(token)

    def _call(self, name: str) -> Any:
        arguments = []
        while not self._next(")"):
            arguments.append(self._either())
            self._next(",")
        if name not in self._functions:
            raise ValueError(f"{name}() is not known here")
        return self._functions[name](*arguments)

    def _look_up(self, path: str) -> Any:
        first, *rest = path.split(".")
        if first not in self._contexts:
            raise ValueError(f"the context {first} is not known here")
        value = self._contexts[first]
        for part in rest:  # what is not there is null
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _expect(self, token: str) -> None:
        if not self._next(token):
            raise ValueError(f"{token} is missing")

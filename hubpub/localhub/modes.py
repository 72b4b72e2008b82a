"""Which files become LFS files, and which are ignored: the rules of preupload."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from hubpub.localhub.repos import REGULAR_MAX

Mode = Literal["lfs", "regular"]


class Attributes:
    """The LFS patterns of a ``.gitattributes``.

    Args:
        content: the file; empty when there is none.
    """

    def __init__(self, content: bytes) -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for line in content.decode(errors="replace").splitlines():
            pattern, *attributes = line.split()[:20] or [""]
            if pattern and not pattern.startswith("#"):
                for attribute in attributes:
                    if attribute.startswith(("filter=", "-filter", "!filter")):
                        self._rules.append((_pattern(pattern), attribute == "filter=lfs"))

    def mode(self, path: str, size: int, sample: bytes) -> Mode:
        """How a file is kept: LFS when it is large, looks binary, or matches; ``sample`` is how it begins."""
        matched = False
        for pattern, lfs in self._rules:
            if pattern.fullmatch(path):
                matched = lfs
        if size == 0:
            return "regular"
        return "lfs" if matched or size > REGULAR_MAX or b"\0" in sample else "regular"


def ignored(paths: Iterable[str], gitignore: str) -> set[str]:
    """Those of ``paths`` that a ``.gitignore`` leaves out."""
    rules = []
    for line in gitignore.splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            keep = text.startswith("!")
            rules.append((_pattern(text[1:] if keep else text), not keep))
    found = set()
    for path in paths:
        out = False
        parts = path.split("/")
        for pattern, leaves_out in rules:
            if any(pattern.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1)):
                out = leaves_out
        if out:
            found.add(path)
    return found


def _pattern(glob: str) -> re.Pattern[str]:
    """A pattern of git as a regular expression over the whole path; one without a slash matches in every folder."""
    glob = glob.rstrip("/")
    anchored = "/" in glob
    result = "" if anchored else "(?:.*/)?"
    for token in re.findall(r"\*\*/|/\*\*$|\*|\?|\[[^\]]*\]|.", glob.lstrip("/")):
        if token == "**/":
            result += "(?:.*/)?"
        elif token == "/**":
            result += "/.*"
        elif token == "*":
            result += "[^/]*"
        elif token == "?":
            result += "[^/]"
        elif token.startswith("[") and len(token) > 2:
            negated = token[1] in "!^"
            inside = "".join(each if each in "-" else re.escape(each) for each in token[1 + negated : -1])
            result += f"[{'^' if negated else ''}{inside.replace('--', '-')}]"
        else:
            result += re.escape(token)
    try:
        return re.compile(result)
    except re.error:
        return re.compile(re.escape(glob))

"""Names of files that strangers chose: which ones we accept, and how a recipe picks among them.

Nothing is ever written under such a name; they become keys in the lock file and paths in a release folder.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from hubpub.errors import SourceError, UnsafeArchive

MAX_PATH = 1024  # bytes; PATH_MAX of macOS
MAX_SEGMENT = 255  # bytes; NAME_MAX of common file systems
_DRIVE = re.compile(".:", re.DOTALL)  # Windows takes any one character for a drive

_Pattern = TypeVar("_Pattern")
_Text = TypeVar("_Text")


def check_name(name: str, where: str) -> str:
    """Return ``name`` if it is a plain relative POSIX path that stays in its folder on every platform.

    Raises:
        UnsafeArchive: it is empty, absolute, has a drive letter, ``..``, ``.`` or an empty segment, a backslash, a
            control character, is not Unicode, or is too long.
    """
    problem = _problem(name)
    if problem:
        raise UnsafeArchive(f"the name {shown(name)} {problem}", where=where, fix="do not trust where this comes from")
    return name


def _problem(name: str) -> str | None:
    segments = name.split("/")
    try:
        lengths = [len(segment.encode()) for segment in segments]
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if any(unicodedata.category(char) == "Cc" for char in name):
        return "holds a control character"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/"):
        return "is absolute"
    if _DRIVE.match(name):
        return "starts with a drive letter"
    if ".." in segments:
        return "leaves its folder"
    if "" in segments or "." in segments:
        return "has an empty segment"
    if max(lengths) > MAX_SEGMENT or sum(lengths) + len(segments) > MAX_PATH:
        return "is too long"
    return None


def check_distinct(names: Iterable[str], where: str) -> None:
    """Refuse names that mean one file where case or Unicode form is ignored (macOS), or a file that is also a folder.

    Raises:
        UnsafeArchive: naming the two.
    """
    files: dict[str, str] = {}
    for name in names:
        other = files.setdefault(_folded(name), name)
        if other is not name:
            raise _collision(other, name, where)
    for folded, name in files.items():
        for cut, char in enumerate(folded):
            if char == "/" and folded[:cut] in files:
                raise _collision(files[folded[:cut]], name, where)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _collision(one: str, other: str, where: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"{shown(one)} and {shown(other)} would be the same file on some systems",
        where=where,
        fix="choose one of them with `include`",
    )


def shown(name: str) -> str:
    """``name`` quoted for a message: escaped where not printable, shortened when long."""
    return repr(name if len(name) <= 120 else f"{name[:117]}...")


def check_pattern(pattern: str) -> str:
    """Return ``pattern`` if it can match a file's path.

    Raises:
        ValueError: saying why not; pydantic puts it beside the recipe's line.
    """
    segments = pattern.split("/")
    if any("**" in segment and segment != "**" for segment in segments):
        raise ValueError(f"in {pattern!r} `**` must stand alone between slashes")
    if problem := _problem(pattern):
        raise ValueError(f"the pattern {shown(pattern)} {problem}")
    return pattern


def matches(pattern: str, name: str) -> bool:
    """Whether ``pattern`` covers the path ``name``: ``*`` within a segment, ``**`` any number of segments.

    Case counts; Unicode form does not, because an editor's ``ñ`` need not be spelt like an archive's. A trailing
    ``**`` covers what lies below a folder, not a file of that name. All other characters stand for themselves.
    Linear in either length per segment: no pattern can make it slow.
    """
    wanted = unicodedata.normalize("NFC", pattern).split("/")
    segments = unicodedata.normalize("NFC", name).split("/")
    if wanted[-1] == "**":
        wanted.append("*")
    return _wild(wanted, segments, "**", lambda part, segment: _wild(part, segment, "*", str.__eq__))


def _wild(
    pattern: Sequence[_Pattern], text: Sequence[_Text], star: _Pattern, same: Callable[[_Pattern, _Text], bool]
) -> bool:
    """Match with ``star`` standing for any run; greedy, going back to the last star only (enough for fixed blocks)."""
    at = done = resume = 0
    last_star: int | None = None
    while done < len(text):
        if at < len(pattern) and pattern[at] == star:
            last_star, resume = at, done
            at += 1
        elif at < len(pattern) and same(pattern[at], text[done]):
            at += 1
            done += 1
        elif last_star is not None:
            resume += 1
            at, done = last_star + 1, resume
        else:
            return False
    return all(rest == star for rest in pattern[at:])


def may_lie_below(pattern: str, folder: str) -> bool:
    """Whether ``pattern`` could cover something below ``folder``; lets a walk skip the rest."""
    wanted = unicodedata.normalize("NFC", pattern).split("/")
    segments = unicodedata.normalize("NFC", folder).split("/")
    for part, segment in zip(wanted, segments, strict=False):
        if part == "**":
            return True
        if not matches(part, segment):
            return False
    return len(wanted) > len(segments)


def select(names: Iterable[str], patterns: Sequence[str], where: str) -> list[str]:
    """Names that a pattern covers, sorted.

    Raises:
        SourceError: a pattern covers nothing; names the nearest ones.
    """
    known = sorted(names)
    chosen: set[str] = set()
    for pattern in patterns:
        covered = [name for name in known if matches(pattern, name)]
        if not covered:
            near = nearest(pattern, known)
            fix = f"the nearest names are {', '.join(near)}" if near else "it holds no file at all"
            raise SourceError(f"the pattern {pattern!r} matches nothing", where=where, fix=fix)
        chosen.update(covered)
    return sorted(chosen)


def nearest(pattern: str, names: Sequence[str], count: int = 3) -> list[str]:
    """The names most like ``pattern``: same last segment first, then by difflib's ratio."""
    last = pattern.rpartition("/")[2]
    same_last = [name for name in names if matches(last, name.rpartition("/")[2])] if last.strip("*") else []
    alike = difflib.get_close_matches(pattern, names[:5000], n=count, cutoff=0.0)
    return list(dict.fromkeys(same_last + alike))[:count]

"""Artifacts that are folders, as a Core ML package is one: its path stands for all files below it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

SUFFIXES = (".mlpackage", ".mlmodelc")


def members(path: str, files: Collection[str]) -> tuple[str, ...]:
    """The files that ``path`` stands for: those of ``files`` below it if it is such a folder, else itself."""
    below = sorted(file for file in files if file.startswith(f"{path}/")) if path.endswith(SUFFIXES) else []
    return tuple(below) if below and path not in files else (path,)


def known_as(path: str) -> tuple[str, ...]:
    """``path``, and the folder that it is a part of, if it is of such a one."""
    return (path, *(str(parent) for parent in PurePosixPath(path).parents if parent.suffix in SUFFIXES))

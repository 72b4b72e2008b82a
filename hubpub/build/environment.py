"""Python environments of script steps: made by uv from a hash-pinned requirements file.

The environment is resolved by nobody at build time: the requirements file beside the script names every distribution
with its hashes, and uv installs just those, from the places that the user's own pip configuration names.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hubpub.build.process import run_process
from hubpub.errors import StepError
from hubpub.source.pipconfig import uv_environment
from hubpub.store import Store

_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # PEP 723's own
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?\s*==\s*(?P<version>[^\s*,]+)")


@dataclass(frozen=True)
class ScriptHeader:
    """What the script says of itself in its PEP 723 block."""

    script: str
    requires_python: str
    dependencies: tuple[str, ...]


def read_header(script: str, name: str, *, where: str) -> ScriptHeader:
    """Parse the PEP 723 block of the script ``name``, whose text is ``script``.

    Raises:
        StepError: it has none, two, or one that is not valid.
    """
    blocks = [match for match in _BLOCK.finditer(script) if match.group("type") == "script"]
    if len(blocks) != 1:
        found = "no" if not blocks else "more than one"
        raise StepError(f"{name} has {found} PEP 723 block", where=where, fix="start it with `# /// script` … `# ///`")
    lines = blocks[0].group("content").splitlines()
    try:
        data = tomllib.loads("\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
    except tomllib.TOMLDecodeError as error:
        raise _invalid(name, str(error), where) from error
    python, dependencies = data.get("requires-python", ""), data.get("dependencies", [])
    if not isinstance(python, str):
        raise _invalid(name, "requires-python is not a text", where)
    if not isinstance(dependencies, list) or not all(isinstance(each, str) for each in dependencies):
        raise _invalid(name, "dependencies is not a list of texts", where)
    return ScriptHeader(name, python, tuple(dependencies))


def _invalid(name: str, why: str, where: str) -> StepError:
    return StepError(f"the PEP 723 block of {name} is not valid: {why}", where=where, fix="see PEP 723")


def check_requirements(header: ScriptHeader, requirements: str, name: str, *, where: str) -> None:
    """Check that ``requirements`` (the text of the file ``name``) pins, by hash, everything that the header asks for.

    Raises:
        StepError: a requirement without a hash, a dependency without a requirement, or another Python is needed.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.utils import canonicalize_name

    fix = f"write it with `uv pip compile --universal --generate-hashes -o {name}`"
    pinned: dict[str, str] = {}
    for line in _logical_lines(requirements):
        text, *hashes = re.split(r"\s+--hash=", line)
        match = _PINNED.fullmatch(text.partition(";")[0].strip())
        if match is None or not hashes or not all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes):
            raise StepError(f"{name}: {line[:60]!r} is not pinned by version and hash", where=where, fix=fix)
        try:
            marker = Requirement(text).marker
        except InvalidRequirement as error:
            raise StepError(f"{name}: {line[:60]!r} is not a requirement", where=where, fix=fix) from error
        if marker is None or marker.evaluate():
            pinned[canonicalize_name(match["name"])] = match["version"]
    try:
        for dependency in map(Requirement, header.dependencies):
            version = pinned.get(canonicalize_name(dependency.name))
            if dependency.marker is not None and not dependency.marker.evaluate():
                continue
            if version is None or not dependency.specifier.contains(version, prereleases=True):
                raise StepError(f"{name} does not pin {dependency}", where=where, fix=fix)
        running = ".".join(map(str, sys.version_info[:3]))
        if not SpecifierSet(header.requires_python).contains(running, prereleases=True):
            raise StepError(f"{header.script} needs Python {header.requires_python}, this is {running}", where=where)
    except (InvalidRequirement, InvalidSpecifier) as error:
        raise _invalid(header.script, " ".join(str(error).split()), where) from error


def _logical_lines(requirements: str) -> Iterator[str]:
    """Lines of pip's format: continued ones joined, without comments and empty ones."""
    for line in requirements.replace("\\\n", " ").splitlines():
        if text := re.sub(r"(^|\s)#.*$", "", line).strip():
            yield text


def make_environment(requirements: Path, store: Store, log: Path, *, where: str) -> Path:
    """The interpreter of an environment that holds just ``requirements``; made once, then reused.

    Raises:
        StepError: uv could not make it; its last words, which also stand in ``log``, say why.
    """
    uv = _find_uv(where)
    marker = f"{sys.version_info[:3]} {sys.platform} {os.uname().machine}\n"
    key = hashlib.sha256(marker.encode() + requirements.read_bytes()).hexdigest()
    folder = store.environments / key
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    with store.lock(f"environment-{key}"):
        if complete.exists() and python.exists():
            os.utime(folder)  # used lately: `collect` keeps it
            return python
        shutil.rmtree(folder, ignore_errors=True)
        commands = [["venv", "--quiet", "--no-config", "--no-project", "--python", sys.executable, str(folder)]]
        settings = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        if any(_logical_lines(requirements.read_text("utf-8", errors="replace"))):
            install = ["pip", "install", "--quiet", "--no-config", "--python", str(python)]
            commands.append([*install, "--require-hashes", "--no-deps", "-r", str(requirements)])
            settings |= uv_environment()
        for command in commands:
            if run_process([uv, *command], folder=requirements.parent, settings=settings, log=log) != 0:
                reason = " ".join(log.read_text("utf-8", errors="replace").split())[-400:]
                raise StepError(f"its environment cannot be made: {reason}", where=where)
        complete.touch()
    return python


def _find_uv(where: str) -> str:
    try:
        import uv
    except ImportError as error:
        raise StepError("script steps need uv", where=where, fix="pip install uv") from error
    return uv.find_uv_bin()

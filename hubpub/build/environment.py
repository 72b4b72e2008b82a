"""Python environments of script steps: made by uv from a hash-pinned requirements file, and run without network.

The environment is resolved by nobody at build time: the requirements file beside the script names every distribution with
its hashes, and uv installs just those, from the places that the user's own pip configuration names.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hubpub.errors import StepError
from hubpub.source.pipconfig import uv_environment
from hubpub.store import Store

_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # PEP 723's own

# Runs in a fresh interpreter: die with the parent; leave the network behind; become the script.
_LAUNCHER = """
import ctypes, os, signal, sys
offline, parent, command = sys.argv[1] == "offline", int(sys.argv[2]), sys.argv[3:]
if sys.platform == "linux":
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    if offline:
        user, group = os.getuid(), os.getgid()
        if libc.unshare(0x10000000 | 0x40000000):
            sys.exit(97)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
os.execv(command[0], command)
"""


@dataclass(frozen=True)
class ScriptHeader:
    """What a script says of itself in its PEP 723 block."""

    requires_python: str
    dependencies: tuple[str, ...]


def read_header(script: Path, *, where: str) -> ScriptHeader:
    """Parse the PEP 723 block of ``script``.

    Raises:
        StepError: it has none, two, or one that is not valid.
    """
    text = script.read_text("utf-8", errors="replace")
    blocks = [match for match in _BLOCK.finditer(text) if match.group("type") == "script"]
    if len(blocks) != 1:
        found = "no" if not blocks else "more than one"
        raise StepError(
            f"{script.name} has {found} PEP 723 block", where=where, fix="start it with `# /// script` … `# ///`"
        )
    lines = blocks[0].group("content").splitlines()
    try:
        data = tomllib.loads("\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
        return ScriptHeader(str(data.get("requires-python", "")), tuple(map(str, data.get("dependencies", ()))))
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise StepError(f"the PEP 723 block of {script.name} is not valid: {error}", where=where) from error


def check_requirements(header: ScriptHeader, requirements: Path, *, where: str) -> None:
    """Check that the requirements file pins, by hash, everything that the header asks for.

    Raises:
        StepError: a requirement without a hash, a dependency without a requirement, or another Python is needed.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.utils import canonicalize_name

    fix = f"write it with `uv pip compile --universal --generate-hashes -o {requirements.name}`"
    pinned: dict[str, str] = {}
    joined = requirements.read_text("utf-8").replace("\\\n", " ")
    for line in (text.partition(" #")[0].strip() for text in joined.splitlines()):
        if not line or line.startswith("#"):
            continue
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", line)
        if match is None or "--hash=sha256:" not in line:
            raise StepError(
                f"{requirements.name}: {line[:60]!r} is not pinned by version and hash", where=where, fix=fix
            )
        pinned[canonicalize_name(match.group(1))] = match.group(2).rstrip(";")
    try:
        for dependency in map(Requirement, header.dependencies):
            version = pinned.get(canonicalize_name(dependency.name))
            if version is None or not dependency.specifier.contains(version, prereleases=True):
                raise StepError(f"{requirements.name} does not pin {dependency}", where=where, fix=fix)
        running = ".".join(map(str, sys.version_info[:3]))
        if not SpecifierSet(header.requires_python).contains(running):
            raise StepError(f"the script needs Python {header.requires_python}, this is {running}", where=where)
    except (InvalidRequirement, InvalidSpecifier) as error:
        raise StepError(f"the PEP 723 block is not valid: {error}", where=where) from error


def make_environment(requirements: Path, store: Store, *, where: str) -> Path:
    """The interpreter of an environment that holds just ``requirements``; made once, then reused.

    Raises:
        StepError: uv could not make it; its last line says why.
    """
    uv = _find_uv(where)
    marker = f"{sys.version_info[:3]} {sys.platform} {os.uname().machine}\n"
    key = hashlib.sha256(marker.encode() + requirements.read_bytes()).hexdigest()
    folder = store.environments / key
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    with store.lock(f"environment-{key}"):
        if complete.exists():
            os.utime(folder)  # used lately: `collect` keeps it
            return python
        shutil.rmtree(folder, ignore_errors=True)
        commands = (
            ["venv", "--quiet", "--no-config", "--no-project", "--python", sys.executable, str(folder)],
            ["pip", "install", "--quiet", "--no-config", "--require-hashes", "--no-deps"]
            + ["--python", str(python), "-r", str(requirements)],
        )
        settings = {**os.environ, **uv_environment(), "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        for command in commands:
            done = subprocess.run(
                [uv, *command], env=settings, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
            if done.returncode:
                reason = " ".join(done.stderr.split())[-400:]
                raise StepError(f"its environment cannot be made: {reason}", where=where)
        complete.touch()
    return python


def _find_uv(where: str) -> str:
    try:
        import uv
    except ImportError as error:
        raise StepError("script steps need uv", where=where, fix="pip install uv") from error
    return uv.find_uv_bin()


@cache
def can_leave_network() -> bool:
    """Whether this system lets us start a process without network (Linux user namespaces)."""
    if sys.platform != "linux":
        return False
    probe = launch_command(Path(sys.executable), ["-c", "pass"], offline=True)
    return subprocess.run(probe, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def launch_command(python: Path, arguments: list[str], *, offline: bool) -> list[str]:
    """The command that starts ``python`` so that it dies with us, and without network if ``offline``."""
    mode = "offline" if offline else "online"
    return [sys.executable, "-I", "-c", _LAUNCHER, mode, str(os.getpid()), str(python), *arguments]


def run_script(command: list[str], *, folder: Path, settings: dict[str, str], log: Path, timeout: float) -> int | None:
    """Run ``command`` in ``folder``, all it prints going to ``log``; None when ``timeout`` seconds ran out.

    Whatever ends us (Ctrl-C, an exception) ends it and its children too.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

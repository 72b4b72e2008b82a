"""Runs a command that ends when we end, with all that it started, and without network where the system permits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from hubpub.build import launcher

_GRACE_S = 10
"""How long the launcher may take to end what is left."""
_LOG_TAIL = 64 << 10


@cache
def can_leave_network() -> bool:
    """Whether this system lets us start a process without network (Linux user namespaces)."""
    if sys.platform != "linux":
        return False
    nothing = [sys.executable, "-I", "-S", "-c", "pass"]
    return run_process(nothing, folder=Path("/"), settings={}, log=Path(os.devnull), offline=True) == 0


def run_process(
    command: list[str],
    *,
    folder: Path,
    settings: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
    offline: bool = False,
) -> int | None:
    """Run ``command`` in ``folder``; standard input is empty, all that it prints goes to ``log``.

    Args:
        command: absolute path of a program, and its arguments.
        folder: where it is started.
        settings: all of its environment.
        log: the file that it prints to.
        timeout: seconds after which it is stopped.
        offline: without network; only where `can_leave_network`.

    Returns:
        Its exit code, the negative number of the signal that ended it, or None when the time ran out.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            _launch(command, offline=offline),
            cwd=folder,
            env=dict(settings),
            stdin=subprocess.PIPE,  # open as long as we live: the launcher ends everything when it closes
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            assert process.stdin is not None
            process.stdin.close()
            if not _ends(process):
                process.kill()
                _ends(process)


def _ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def last_line(log: Path) -> str:
    """The last line with something in it, shortened; empty when nothing was printed."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _launch(command: list[str], *, offline: bool) -> list[str]:
    mode = "offline" if offline else "online"
    return [sys.executable, "-I", "-S", str(launcher.__file__), mode, *command]

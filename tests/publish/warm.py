"""Commands that start at once: one process imports what takes long, and forks for each command.

All but ``huggingface_hub`` is imported beforehand: that reads its settings from the environment when it is imported, so
each command imports it anew, as it does for a user.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path


class Command:
    """A running ``hubpub``, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, arguments: list[str], cwd: Path, environment: dict[str, str], folder: Path) -> None:
        self._files = {name: folder / name for name in ("out", "err", "status")}
        self.returncode: int | None = None
        self.pid = _server().start(
            {
                "arguments": arguments,
                "cwd": str(cwd),
                "environment": environment,
                **{name: str(path) for name, path in self._files.items()},
            }
        )

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(FileNotFoundError, ValueError):
                self.returncode = int(self._files["status"].read_text())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("hubpub", timeout or 0.0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said on standard output and standard error, when it has ended."""
        self.wait(timeout)
        return self._files["out"].read_text(), self._files["err"].read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    def __init__(self) -> None:
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUBPUB_"))}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**plain, "OPENBLAS_NUM_THREADS": "1"},
            text=True,
        )

    def start(self, command: dict[str, object]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


_servers: list[_Server] = []


def _server() -> _Server:
    """Started once; it ends when its standard input closes, with this process."""
    if not _servers:
        _servers.append(_Server())
    return _servers[0]


def start(arguments: list[str], cwd: Path, environment: dict[str, str]) -> Command:
    """Start ``hubpub`` with these arguments."""
    return Command(arguments, cwd, environment, Path(tempfile.mkdtemp(dir=cwd, prefix=".command-")))


def _serve() -> None:
    import hf_xet  # noqa: F401
    import httpx2  # noqa: F401
    import tqdm  # noqa: F401

    import hubpub.cli
    import hubpub.publish.checks
    import hubpub.publish.publish
    import hubpub.publish.revert  # noqa: F401

    assert "huggingface_hub" not in sys.modules
    for line in sys.stdin:
        if (watcher := os.fork()) == 0:
            _watch(json.loads(line))
        os.waitpid(watcher, 0)


def _watch(command: dict[str, object]) -> None:
    """In a process between: start the command, tell its id, and note how it ended."""
    if os.fork():
        os._exit(0)  # the server goes on; what follows is nobody's child
    if (pid := os.fork()) == 0:
        _run(command)
    os.write(1, f"{pid}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    part = Path(f"{command['status']}.part")
    part.write_text(str(code))
    part.rename(str(command["status"]))
    os._exit(0)


def _run(command: dict[str, object]) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        environment = command["environment"]
        assert isinstance(environment, dict)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(str(command["cwd"]))
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(str(command[name]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        arguments = command["arguments"]
        assert isinstance(arguments, list)
        sys.argv = ["hubpub", *arguments]
        from hubpub.cli import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the test runner's
    _serve()

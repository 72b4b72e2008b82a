"""A program of its own, between hubpub and a command: whatever ends, all that the command started ends with it.

``python -I launcher.py offline|online COMMAND...``. Standard input is a pipe that hubpub holds open as long as it lives
and wants the command to go on. It ends as the command did: with its code, or by its signal; 97 when the command cannot
be started, or there is no way out of the network. On Linux it inherits orphans (a "subreaper"), so that not even a
daemon survives; elsewhere the process group ends.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_LINUX = sys.platform == "linux"
NOT_STARTED = 97


def main() -> None:
    """Run the command and end as it does."""
    offline, command = sys.argv[1] == "offline", sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if _LINUX:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _become(command, libc, parent, offline=offline)
        except OSError as error:
            print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        finally:
            os._exit(NOT_STARTED)
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    pid, status = os.wait()
    while pid != child:
        pid, status = os.wait()
    _end_all(child)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _become(command: list[str], libc: ctypes.CDLL, parent: int, *, offline: bool) -> None:
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if _LINUX:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    if offline:
        user, group = os.getuid(), os.getgid()
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
            return
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)


def _end_with_parent(child: int) -> None:
    while os.read(0, 1):
        pass
    _kill_group(child)


def _end_all(group: int) -> None:
    """Kill what is left, again and again: who dies leaves its children to us."""
    _kill_group(group)
    while _LINUX:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _kill_group(group: int) -> None:
    for kill, target in ((os.killpg, group), (os.kill, group)):  # the group may not have been made yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(target, signal.SIGKILL)


def _children() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()

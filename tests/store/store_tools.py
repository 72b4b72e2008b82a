"""Small things that the store's tests share."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

from hubpub.store import FileDigest, Store

CHILDREN = Path(__file__).with_name("store_children.py")


def digest_of(data: bytes) -> FileDigest:
    return FileDigest(hashlib.sha256(data).hexdigest(), len(data))


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def put_bytes(store: Store, data: bytes) -> FileDigest:
    with store.scratch("put") as folder:
        (folder / "file").write_bytes(data)
        return store.put(folder / "file")


def refuse(*_: object, **__: object) -> None:
    """In the place of ``os.link``: as between two file systems."""
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def age(path: Path, seconds: float) -> None:
    """Make ``path`` look last used and written so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def child(deed: str, *arguments: object, prefix: tuple[str, ...] = ()) -> str:
    """Have another process do ``deed`` of ``store_children.py`` to its end; returns what it printed."""
    command = [*prefix, sys.executable, str(CHILDREN), deed, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("ok\n"), done.stdout
    return done.stdout


def start(deed: str, *arguments: object) -> tuple[subprocess.Popen[str], str]:
    """Start ``deed``, which goes on until it is killed; returns it and the first line that it says."""
    command = [sys.executable, str(CHILDREN), deed, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()

"""Killed at any step, the store holds a file whole or not at all, and the same upload then goes through."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xet_pack

from hubpub.localhub.blobs import Blobs
from hubpub.localhub.xet_store import XetStore

XORB, FILE = xet_pack.name("xorb"), xet_pack.name("file")
CHUNKS = [b"one" * 500, b"two" * 700, bytes(3000)]
WHOLE = b"".join(CHUNKS)
SHA256 = hashlib.sha256(WHOLE).hexdigest()

STEPS = {"os.fsync", "os.replace", "os.rename", "os.remove", "os.mkdir", "open", "sqlite3.connect"}
CASE = f"""
import os, signal, sys
left = int(sys.argv[4])
def hook(event, args):
    global left
    if event in {STEPS!r} and armed and any(sys.argv[1] in str(arg) for arg in args):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
armed = False
sys.addaudithook(hook)
sys.path.insert(0, sys.argv[3])
import test_xet_kill
armed = True
test_xet_kill.upload(sys.argv[1], sys.argv[2])
"""


def open_store(root: Path | str) -> tuple[Blobs, XetStore]:
    blobs = Blobs(Path(root))
    return blobs, XetStore(Path(root) / "xet", blobs)


def upload(root: Path | str, _: str = "") -> None:
    blobs, store = open_store(root)
    if not store.has_xorb(XORB):
        with blobs.incoming() as path:
            path.write_bytes(xet_pack.xorb_of(CHUNKS))
            store.keep_xorb(path, XORB)
    record = xet_pack.file_record(FILE, SHA256, [xet_pack.segment(XORB, len(WHOLE), 0, len(CHUNKS))])
    store.register(xet_pack.shard_of([record], [xet_pack.xorb_record(XORB, [len(chunk) for chunk in CHUNKS])]))


@pytest.mark.slow
def test_killed_at_every_step(tmp_path: Path) -> None:
    seen = set()
    for step in range(1, 100):
        root = tmp_path / str(step)
        root.mkdir()
        command: list[str | Path] = [sys.executable, "-c", CASE, root, "", Path(__file__).parent, str(step)]
        code = subprocess.run(command, timeout=60).returncode
        _, store = open_store(root)
        known = store.file(FILE)
        seen.add((code, store.has_xorb(XORB), known is not None))
        if store.has_xorb(XORB):
            assert store.xorb_path(XORB).read_bytes() == xet_pack.xorb_of(CHUNKS)
        if known:
            assert store.blobs.path(SHA256).read_bytes() == WHOLE
        upload(root)
        _, store = open_store(root)
        assert store.xet_hash(SHA256) == FILE
        assert store.blobs.path(SHA256).read_bytes() == WHOLE
        if code == 0:
            break
    killed = -signal.SIGKILL
    assert {(killed, False, False), (killed, True, False), (0, True, True)} <= seen, seen
    assert step > 8

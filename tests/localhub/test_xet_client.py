"""The CAS as the real hf_xet sees it: what goes up comes down, and lies in the store by sha256 as well."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xet_server

from hubpub.localhub.xet_format import GROUPED_LZ4, LZ4, RAW


def floats(count: int) -> bytes:
    return np.random.default_rng(5).normal(0, 0.02, count).astype(np.float32).tobytes()


CONTENTS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one byte": lambda: b"x",
    "zeros": lambda: bytes(9_000_001),
    "text": lambda: b"".join(b"%d bottles of beer on the wall\n" % count for count in range(200_000)),
    "random": lambda: random.Random(7).randbytes(5_000_003),
    "float weights": lambda: floats(1_000_000),
    "mixed": lambda: random.Random(8).randbytes(300_000) + bytes(300_000) + floats(100_000),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[xet_server.Served]:
    with xet_server.serving(tmp_path_factory.mktemp("hub")) as served:
        yield served


def write(folder: Path, **contents: bytes) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


@pytest.mark.parametrize("kind", CONTENTS)
def test_there_and_back(served: xet_server.Served, tmp_path: Path, kind: str) -> None:
    content = CONTENTS[kind]()
    [path] = write(tmp_path, file=content)
    [sent] = xet_server.upload(served.url, tmp_path / "up", [path])
    sha256 = hashlib.sha256(content).hexdigest()
    assert served.blobs.path(sha256).read_bytes() == content
    assert [sent.xet_hash] == xet_server.local_hashes(tmp_path / "hash", [path])
    assert served.cas.xet_hash(sha256) == (sent.xet_hash if content else None)
    back = tmp_path / "back"
    xet_server.download(served.url, tmp_path / "down", [(sent.xet_hash, len(content), back)])
    assert back.read_bytes() == content


def test_every_way_of_packing_was_met(served: xet_server.Served, tmp_path: Path) -> None:
    contents = {name.replace(" ", "_"): CONTENTS[name]() for name in ("text", "random", "float weights")}
    xet_server.upload(served.url, tmp_path / "home", write(tmp_path / "files", **contents))
    schemes = set()
    for xorb in (served.root / "xet" / "xorbs").rglob("?" * 64):
        data, place = xorb.read_bytes(), 0
        while place < len(data):
            schemes.add(data[place + 4])
            place += 8 + int.from_bytes(data[place + 1 : place + 4], "little")
    assert schemes == {RAW, LZ4, GROUPED_LZ4}


def test_the_same_content_again_sends_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path / "files", one=random.Random(1).randbytes(3_000_000), other=floats(500_000))
    with xet_server.serving(tmp_path / "hub") as served:
        home = tmp_path / "home"
        first = xet_server.upload(served.url, home, paths)
        kept = served.kept()
        sent = len(served.posted("/v1/xorbs/"))
        assert sent
        copies = write(tmp_path / "copies", **{path.name: path.read_bytes() for path in paths})
        again = xet_server.upload(served.url, home, copies)
        assert [file.new_bytes for file in again] == [0, 0]
        assert [file.xet_hash for file in again] == [file.xet_hash for file in first]
        assert len(served.posted("/v1/xorbs/")) == sent
        assert served.kept() == kept
        fresh = xet_server.upload(served.url, tmp_path / "another home", paths)  # sends all: there is no global search
        assert [file.xet_hash for file in fresh] == [file.xet_hash for file in first]
        assert served.kept() >= kept


def test_a_longer_file_sends_only_what_is_new(served: xet_server.Served, tmp_path: Path) -> None:
    start = random.Random(2).randbytes(8_000_000)
    longer = start + random.Random(3).randbytes(500_000)
    short_path, long_path = write(tmp_path / "files", short=start, long=longer)
    xet_server.upload(served.url, tmp_path / "home", [short_path])
    before = sum(call.sent for call in served.posted("/v1/xorbs/"))
    [sent] = xet_server.upload(served.url, tmp_path / "home", [long_path])
    assert sum(call.sent for call in served.posted("/v1/xorbs/")) - before < 800_000
    assert served.blobs.path(sent.sha256).read_bytes() == longer
    back = tmp_path / "back"
    xet_server.download(served.url, tmp_path / "down", [(sent.xet_hash, sent.size, back)])
    assert back.read_bytes() == longer


def test_many_small_files_in_one_session(served: xet_server.Served, tmp_path: Path) -> None:
    contents = {f"file{count}": struct.pack("<I", count) * (1 + count % 97) for count in range(400)}
    sent = xet_server.upload(served.url, tmp_path / "home", write(tmp_path / "files", **contents))
    for file, content in zip(sent, contents.values(), strict=True):
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert served.blobs.path(file.sha256).read_bytes() == content
    wanted = [(file.xet_hash, file.size, tmp_path / str(index)) for index, file in enumerate(sent)]
    xet_server.download(served.url, tmp_path / "down", wanted)
    assert [path.read_bytes() for _, _, path in wanted] == list(contents.values())


def test_a_restarted_hub_knows_all(tmp_path: Path) -> None:
    [path] = write(tmp_path / "files", file=floats(600_000))
    with xet_server.serving(tmp_path / "hub") as served:
        [sent] = xet_server.upload(served.url, tmp_path / "home", [path])
    with xet_server.serving(tmp_path / "hub") as served:
        assert served.cas.xet_hash(sent.sha256) == sent.xet_hash
        back = tmp_path / "back"
        xet_server.download(served.url, tmp_path / "down", [(sent.xet_hash, sent.size, back)])
        assert back.read_bytes() == path.read_bytes()


def test_a_wiped_hub_refuses_what_the_clients_cache_promises(tmp_path: Path) -> None:
    [path] = write(tmp_path / "files", file=random.Random(4).randbytes(2_000_000))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with xet_server.serving(tmp_path / "hub", port=port) as served:
        [sent] = xet_server.upload(served.url, tmp_path / "home", [path])
    with xet_server.serving(tmp_path / "wiped hub", port=port) as served:
        with pytest.raises(xet_server.ClientError, match="400 Bad Request"):
            xet_server.upload(served.url, tmp_path / "home", [path])
        assert not served.posted("/v1/xorbs/")
        assert served.cas.xet_hash(sent.sha256) is None
        assert served.kept() == set()
        xet_server.upload(served.url, tmp_path / "fresh home", [path])
        assert served.blobs.path(sent.sha256).read_bytes() == path.read_bytes()


SERVER = """
import sys
sys.path.insert(0, sys.argv[2])
import xet_server
from pathlib import Path
with xet_server.serving(Path(sys.argv[1])) as served:
    print(served.url, flush=True)
    sys.stdin.read()
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def random_file(path: Path, megabytes: int) -> str:
    """Write it, and tell its sha256; never all of it in memory, which a forked child would inherit."""
    generator, digest = random.Random(megabytes), hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(megabytes):
            piece = generator.randbytes(1_000_000)
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_large_files_do_not_make_the_hub_large(tmp_path: Path) -> None:
    peaks = []
    for megabytes in (1, 200):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        path, back = folder / "file", folder / "back"
        sha256 = random_file(path, megabytes)
        command: list[str | Path] = [sys.executable, "-c", SERVER, folder / "hub", Path(__file__).parent]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            url = server.stdout.readline().strip()
            [sent] = xet_server.upload(url, folder / "home", [path])
            assert sent.sha256 == sha256
            xet_server.download(url, folder / "down", [(sent.xet_hash, sent.size, back)])
            with back.open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == sha256
            out, _ = server.communicate("", timeout=30)
            peaks.append(int(out) << 10)
        finally:
            server.kill()
            server.wait()
    assert peaks[1] - peaks[0] < 96 << 20, peaks  # a xorb, and chunks on their way

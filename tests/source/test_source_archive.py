"""Archives are a stranger's: good ones give exactly their members, each bad one is refused in one line."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import ROOT, TARS, ZIPS, good_sdist, good_wheel, make_tar, make_zip, tar_entry, zip_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.errors import HubpubError, SourceError, UnsafeArchive
from hubpub.source.archive import Archive, Limits

WANTED_OF_BAD = {"a", "A", "b", "Ä", "a\u0308", "a/b", "link"}
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}


def _archive(tmp_path: Path, data: bytes, filename: str, limits: Limits | None = None) -> Archive:
    path = tmp_path / "blob"
    path.write_bytes(data)
    return Archive(path, filename, strip_root=".tar" in filename, limits=limits or Limits())


def test_a_wheel_gives_its_members(tmp_path: Path) -> None:
    payload = os.urandom(3 << 20)
    archive = _archive(tmp_path, good_wheel(payload), "pkg-1.0-py3-none-any.whl")
    scan = archive.scan(lambda name: name.endswith((".onnx", ".wav")))
    assert sorted(scan.names) == ["pkg/__init__.py", "pkg/data/model.onnx", "trñ00.wav"]
    assert scan.files["pkg/data/model.onnx"].sha256 == hashlib.sha256(payload).hexdigest()
    assert scan.files["pkg/data/model.onnx"].size == len(payload)
    assert set(scan.files) == {"pkg/data/model.onnx", "trñ00.wav"}
    out = tmp_path / "out"
    out.mkdir()
    written = archive.extract(["pkg/data/model.onnx"], out)
    assert written["pkg/data/model.onnx"].read_bytes() == payload
    assert len(list(out.iterdir())) == 1, "only what was wanted is written"


@pytest.mark.parametrize("suffix", PACK)
def test_an_sdist_gives_its_members_without_the_top_folder(tmp_path: Path, suffix: str) -> None:
    payload = os.urandom(100_000)
    data = PACK[suffix](gzip.decompress(good_sdist(payload)))
    archive = _archive(tmp_path, data, f"pkg-1.0{suffix}")
    written = archive.extract(["tests/data/trñ00.wav", "x" * 120 + "/long.txt"], tmp_path)
    assert written["tests/data/trñ00.wav"].read_bytes() == payload
    assert written["x" * 120 + "/long.txt"].read_bytes() == b"long"


def test_links_that_stay_inside_and_are_not_wanted_are_passed_over(tmp_path: Path) -> None:
    links = [(tar_entry(ROOT + "a/link", b"2", "../real"), b""), (tar_entry(ROOT + "hard", b"1", ROOT + "real"), b"")]
    data = gzip.compress(make_tar([(ROOT + "real", b"bytes"), *links]))
    assert _archive(tmp_path, data, "pkg-1.0.tar.gz").scan(lambda name: name == "real").files["real"].size == 5
    data = make_zip([("real", b"bytes"), (zip_entry("a/link", 0o120777), b"../real")])
    assert _archive(tmp_path, data, "pkg.zip").scan(lambda name: name == "real").files["real"].size == 5


@pytest.mark.parametrize("kind", ZIPS)
def test_a_bad_zip_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, reason = ZIPS[kind]
    _assert_refused(_archive(tmp_path, make(), "pkg-1.0-py3-none-any.whl"), reason)


@pytest.mark.parametrize("kind", TARS)
def test_a_bad_tar_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, reason = TARS[kind]
    _assert_refused(_archive(tmp_path, gzip.compress(make(), 9), "pkg-1.0.tar.gz"), reason)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_truncated_compressed_tar_is_refused(tmp_path: Path, suffix: str) -> None:
    data = PACK[suffix](make_tar([(ROOT + "a", os.urandom(50_000))]))
    _assert_refused(_archive(tmp_path, data[:-9], f"pkg-1.0{suffix}"), "damaged")


def _assert_refused(archive: Archive, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        archive.scan(WANTED_OF_BAD.__contains__)
    line = str(caught.value)
    assert reason in line
    assert line.startswith(archive.filename)
    assert "\n" not in line
    assert "\0" not in line


def test_a_bomb_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    archive = _archive(tmp_path, gzip.compress(make_tar([(ROOT + "a", b"\0" * (64 << 20))]), 9), "pkg-1.0.tar.gz")
    tracemalloc.start()
    with pytest.raises(UnsafeArchive, match="bomb"):
        archive.scan(WANTED_OF_BAD.__contains__)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_limits_hold(tmp_path: Path) -> None:
    data = make_zip([("a", b"x" * 600), ("b", b"y" * 600)])
    for filename, packed in (
        ("p.zip", data),
        ("p-1.tar", make_tar([(ROOT + "a", b"x" * 600), (ROOT + "b", b"y" * 600)])),
    ):
        with pytest.raises(UnsafeArchive, match="more than 1000 bytes"):
            _archive(tmp_path, packed, filename, Limits(total=1000)).scan(WANTED_OF_BAD.__contains__)
        with pytest.raises(UnsafeArchive, match="more than 1 members"):
            _archive(tmp_path, packed, filename, Limits(members=1)).scan(WANTED_OF_BAD.__contains__)


def test_a_wanted_member_that_is_absent_is_named(tmp_path: Path) -> None:
    archive = _archive(tmp_path, good_wheel(b"x"), "pkg-1.0-py3-none-any.whl")
    with pytest.raises(SourceError, match=r"holds no file 'pkg/data/other\.onnx'"):
        archive.extract(["pkg/data/other.onnx"], tmp_path)


@settings(max_examples=300, deadline=None)
@given(
    filename=st.sampled_from(["p.zip", "p.tar", "p.tar.gz"]),
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4),
    keep=st.integers(0, 1 << 16),
)
def test_damage_gives_our_error_or_nothing(filename: str, edits: list[tuple[int, int]], keep: int) -> None:
    members = [("pkg-1.0/a", b"hello" * 50), ("pkg-1.0/" + "long" * 30, b"world"), ("pkg-1.0/sub/ñ", b"")]
    whole = make_zip([(name, data) for name, data in members], 8) if filename == "p.zip" else make_tar([*members])
    data = bytearray(gzip.compress(whole, mtime=0) if filename == "p.tar.gz" else whole)
    for place, value in edits:
        data[place % len(data)] = value
    with tempfile.TemporaryDirectory() as folder:
        archive = _archive(Path(folder), bytes(data[: max(1, keep % (2 * len(data)))]), filename)
        refusal = None
        try:
            archive.scan(lambda name: True)
        except HubpubError as error:
            refusal = error
    assert "\n" not in str(refusal)

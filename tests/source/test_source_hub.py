"""Reading a Hub repo through the real client, against a Hub on loopback that has bad days."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stub import COMMIT, CdnStub, HubStub, git_sha1
from loopback import Fault
from pydantic import ValidationError

from hubpub.errors import DigestMismatch, LockError, SourceError, UnsafeArchive
from hubpub.source import HubSource, LockedSource, SourceContext
from hubpub.store import Store

MODEL = os.urandom(3 << 20)
FILES = {
    "config.json": b"{}",
    "onnx/encoder.onnx": MODEL,
    "sub/ü ñ.txt": b"text",
    "empty": b"",
    "other.bin": b"\1" * 100,
}
SPEC = HubSource(hub="owner/repo", include=("config.json", "**/*.onnx", "sub/*", "empty"))
TOKEN = "hf_s3cretToken"


@pytest.fixture
def cdn() -> Iterator[CdnStub]:
    with CdnStub() as cdn:
        yield cdn


@pytest.fixture
def hub(cdn: CdnStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStub]:
    """The client reads its settings when it is imported, so the test changes what it has read."""
    from huggingface_hub import constants

    with HubStub(dict(FILES), cdn, lfs={"onnx/encoder.onnx", "other.bin"}, token=TOKEN) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_files_are_pinned_and_only_the_missing_fetched(
    context: SourceContext, tmp_path: Path, hub: HubStub, cdn: CdnStub
) -> None:
    locked = SPEC.resolve(context)
    assert locked.revision == COMMIT
    assert locked.files.keys() == {"config.json", "onnx/encoder.onnx", "sub/ü ñ.txt", "empty"}
    for name, pin in locked.files.items():
        assert pin.sha256 == hashlib.sha256(FILES[name]).hexdigest()
        assert pin.size == len(FILES[name])
    assert LockedSource.model_validate_json(locked.to_json()) == locked
    assert hub.url not in locked.to_json()
    assert TOKEN not in locked.to_json()
    assert not cdn.log, "large files are pinned by the Hub's metadata, without their bytes"
    arrived: list[int] = []
    assert SPEC.bytes_to_fetch(locked, locked.files, context) == len(MODEL)
    SPEC.fetch(locked, locked.files, context, arrived.append)
    assert sum(arrived) == len(MODEL)
    assert context.store.path(locked.files["onnx/encoder.onnx"].sha256).read_bytes() == MODEL
    assert not hub.asked_for("other.bin")
    assert all("authorization" not in asked.headers for asked in cdn.log), "the token goes to the Hub only"
    asked = len(hub.log)
    SPEC.fetch(locked, locked.files, context, arrived.append)
    assert len(hub.log) == asked
    assert list(context.store.downloads.iterdir()) == []
    with Store(tmp_path / "other") as other:
        elsewhere = SourceContext(other, tmp_path)
        SPEC.fetch(locked, ["sub/ü ñ.txt", "empty"], elsewhere, arrived.append)
        assert other.path(locked.files["sub/ü ñ.txt"].sha256).read_bytes() == b"text"
        assert SPEC.bytes_to_fetch(locked, ["config.json"], elsewhere) == 2


def test_a_moving_branch_does_not_move_the_build(context: SourceContext, hub: HubStub) -> None:
    locked = SPEC.resolve(context)
    hub.files["config.json"] = b'{"new": 1}'
    assert SPEC.resolve(context).files["config.json"] != locked.files["config.json"]
    paths = [asked.path for asked in hub.log if "/resolve/" in asked.path]
    assert all(f"/resolve/{COMMIT}/" in path for path in paths)
    with pytest.raises(LockError, match="hubpub lock"):
        SPEC.model_copy(update={"revision": "v1"}).bytes_to_fetch(locked, ["config.json"], context)


@pytest.mark.parametrize(
    ("fault", "starts"),
    [(Fault("", cut_after=2 << 20), [0, 2 << 20]), (Fault("", status=500, times=2), [0, 0, 0])],
    ids=["cut", "500"],
)
def test_passing_faults_are_survived(
    context: SourceContext, hub: HubStub, cdn: CdnStub, waits: list[float], fault: Fault, starts: list[int]
) -> None:
    locked = SPEC.resolve(context)
    hub.faults = [Fault("/revision/main", status=503)]
    SPEC.resolve(context)
    cdn.faults = [fault]
    SPEC.fetch(locked, locked.files, context, lambda _: None)
    assert [asked.start for asked in cdn.log] == starts
    assert len(waits) == len(starts)


def test_bytes_that_are_not_the_pinned_ones_stop_the_build(context: SourceContext, hub: HubStub, cdn: CdnStub) -> None:
    locked = SPEC.resolve(context)
    (blob,) = (name for name, data in cdn.blobs.items() if data == MODEL)
    cdn.blobs[blob] = MODEL[:-1] + b"?"
    with pytest.raises(DigestMismatch, match="owner/repo@main: onnx/encoder"):
        SPEC.fetch(locked, locked.files, context, lambda _: None)
    assert list(context.store.downloads.iterdir()) == []


def test_a_small_file_must_have_the_listed_git_digest(context: SourceContext, hub: HubStub) -> None:
    hub.listed["config.json"] = b"[]"
    with pytest.raises(SourceError, match=r"config\.json: the file's git sha1 is"):
        SPEC.resolve(context)
    hub.listed["config.json"] = b"{} "
    with pytest.raises(SourceError, match="the server sent 2 bytes, 3 are expected"):
        SPEC.resolve(context)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("GatedRepo", "the repo is gated; accept its conditions"),
        ("RepoNotFound", "no such repo, or it is private"),
        ("RevisionNotFound", "no such branch, tag or commit"),
        ("EntryNotFound", "no such file at this commit"),
    ],
)
def test_refusals_are_one_line(context: SourceContext, tmp_path: Path, hub: HubStub, code: str, line: str) -> None:
    locked = SPEC.resolve(context)
    hub.error_code = code
    with Store(tmp_path / "other") as other:
        for call in (
            lambda: SPEC.resolve(context),
            lambda: SPEC.fetch(locked, ["config.json"], SourceContext(other, tmp_path), lambda _: None),
        ):
            with pytest.raises(SourceError) as caught:
                call()
            assert line in str(caught.value)
            assert "\n" not in str(caught.value)
            assert TOKEN not in str(caught.value)


def test_other_troubles_are_one_line(
    context: SourceContext, hub: HubStub, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    from huggingface_hub import constants

    def line() -> str:
        with pytest.raises(SourceError) as caught:
            SPEC.resolve(context)
        assert "\n" not in str(caught.value)
        assert TOKEN not in str(caught.value)
        return str(caught.value)

    with pytest.raises(SourceError, match="no such branch"):
        SPEC.model_copy(update={"revision": "nowhere"}).resolve(context)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "log in with" in line()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults = [Fault("/revision/main", status=500, times=9)]
    assert "the Hub answers 500; try again later" in line()
    hub.faults = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in line()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in line()
    monkeypatch.setattr(constants, "ENDPOINT", f"{hub.url}/elsewhere")
    assert "the Hub answers 404" in line()
    monkeypatch.setattr(constants, "ENDPOINT", f"{hub.url}/portal")
    assert "cannot be understood; check HF_ENDPOINT" in line()


def test_a_silent_hub_is_given_up(
    context: SourceContext,
    tmp_path: Path,
    hub: HubStub,
    cdn: CdnStub,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    locked = SPEC.resolve(context)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    cdn.faults = [Fault("", hang_after=100, times=99)]
    with pytest.raises(SourceError, match=r"no answer within 0\.1 s, tried 6 times"):
        SPEC.fetch(locked, ["onnx/encoder.onnx"], context, lambda _: None)


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "a\\b", "CONFIG.JSON"])
def test_hostile_names_are_refused_when_wanted(context: SourceContext, hub: HubStub, name: str) -> None:
    hub.extra_siblings = [
        {
            "rfilename": name,
            "size": 1,
            "blobId": git_sha1(b"x"),
            "lfs": {"sha256": "0" * 64, "size": 1, "pointerSize": 1},
        }
    ]
    assert SPEC.model_copy(update={"include": ("onnx/*",)}).resolve(context).files
    with pytest.raises(UnsafeArchive) as caught:
        HubSource(hub="owner/repo").resolve(context)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sibling", [{"lfs": {"sha256": "../x", "size": 1, "pointerSize": 1}}, {"blobId": "../../x"}, {}]
)
def test_hostile_digests_are_refused(context: SourceContext, hub: HubStub, sibling: dict[str, object]) -> None:
    hub.extra_siblings = [{"rfilename": "bad", "size": 1} | sibling]
    with pytest.raises(SourceError, match="metadata holds no"):
        SPEC.model_copy(update={"include": ("bad",)}).resolve(context)


@pytest.mark.parametrize(
    "bad",
    [{"hub": "a"}, {"hub": "a/b/c"}, {"hub": "../x"}, {"hub": "a/b--c"}, {"repo_type": "space"}, {"revision": ""}],
)
def test_the_schema_refuses(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HubSource.model_validate({"hub": "owner/name"} | bad)


WORKER = """
import json, sys
from pathlib import Path
from hubpub.source import HubSource, LockedSource, SourceContext
from hubpub.store import Store
spec = HubSource.model_validate_json(sys.argv[1])
context = SourceContext(Store(Path(sys.argv[2])), Path())
locked = LockedSource.model_validate_json(sys.argv[3]) if len(sys.argv) > 3 else spec.resolve(context)
spec.fetch(locked, locked.files, context, lambda _: None)
print(locked.to_json())
"""


def test_an_untouched_client_in_its_own_process_and_kill_9(tmp_path: Path, cdn: CdnStub) -> None:
    with HubStub(dict(FILES), cdn, lfs={"onnx/encoder.onnx", "other.bin"}, token=TOKEN) as hub:
        keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = keep | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", WORKER, SPEC.model_dump_json()]
        run = subprocess.run(
            [*command, str(tmp_path / "one")], env=settings, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        locked = LockedSource.model_validate(json.loads(run.stdout))
        cdn.log.clear()
        cdn.faults = [Fault("", hang_after=2 << 20)]
        root = tmp_path / "two"
        process = subprocess.Popen([*command, str(root), locked.to_json()], env=settings, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while sum(part.stat().st_size for part in root.glob("downloads/*.part")) < 2 << 20:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run([*command, str(root), locked.to_json()], env=settings, check=True, stdout=subprocess.DEVNULL)
        assert [asked.start for asked in cdn.log] == [0, 2 << 20]
    with Store(root) as store:
        assert store.path(locked.files["onnx/encoder.onnx"].sha256).read_bytes() == MODEL
        assert list(store.downloads.iterdir()) == []

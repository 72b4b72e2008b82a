"""Xet through the whole Hub, as the unmodified huggingface_hub uses it; a fresh HF_HOME for each client."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hub_client import run_client, start_client

from hubpub.localhub import LocalHub

PUBLISH = """
import hashlib, random
import numpy as np
random.seed(3)
contents = {
    "model.onnx": np.random.default_rng(2).normal(0, 0.02, 3_000_000).astype("f4").tobytes(),
    "sub/zeros.bin": bytes(12_000_000),
    "sub/random.bin": random.randbytes(11_000_001),
    "notes.bin": b"".join(b"%d bottles\\n" % count for count in range(300_000)),
    "empty": b"",
    "README.md": b"# A model",
}
for path, content in contents.items():
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes(content)
def publish(repo):
    api.create_repo(repo, exist_ok=True)
    operations = [CommitOperationAdd(path, path) for path in contents]
    say(api.create_commit(repo, operations, commit_message="all").oid)
say({path: hashlib.sha256(content).hexdigest() for path, content in contents.items()})
"""
LOAD = """
import hashlib
folder = Path(snapshot_download("tester/made"))
files = [path for path in folder.rglob("*") if path.is_file()]
say({str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
"""
LARGE = ["model.onnx", "notes.bin", "sub/random.bin", "sub/zeros.bin"]


def said(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(hub: LocalHub, code: str, home: Path, *, xet: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """As `run_client`, in a home of one's own, where files may lie as well."""
    home.mkdir(exist_ok=True)
    process = start_client(hub, f"os.chdir({str(home)!r})\n{code}", home, xet=xet, **env)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def xet_requests(hub: LocalHub, part: str) -> list[int | None]:
    return [request.status for request in hub.requests if part in request.path]


@pytest.fixture
def hub(tmp_path: Path) -> LocalHub:
    return LocalHub(tmp_path / "hub")


def test_published_by_xet_loaded_both_ways(hub: LocalHub, tmp_path: Path) -> None:
    with hub:
        sums, _ = said(run(hub, PUBLISH + 'publish("tester/made")', tmp_path / "up"))
        assert 200 in xet_requests(hub, "/xet/v1/xorbs/")
        assert not xet_requests(hub, "/info/lfs/")
        assert {path: sha256 for path, (_, sha256) in hub.files("tester/made").items() if path in sums} == sums
        for xet in (True, False):
            hub.clear_requests()
            [loaded] = said(run_client(hub, LOAD, xet=xet))
            assert {path: loaded[path] for path in sums} == sums
            assert (200 in xet_requests(hub, "/xet/v1/reconstructions/")) == xet
            assert (206 in xet_requests(hub, "/xet/data/")) == xet
            sent = {request.path.rpartition("/resolve/")[2].partition("/")[2] for request in hub.requests}
            assert (set(LARGE) <= sent) == (not xet)


def test_published_by_lfs_loaded_with_xet_on(hub: LocalHub, tmp_path: Path) -> None:
    with hub:
        sums, _ = said(run(hub, PUBLISH + 'publish("tester/made")', tmp_path / "up", xet=False))
        hub.clear_requests()
        hashes = 'say({file.path: file.xet_hash for file in api.list_repo_tree("tester/made") if file.path != "sub"})'
        tree, loaded = said(run_client(hub, hashes + LOAD, xet=True))
        assert set(tree.values()) == {None}
        assert {path: loaded[path] for path in sums} == sums
        assert not xet_requests(hub, "/xet/")


def test_the_same_files_in_another_repo_cost_nothing(hub: LocalHub, tmp_path: Path) -> None:
    with hub:
        run(hub, PUBLISH + 'publish("tester/made")', tmp_path / "up")
        hub.clear_requests()
        said(run(hub, PUBLISH + 'publish("tester/other")', tmp_path / "up"))
        assert not xet_requests(hub, "/xet/v1/xorbs/")
        assert hub.files("tester/other") == hub.files("tester/made")


@pytest.mark.slow
def test_a_hub_that_was_wiped_commits_nothing_for_a_client_that_remembers(tmp_path: Path) -> None:
    home = tmp_path / "up"
    with LocalHub(tmp_path / "first") as hub:
        port = int(hub.endpoint.rpartition(":")[2])
        said(run(hub, PUBLISH + 'publish("tester/made")', home))
    with LocalHub(tmp_path / "wiped", port=port) as hub:
        done = run(hub, PUBLISH + 'publish("tester/made")', home)
        assert done.returncode
        assert "400 Bad Request" in done.stderr.splitlines()[-1]
        assert len(hub.commits("tester/made")) == 1
        assert not set(LARGE) & set(hub.files("tester/made"))
        sums, _ = said(run(hub, PUBLISH + 'publish("tester/made")', tmp_path / "fresh"))
        assert {path: hub.files("tester/made")[path][1] for path in sums} == sums


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"path": "/xet/v1/xorbs/", "status": 500},
        {"path": "/xet/v1/xorbs/", "cut_request_after": 1_000_000},
        {"path": "/xet/v1/xorbs/", "after": True},
        {"path": "/xet/v1/shards", "status": 503},
        {"path": "/xet/v1/shards", "after": True},
        {"path": "/xet/v1/reconstructions/", "status": 500},
        {"path": "/xet/data/", "cut_after": 300_000},
        {"path": "/xet/data/", "status": 403},
    ],
    ids=lambda fault: "-".join(str(value).strip("/") for value in fault.values()),
)
def test_what_breaks_once_is_done_again(hub: LocalHub, tmp_path: Path, fault: dict[str, object]) -> None:
    quick: Any = {"HF_XET_CLIENT_RETRY_BASE_DELAY": "100ms"}
    with hub:
        hub.fault(**fault)  # type: ignore[arg-type]
        sums, _ = said(run(hub, PUBLISH + 'publish("tester/made")', tmp_path / "up", **quick))
        [loaded] = said(run(hub, LOAD, tmp_path / "down", **quick))
        assert {path: loaded[path] for path in sums} == sums
        asked = Counter(request.path for request in hub.requests if str(fault["path"]) in request.path)
        assert max(asked.values()) > 1, asked


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/xet/v1/xorbs/", "/xet/v1/shards"])
def test_what_is_refused_is_not_committed(hub: LocalHub, tmp_path: Path, path: str) -> None:
    with hub:
        hub.fault(path=path, status=403, times=1000)
        done = run(hub, PUBLISH + 'publish("tester/made")', tmp_path / "up")
        assert done.returncode
        assert len(hub.commits("tester/made")) == 1
        hub.clear_faults()
        sums, _ = said(run(hub, PUBLISH + 'publish("tester/made")', tmp_path / "up"))
        assert {path: hub.files("tester/made")[path][1] for path in sums} == sums

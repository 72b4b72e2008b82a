"""Every way in which a server, a network or a login fails: the repo holds the old release or the new one, whole.

Each row breaks one thing while a second release follows a first one, and says how it must end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from made_up import FILES, Stage, make_release, noise

from hubpub.localhub import LocalHub

REVISION, TREE, ACCESS = r"/api/models/[^/]+/[^/]+(/revision/|$)", "/tree/", "/auth-check"
CARD, PREUPLOAD, COMMIT = "/validate-yaml", "/preupload/", "/commit/main$"
BATCH, LFS_PUT, LFS_VERIFY = "/objects/batch", "/_lfs/", "/verify"
TOKEN, XORBS, SHARDS = "/xet-write-token/", "/xorbs/", "/shards"


@dataclass(frozen=True)
class Case:
    """One fault and its outcome."""

    name: str
    fault: dict[str, Any]
    state: str
    code: int = 0
    says: str = ""
    xet: bool = False
    environment: dict[str, str] = field(default_factory=dict)


def refused(name: str, path: str, status: int, says: str, *, xet: bool = False, **more: Any) -> Case:
    """The server says no, and goes on saying it."""
    fault = {"path": path, "status": status, "times": 99, "headers": {"Retry-After": "0"}, **more}
    return Case(name, fault, "old", 1, says, xet)


def passing(name: str, path: str, *, xet: bool = False, **fault: Any) -> Case:
    """Something happens once, and the publication overcomes it."""
    return Case(name, {"path": path, **fault}, "new", 0, xet=xet)


CASES = [
    # the head is read
    refused("repo 401", REVISION, 401, "log in with `hf auth login`"),
    refused("repo 403", REVISION, 403, "the token may not do this"),
    refused("repo 500", REVISION, 500, "try again later"),
    refused("repo 502", REVISION, 502, "try again later"),
    passing("repo 503 once", REVISION, status=503),
    passing("repo cut once", REVISION, cut_after=10),
    refused("repo answers a page", REVISION, 200, "is not JSON", body="<html>sign in</html>"),
    passing("tree 500 once", TREE, status=500),
    passing("tree cut once", TREE, cut_after=30),
    refused("tree 404", TREE, 404, "check the repo's name"),
    refused("tree of another shape", TREE, 200, "cannot be understood", body='{"files": 3}'),
    Case(
        "tree hangs",
        {"path": TREE, "hang": True, "times": 99},
        "old",
        1,
        "in time",
        environment={"HUBPUB_TIMEOUT": "1"},
    ),
    # may it write
    refused("access 401", ACCESS, 401, "token"),
    refused("access 403", ACCESS, 403, "token"),
    passing("access 504 once", ACCESS, status=504),
    # the card is checked
    refused("card 400", CARD, 400, "refuses", body='{"errors": [{"message": "license is bad"}], "warnings": []}'),
    passing("card 503 once, no JSON", CARD, status=503, body="busy"),
    passing("card cut once", CARD, cut_after=1),
    # what is to be sent
    refused("preupload 401", PREUPLOAD, 401, "token"),
    refused("preupload 403", PREUPLOAD, 403, "token"),
    refused("preupload 413", PREUPLOAD, 413, "too large"),
    passing("preupload 429 once, Retry-After", PREUPLOAD, status=429, headers={"Retry-After": "1"}),
    passing("preupload 429 once, no hint", PREUPLOAD, status=429),
    passing("preupload cut once", PREUPLOAD, cut_after=5),
    passing("preupload slow", PREUPLOAD, delay=1.5),
    # contents over LFS
    passing("batch 502 once", BATCH, status=502),
    refused("batch 403", BATCH, 403, "token"),
    refused("storage full on batch", BATCH, 507, "full"),
    passing("LFS put 500 once", LFS_PUT, method="PUT", status=500),
    refused("LFS put 403", LFS_PUT, 403, "the token may not do this", method="PUT"),
    passing("LFS put cut on the way", LFS_PUT, method="PUT", cut_request_after=1 << 16),
    passing("LFS put slow", LFS_PUT, method="PUT", delay=1.0),
    Case("part with a wrong ETag", {"path": LFS_PUT, "method": "PUT", "headers": {"ETag": '"0"'}}, "old", 1, "refuses"),
    passing("complete 503 once", "/_lfs/complete", status=503),
    passing("complete done, answer lost", "/_lfs/complete", after=True),
    refused("complete 403", "/_lfs/complete", 403, "the token may not do this"),
    refused("LFS put, disk full", LFS_PUT, 507, "storage is full", method="PUT"),
    # contents over Xet
    refused("Xet token 403", TOKEN, 403, "token", xet=True),
    refused("Xet token 404", TOKEN, 404, "404", xet=True),
    passing("Xet token 500 once", TOKEN, status=500, xet=True),
    passing("xorb 503 once", XORBS, status=503, xet=True),
    passing("xorb cut on the way", XORBS, cut_request_after=1000, xet=True),
    refused("xorb 403", XORBS, 403, "403", xet=True),
    refused("shard 400", SHARDS, 400, "upload failed", xet=True),
    passing("shard 500 once", SHARDS, status=500, xet=True),
    # the commit
    refused("commit 400", COMMIT, 400, "refuses the request"),
    refused("commit 401: revoked midway", COMMIT, 401, "token"),
    refused("commit 403", COMMIT, 403, "token"),
    refused("commit 404", COMMIT, 404, "main is as it was"),
    passing("commit 409 once", COMMIT, status=409),
    refused("commit 412 though the head stands", COMMIT, 412, "moved"),
    refused("commit 413", COMMIT, 413, "too large"),
    passing("commit 429 once, Retry-After", COMMIT, status=429, headers={"Retry-After": "1"}),
    passing("commit 500 once", COMMIT, status=500),
    passing("commit 503 once", COMMIT, status=503),
    passing("commit 504, but it was made", COMMIT, status=504, after=True),
    passing("commit 412, but it was made", COMMIT, status=412, after=True),
    passing("commit made, answer lost", COMMIT, after=True),
    passing("commit made, answer cut", COMMIT, cut_after=3),
    passing("commit request cut on the way", COMMIT, cut_request_after=200),
    refused("commit, disk full", COMMIT, 507, "full"),
    Case(
        "commit hangs",
        {"path": COMMIT, "hang": True, "times": 99},
        "old",
        1,
        "in time",
        environment={"HUBPUB_TIMEOUT": "1"},
    ),
    # verifying what is there
    passing("tree 503 after the commit", TREE, status=503, nth=2),
    Case("tree 403 after the commit", {"path": TREE, "status": 403, "nth": 2, "times": 99}, "new", 1, "NOT VERIFIED"),
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with LocalHub(tmp_path_factory.mktemp("hub"), multipart_bytes=1 << 20) as hub:  # contents come in two parts
        yield hub


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_old_or_the_new(case: Case, hub: LocalHub, tmp_path: Path) -> None:
    number = CASES.index(case)
    old = make_release(tmp_path / "old")
    content = noise(1000 + number, 1_400_000)  # bytes that no other case has sent
    new = make_release(tmp_path / "new", {**FILES, "model.bin": content}, wer=0.04)
    stage = Stage(hub, tmp_path, xet=case.xet, token=hub.token(), repo=f"tester/case-{number}")
    hub.seed(stage.repo, old)
    before = hub.commits(stage.repo)
    hub.fault(**case.fault)
    try:
        done = stage.run("publish", new, "--repo", stage.repo, code=case.code, **case.environment)
    finally:
        hub.clear_faults()
    after = hub.commits(stage.repo)
    assert case.says in done.stderr
    if case.code:
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("hubpub: ")]
        assert "; " in line, "says what to do"
    if case.state == "old":
        assert after == before
        assert stage.holds(old)
        stage.run("publish", new, "--repo", stage.repo)  # nothing is in the way of the next try
    assert stage.holds(new)
    assert len(hub.commits(stage.repo)) == len(before) + 1


def test_a_token_that_is_revoked_midway(hub: LocalHub, tmp_path: Path) -> None:
    """Contents are sent, and the commit is not accepted any more; another token finishes the work."""
    old, new = make_release(tmp_path / "old"), make_release(tmp_path / "new", {**FILES, "config.json": b"{}\n"})
    stage = Stage(hub, tmp_path, xet=False, token=hub.token(user="leaver"), repo="leaver/revoked")
    hub.seed(stage.repo, old)
    hub.clear_requests()
    hub.fault(COMMIT, delay=2.0)
    running = stage.start("publish", new, "--repo", stage.repo)
    end = time.monotonic() + 60
    while not any(PREUPLOAD in each.path for each in hub.requests):
        assert time.monotonic() < end
        time.sleep(0.02)
    hub.revoke(stage.token)
    _, said = running.communicate(timeout=60)
    hub.clear_faults()
    assert running.returncode == 1, said
    assert "log in with `hf auth login`" in said
    assert stage.holds(old)
    stage.token = hub.token()
    stage.run("publish", new, "--repo", stage.repo)
    assert stage.holds(new)

"""Lost answers, waits that the Hub asks for, moved heads and Ctrl-C: the remote is the old one or the new one."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up import FILES, LFS, REPO, Stage, make_release, noise


@pytest.fixture
def old(stage: Stage, release: Path) -> Path:
    """A release that is there already."""
    stage.hub.seed(REPO, release)
    stage.hub.clear_requests()
    return release


@pytest.fixture
def new(stage: Stage, old: Path) -> Path:
    """Another one, that is to follow."""
    return make_release(stage.folder / "new", {**FILES, "model.bin": noise(7)}, wer=0.04)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def asked(stage: Stage, route: str) -> Callable[[], bool]:
    return lambda: any(route in each.path for each in stage.hub.requests)


@pytest.mark.parametrize("status", [None, 500, 504])
def test_a_lost_answer_is_recognised(stage: Stage, new: Path, status: int | None) -> None:
    before = stage.hub.commits(REPO)
    stage.hub.fault("/commit/main$", method="POST", after=True, status=status)
    done = stage.publish(new)
    assert (done["state"], done["recognised"]) == ("published", True)
    assert stage.holds(new)
    assert len(stage.hub.commits(REPO)) == len(before) + 1
    assert stage.commits_asked() == 1


@LFS
@pytest.mark.parametrize("headers", [{"Retry-After": "2"}, {"RateLimit": '"api";r=0;t=2'}])
def test_a_wait_that_the_hub_asks_for_is_honoured(stage: Stage, new: Path, headers: dict[str, str]) -> None:
    stage.hub.fault("/commit/main$", method="POST", status=429, headers=headers)
    begun = time.monotonic()
    said = stage.run("publish", new, "--repo", REPO).stderr
    assert time.monotonic() - begun >= 2
    assert "too many requests" in said
    assert "trying again in 2 s" in said
    assert stage.holds(new)
    assert stage.commits_asked() == 2


def test_a_wait_for_hours_is_refused(lfs_stage: Stage, release: Path) -> None:
    lfs_stage.hub.seed(REPO, release)
    new = make_release(lfs_stage.folder / "new", {**FILES, "model.bin": noise(7)})
    before = lfs_stage.hub.head(REPO)
    for route in ("/preupload/", "/commit/main$", "/revision/main$", "/objects/batch"):
        lfs_stage.hub.fault(route, status=503, headers={"Retry-After": "7200"})
        said = lfs_stage.run("publish", new, "--repo", REPO, code=1).stderr
        assert "the Hub answers 503 and asks to wait 7200 s" in said
        lfs_stage.hub.clear_faults()
        assert lfs_stage.hub.head(REPO) == before


@LFS
def test_a_moved_head_stops_the_publication(stage: Stage, new: Path) -> None:
    other = make_release(stage.folder / "other", {**FILES, "config.json": b"{}\n"})
    stage.hub.fault("/preupload/main$", delay=1.5)
    running = stage.start("publish", new, "--repo", REPO)
    wait_until(asked(stage, "/validate-yaml"))
    moved = stage.hub.seed(REPO, other)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 4, said
    assert f"is {moved[:12]} now; nothing was changed; look at what is there" in said
    assert stage.hub.head(REPO) == moved
    assert stage.commits_asked() == 0


def test_a_head_that_moves_while_the_commit_is_asked_for(stage: Stage, new: Path) -> None:
    """The server refuses it: the commit names its parent."""
    other = make_release(stage.folder / "other", {**FILES, "config.json": b"{}\n"})
    stage.hub.fault("/commit/main$", method="POST", delay=1.5)
    stage.hub.fault("/validate-yaml", nth=2, delay=1.0)
    running = stage.start("publish", new, "--repo", REPO)
    wait_until(lambda: sum("/revision/main" in each.path for each in stage.hub.requests) == 2)  # the last look at it
    moved = stage.hub.seed(REPO, other)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 4, said
    assert stage.hub.head(REPO) == moved
    assert [each.status for each in stage.hub.requests if "/commit/" in each.path] == [412]


@LFS
def test_a_moved_head_is_compared_anew_on_request(stage: Stage, new: Path) -> None:
    other = make_release(stage.folder / "other", {**FILES, "config.json": b"{}\n", "more.txt": b"more\n"})
    stage.hub.fault("/preupload/main$", delay=1.5)
    running = stage.start("publish", new, "--repo", REPO, "--rediff")
    wait_until(asked(stage, "/validate-yaml"))
    stage.hub.seed(REPO, other)
    out, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert "comparing anew" in said
    assert "removed  more.txt" in out
    assert stage.holds(new)


@LFS
def test_another_publisher_of_the_same_release_is_no_conflict(stage: Stage, new: Path) -> None:
    stage.hub.fault("/preupload/main$", delay=1.5)
    running = stage.start("publish", new, "--repo", REPO)
    wait_until(asked(stage, "/validate-yaml"))
    there = stage.hub.seed(REPO, new)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert stage.hub.head(REPO) == there


@pytest.mark.parametrize("route", ["/preupload/main$", "/xorbs/|/_lfs/", "/commit/main$"])
def test_ctrl_c_leaves_the_remote_as_it_was(stage: Stage, new: Path, route: str) -> None:
    before = stage.hub.head(REPO)
    stage.hub.fault(route, hang=True, times=99)
    running = stage.start("publish", new, "--repo", REPO, HUBPUB_TIMEOUT="100")
    wait_until(asked(stage, "/validate-yaml"))
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    try:
        _, said = running.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        running.kill()
        raise
    assert running.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert stage.hub.head(REPO) == before


def test_what_was_damaged_on_the_way_is_said_loudly(lfs_stage: Stage, release: Path) -> None:
    """A tree that lists another hash than was sent stands for a server that stored something else."""
    lfs_stage.hub.seed(REPO, release)
    before = lfs_stage.hub.head(REPO)
    new = make_release(lfs_stage.folder / "new", {**FILES, "model.bin": noise(7)})
    listed = '[{"type": "file", "path": "model.bin", "size": 1, "oid": "' + "0" * 40 + '"}]'
    lfs_stage.hub.fault("/tree/", nth=2, times=2, status=200, body=listed)
    said = lfs_stage.run("publish", new, "--repo", REPO, code=1).stderr
    assert "BUT WRONG: on the Hub these differ from the release: README.md" in said
    assert f"`hubpub revert {REPO} --to {before[:12]}`" in said

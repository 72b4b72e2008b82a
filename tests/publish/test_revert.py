"""``hubpub revert``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up import FILES, LFS, REPO, Stage, make_release, noise

NEW = {"model.bin": noise(7), "config.json": b"{}\n", "added.bin": noise(8), "added.txt": b"added\n"}


@pytest.fixture
def new(stage: Stage, release: Path) -> Path:
    """The release and after it another one, both on the Hub."""
    stage.hub.seed(REPO, release, tag="v1")
    made = make_release(stage.folder / "new", NEW)
    stage.hub.seed(REPO, made)
    stage.hub.clear_requests()
    return made


def test_the_commit_before_comes_back_without_sending_weights(stage: Stage, release: Path, new: Path) -> None:
    commits = stage.hub.commits(REPO)
    done = stage.run("revert", REPO)
    assert stage.holds(release)
    assert stage.hub.commits(REPO)[1:] == commits  # one more, and nothing rewritten
    assert stage.sent() == 0
    assert "removed  added.bin" in done.stdout
    assert "restored model.bin" in done.stdout
    assert "files verified by hash" in done.stdout
    stage.run("revert", REPO)  # there and back again
    assert stage.holds(new)


@LFS
@pytest.mark.parametrize("way", ["tag", "commit", "short"])
def test_any_commit_can_be_named(stage: Stage, release: Path, new: Path, way: str) -> None:
    stage.hub.seed(REPO, make_release(stage.folder / "third", {**FILES, "config.json": b"[]\n"}))
    first = stage.hub.head(REPO, "v1")
    done = json.loads(
        stage.run("revert", REPO, "--json", "--to", {"tag": "v1", "commit": first}.get(way, first[:12])).stdout
    )
    assert (done["to"], done["commit"]) == (first, stage.hub.head(REPO))
    assert stage.holds(release)


def test_nothing_to_do_and_dry_run(lfs_stage: Stage, release: Path) -> None:
    lfs_stage.hub.seed(REPO, release)
    lfs_stage.hub.seed(REPO, make_release(lfs_stage.folder / "new", NEW))
    before = lfs_stage.hub.commits(REPO)
    lfs_stage.hub.clear_requests()
    assert "dry run" in lfs_stage.run("revert", REPO, "--dry-run").stdout
    assert "the files are equal" in lfs_stage.run("revert", REPO, "--to", before[0]).stdout
    assert "no commit, tag or branch v9" in lfs_stage.run("revert", REPO, "--to", "v9", code=1).stderr
    assert "no such repo, or no branch main" in lfs_stage.run("revert", "tester/none", code=1).stderr
    assert lfs_stage.hub.commits(REPO) == before
    assert {each.method for each in lfs_stage.hub.requests} == {"GET"}


def test_a_lost_answer_is_recognised(stage: Stage, release: Path, new: Path) -> None:
    commits = stage.hub.commits(REPO)
    stage.hub.fault("/commit/main$", method="POST", after=True)
    stage.run("revert", REPO)
    assert stage.holds(release)
    assert len(stage.hub.commits(REPO)) == len(commits) + 1


def test_a_large_release_is_reverted_to_what_main_was(lfs_stage: Stage, release: Path) -> None:
    """Main was moved by a merge: the commits of the pull request are no place to go back to."""
    lfs_stage.hub.seed(REPO, release)
    files = {**FILES, **{f"parts/{number:03}.txt": b"%d\n" % number for number in range(120)}}
    lfs_stage.publish(make_release(lfs_stage.folder / "large", files))
    lfs_stage.run("revert", REPO)
    assert lfs_stage.holds(release)

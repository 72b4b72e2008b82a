"""kill -9 at every request of a publication, and publishers that race: one commit, whole, or none."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from made_up import FILES, REPO, Stage, make_release, noise

MOST_REQUESTS = 60


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended_or_asked(stage: Stage, running: subprocess.Popen[str], count: int) -> bool:
    return running.poll() is not None or len(stage.hub.requests) >= count


@pytest.mark.slow
def test_killed_at_every_request(stage: Stage, release: Path) -> None:
    """The request that hangs is the first, then the second, and so on until the publication ends before it."""
    stage.hub.seed(REPO, release)
    there = release
    states: list[bool] = []
    ended = False
    while not ended:
        number = len(states)
        assert number < MOST_REQUESTS
        new = make_release(stage.folder / f"new-{number}", {**FILES, "model.bin": noise(100 + number)}, wer=0.04)
        commits = stage.hub.commits(REPO)
        stage.hub.clear_requests()
        stage.hub.fault(".", hang=True, nth=number + 1, times=99)
        running = stage.start("publish", new, "--repo", REPO)
        try:
            wait_until(partial(ended_or_asked, stage, running, number))
            time.sleep(0.3)  # so that the next request is under way, and hangs
            ended = running.poll() is not None
            running.send_signal(signal.SIGKILL)
            running.communicate(timeout=20)
        finally:
            running.kill()
            stage.hub.clear_faults()
        states.append(stage.holds(new))
        assert states[-1] or stage.holds(there), f"between the old and the new after {number} requests"
        assert len(stage.hub.commits(REPO)) == len(commits) + states[-1]
        assert stage.publish(new)["state"] == ("unchanged" if states[-1] else "published")
        assert stage.holds(new)
        there = new
    assert states[0] is False
    assert states[-1] is True
    assert states == sorted(states), "once it is there it stays there"


@pytest.mark.slow
def test_of_four_publishers_one_wins(stage: Stage, release: Path) -> None:
    stage.hub.seed(REPO, release)
    before = stage.hub.commits(REPO)
    stage.hub.fault("/preupload/", delay=4.0, times=4)  # all have read the head before one commits
    releases = [
        make_release(stage.folder / f"release-{number}", {**FILES, "model.bin": noise(50 + number)})
        for number in range(4)
    ]
    running = [stage.start("publish", each, "--repo", REPO) for each in releases]
    said = [each.communicate(timeout=120)[1] for each in running]
    codes = [each.returncode for each in running]
    assert sorted(codes) == [0, 4, 4, 4], said
    assert stage.holds(releases[codes.index(0)])
    assert len(stage.hub.commits(REPO)) == len(before) + 1
    head = stage.hub.head(REPO)
    for code, text in zip(codes, said, strict=True):
        if code:
            assert head[:12] in text
            assert "`hubpub publish --rediff` compares anew" in text

"""Several workers on one run: the same bytes as from one, nothing left behind, nothing timed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from measure_fakes import digests
from test_run import Model, Speech, alive, client, digested, linux, run, workers

from hubpub.errors import MeasureError
from hubpub.measure.metrics.rtf import Rtf
from hubpub.measure.result import RunResult
from hubpub.measure.run import run_client, share_out, usual_jobs


def untimed(speech: Speech, folder: Path, out: Path, jobs: int, **options: Any) -> RunResult:
    progress = options.pop("progress", lambda _: None)
    return run_client(
        client(), folder, speech[0], out, progress, run="small", artifacts=digests(folder), timed=False, jobs=jobs
    )


@pytest.mark.parametrize("jobs", [2, 3, 9])
def test_several_workers_give_the_same_bytes_as_one(
    speech: Speech, mel_model: Model, tmp_path: Path, jobs: int
) -> None:
    folder = mel_model()
    heard: list[float] = []
    one = untimed(speech, folder, tmp_path / "one", 1)
    many = untimed(speech, folder, tmp_path / "many", jobs, progress=heard.append)
    assert digested(tmp_path / "many") == digested(tmp_path / "one")
    assert not (tmp_path / "many" / "parts").exists()
    assert sum(heard) == pytest.approx(speech[1].seconds)
    assert [t.id for t in many.timings] == [clip.id for clip in speech[1].clips]
    assert "threads" not in many.job.client
    with pytest.raises(MeasureError, match=r"^run small: rtf cannot be taken: several workers shared the machine"):
        Rtf(metric="rtf").measure(one, speech[1])
    timed = run(speech, folder, tmp_path / "timed")
    assert timed.job.timed
    assert timed.utterances == many.utterances
    assert "timed" not in json.loads((tmp_path / "timed" / "job.json").read_text())


@linux
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_the_caller_ends_all_workers_and_their_work_is_kept(
    speech: Speech, mel_model: Model, tmp_path: Path, error: type[BaseException]
) -> None:
    folder, out = mel_model(slow=True), tmp_path / "out"
    found: list[int] = []

    def stop(seconds: float) -> None:
        if seconds and len(heard) < 3:
            heard.append(seconds)
            found.extend(pid for pid in workers(os.getpid()) if alive(pid))
            if len(heard) == 3:
                raise error

    heard: list[float] = []
    with pytest.raises(error):
        untimed(speech, folder, out, 2, progress=stop)
    assert len(set(found)) == 2
    assert not any(alive(pid) for pid in found)
    again: list[float] = []
    result = untimed(speech, folder, out, 3, progress=again.append)  # another number of workers goes on
    assert len(again) <= 1 + 6 - 3
    assert again[0] > 0
    assert len(result.utterances) == 6
    untimed(speech, folder, tmp_path / "fresh", 1)
    assert digested(out) == digested(tmp_path / "fresh")


def test_one_worker_that_fails_is_reported_once(speech: Speech, mel_model: Model, tmp_path: Path) -> None:
    copy = tmp_path / "corpus"
    copy.mkdir()
    for path in speech[0].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "00002.npy").write_bytes(b"")
    with pytest.raises(MeasureError, match=r"^run small, clip clip2: prepared samples are missing or damaged"):
        untimed((copy, speech[1]), mel_model(), tmp_path / "out", 2)


def test_clips_are_shared_out_evenly(speech: Speech) -> None:
    clips = speech[1].clips
    shares = share_out(clips, 3)
    assert sorted(clip.id for share in shares for clip in share) == sorted(clip.id for clip in clips)
    assert [len(share) for share in shares] == [2, 2, 2]
    seconds = [sum(clip.seconds for clip in share) for share in shares]
    assert max(seconds) - min(seconds) < 1
    assert usual_jobs(client(threads=4), 10) == 4
    assert usual_jobs(client(threads=4), 3_000_000_000) == 1

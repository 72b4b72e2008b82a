from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure_fakes import fake_corpus, fake_run

from hubpub.errors import MeasureError
from hubpub.measure.journal import Journal, prepare_folder, recover
from hubpub.measure.result import Job, RunResult, Timing, Utterance

IDS = ["a", "b", "c"]


def fill(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with Journal(folder) as journal:
        for i, name in enumerate(IDS):
            journal.append(
                Utterance(id=name, audio_s=1.5, segments=1, text=f"tëxt {i}\u2028\n"),
                Timing(id=name, wall_s=0.1 * i, peak_rss_bytes=i),
            )


def test_all_is_recovered(tmp_path: Path) -> None:
    fill(tmp_path)
    before = (tmp_path / "utterances.jsonl").read_bytes()
    utterances, timings = recover(tmp_path, IDS)
    assert [u.id for u in utterances] == [t.id for t in timings] == IDS
    assert utterances[1].text == "tëxt 1\u2028\n"
    assert (tmp_path / "utterances.jsonl").read_bytes() == before


def test_nothing_is_recovered_from_nothing(tmp_path: Path) -> None:
    assert recover(tmp_path, IDS) == ([], [])


@given(st.integers(0, 400), st.integers(0, 400), st.sampled_from([b"", b"\0\0\0", b'{"id": "b"}\n', b"{"]))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_gives_a_whole_beginning(
    tmp_path_factory: pytest.TempPathFactory, utterance_bytes: int, timing_bytes: int, rubbish: bytes
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    fill(folder)
    for name, size in (("utterances.jsonl", utterance_bytes), ("timings.jsonl", timing_bytes)):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:size] + (rubbish if size < len(whole) else b""))
    utterances, timings = recover(folder, IDS)
    assert [u.id for u in utterances] == [t.id for t in timings] == IDS[: len(utterances)]
    # What is left on disk is just that, so that appending goes on from there.
    assert recover(folder, IDS) == (utterances, timings)
    assert (folder / "utterances.jsonl").read_bytes().count(b"\n") == len(utterances)
    assert (folder / "timings.jsonl").read_bytes().count(b"\n") == len(utterances)


def test_lines_of_another_order_and_lost_outputs_are_dropped(tmp_path: Path) -> None:
    fill(tmp_path)
    assert len(recover(tmp_path, ["a", "c", "b"])[0]) == 1
    with Journal(tmp_path) as journal:
        lost = Utterance(id="c", audio_s=1, segments=1, outputs=("outputs/00001.000.npy",))
        journal.append(lost, Timing(id="c", wall_s=1, peak_rss_bytes=1))
    assert len(recover(tmp_path, ["a", "c", "b"])[0]) == 1


def job(run: str) -> Job:
    return fake_run(fake_corpus(["a"]), name=run).job


def test_another_job_starts_afresh_and_the_same_goes_on(tmp_path: Path) -> None:
    prepare_folder(tmp_path, job("x"))
    fill(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "mine.txt").write_text("stays")
    prepare_folder(tmp_path, job("x"))
    assert len(recover(tmp_path, IDS)[0]) == 3
    prepare_folder(tmp_path, job("y"))
    assert recover(tmp_path, IDS) == ([], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", "mine.txt"]


def test_an_unfinished_run_is_not_loaded(tmp_path: Path) -> None:
    prepare_folder(tmp_path, job("x"))
    fill(tmp_path)
    with pytest.raises(MeasureError, match="unfinished or damaged"):
        RunResult.load(tmp_path)

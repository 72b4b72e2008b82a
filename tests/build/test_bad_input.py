"""Bad models, budgets that are missed, audio that overlaps: one clear line, and the last good release stays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import soundfile
from toy import RATE, Finished, Recorder, tree, write_clip, write_model

from hubpub.build import verify_release
from hubpub.errors import GateError, HubpubError, MeasureError, OnnxFileError, OverlapError, RecipeError, ReleaseError
from hubpub.manifest import CARD, read_manifest

EXPENSIVE = {"convert", "runs/whole", "runs/sharded", "files/sharded/model.onnx#1"}


def _refused(copied: Finished, kind: type[HubpubError], *, relock: bool = True, **options: Any) -> str:
    """The line that a build of the changed project ends with; the release must be as it was."""
    before = tree(copied.release)
    copied.project.save()
    if relock:
        copied.project.path.with_suffix(".lock").unlink()
    with pytest.raises(kind) as caught:
        copied.project.build(copied.store, **options)
    assert tree(copied.release) == before
    assert not [path for path in copied.release.parent.iterdir() if path.name.endswith(".tmp")]
    assert list((copied.store / "scratch").iterdir()) == []
    lines = str(caught.value).splitlines()
    assert all(lines)
    if kind is not GateError:
        assert len(lines) == 1, lines
    return str(caught.value)


# -- ONNX


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _garbage(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>" * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncated, _garbage, _empty])
@pytest.mark.parametrize("kept", [False, True])
def test_a_damaged_model(copied: Finished, damage: Callable[[Path], None], kept: bool) -> None:
    copied.project.without_measurements()
    if kept:
        copied.project.recipe["files"] = {"model.onnx": "data/model.onnx", "config.json": "convert/config.json"}
    damage(copied.project.folder / "data" / "model.onnx")
    line = _refused(copied, OnnxFileError)
    assert line.startswith(f"{copied.project.path}:")
    assert "model.onnx: " in line
    assert ".tmp" not in line, "the reader cannot look into a folder that is gone"
    assert "scratch" not in line


def _external(copied: Finished, change: Callable[[Any], None] | None = None, *, data: bool = True) -> None:
    """A source model with weights in ``big.onnx.data``, sharded from the source itself."""
    folder = copied.project.folder / "data"
    write_model(folder / "big.onnx", external="big.onnx.data")
    if change is not None:
        model = onnx.load(folder / "big.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                change(tensor)
        (folder / "big.onnx").write_bytes(model.SerializeToString())
    if not data:
        (folder / "big.onnx.data").unlink()
    recipe = copied.project.without_measurements().recipe
    recipe["sources"]["data"]["include"] = ["*.onnx", "*.data", "*.txt"]
    chain = [{"transform": "shard", "max_bytes": "26 kB", "alignment": 64}]
    recipe["files"] = {"notes.txt": "data/notes.txt", "out/big.onnx": {"from": "data/big.onnx", "chain": chain}}
    if not data:
        recipe["sources"]["data"]["include"] = ["*.onnx", "*.txt"]


def _set(tensor: Any, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value


def test_external_data_is_found_beside_the_model(copied: Finished) -> None:
    _external(copied)
    copied.project.save()
    built = copied.project.build(copied.store)
    assert {"out/big.onnx", "out/big.onnx.data.000", "out/big.onnx.data.001"} <= built.manifest.files.keys()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensor: _set(tensor, "location", "/etc/passwd"), "absolute"),
        (lambda tensor: _set(tensor, "location", "../notes.txt"), "outside|leaves|\\.\\."),
        (lambda tensor: _set(tensor, "location", "other.data"), "other.data"),
        (lambda tensor: _set(tensor, "offset", "26000"), "bytes"),
        (lambda tensor: _set(tensor, "length", "1000000"), "has length 1000000"),
        (lambda tensor: _set(tensor, "offset", "-4096"), "-4096"),
        (lambda tensor: _set(tensor, "offset", "x"), "offset"),
    ],
)
def test_external_data_that_lies(copied: Finished, change: Callable[[Any], None], says: str) -> None:
    _external(copied, change)
    line = _refused(copied, OnnxFileError)
    assert re.search(says, line), line
    assert line.startswith(f"{copied.project.path}:{copied.project.line_of('transform: shard')}:")
    assert "scratch" not in line


def test_external_data_that_is_missing(copied: Finished) -> None:
    _external(copied, data=False)
    assert "big.onnx.data" in _refused(copied, OnnxFileError)


def test_external_data_that_is_too_short(copied: Finished) -> None:
    _external(copied)
    data = copied.project.folder / "data" / "big.onnx.data"
    data.write_bytes(data.read_bytes()[:-100])
    assert "big.onnx.data" in _refused(copied, OnnxFileError)


def test_external_data_that_is_a_link_out_of_its_folder(copied: Finished, tmp_path: Path) -> None:
    _external(copied)
    data = copied.project.folder / "data" / "big.onnx.data"
    data.rename(tmp_path / "elsewhere.data")
    data.symlink_to(tmp_path / "elsewhere.data")
    assert "is a link that leaves the folder" in _refused(copied, HubpubError)


def test_a_kept_model_without_its_sidecar_is_refused(copied: Finished) -> None:
    _external(copied)
    copied.project.recipe["files"] = {"big.onnx": "data/big.onnx"}
    line = _refused(copied, OnnxFileError)
    assert line.startswith(f"{copied.project.path}:{copied.project.line_of('big.onnx:')}:3: files.big.onnx: big.onnx")
    assert "big.onnx.data" in line
    copied.project.recipe["files"]["big.onnx.data"] = "data/big.onnx.data"
    copied.project.save()
    assert verify_release(copied.project.build(copied.store).folder)


def test_a_model_that_its_client_cannot_load(copied: Finished) -> None:
    path = copied.project.folder / "data" / "model.onnx"
    model = onnx.load(path)
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, path)
    line = _refused(copied, MeasureError)
    assert line.startswith("run whole")
    assert "NoSuchOperator" in line


def test_two_entries_that_publish_one_path(copied: Finished) -> None:
    (copied.project.folder / "data" / "model.onnx.data.000.txt").write_text("x")
    copied.project.without_measurements().recipe["files"]["sharded/model.onnx.data.000"] = "data/notes.txt"
    line = _refused(copied, ReleaseError)
    assert "sharded/model.onnx.data.000 is made twice, by" in line
    assert line.startswith(f"{copied.project.path}:")


# -- budgets


def test_a_missed_budget_leaves_a_rejected_folder_and_the_last_release(copied: Finished) -> None:
    copied.project.recipe["gates"] += [
        {"measure": "sharded/cosine", "min": 1.5},
        {"measure": "whole/rtf", "max": 1e-9},
    ]
    text = _refused(copied, GateError)
    lines = text.splitlines()
    assert lines[0].startswith("budget missed: sharded/cosine: at least 1.5: 1 cosine")
    assert lines[1].startswith("budget missed: whole/rtf: at most 1e-09: ")
    rejected = copied.release.with_name("toy.rejected")
    assert lines[2] == f"{copied.project.path}: no release was made; see {rejected / CARD}"
    assert len(lines) == 3
    manifest = read_manifest(rejected)
    assert [verdict.passed for verdict in manifest.all_verdicts()].count(False) == 2
    assert "**missed**" in (rejected / CARD).read_text()
    assert (rejected / "model.onnx").read_bytes() == (copied.release / "model.onnx").read_bytes()
    with pytest.raises(GateError):  # and again, over what was left
        copied.project.build(copied.store)
    assert not list(rejected.parent.glob(".*.tmp"))


def test_a_budget_on_a_difference_that_no_metric_gives_is_refused_before_anything_runs(copied: Finished) -> None:
    """No paired difference of cosines is ever taken."""
    copied.project.recipe["measure"]["other"] = {**copied.project.recipe["measure"]["sharded"]}
    copied.project.recipe["gates"].append({"measure": "sharded/cosine", "against": "other/cosine", "max": 1})
    line = _refused(copied, RecipeError)
    assert "cosine is not taken as a difference to another run; judge the figure itself" in line


def test_a_budget_that_wants_more_clips_than_there_are_is_refused_before_anything_runs(copied: Finished) -> None:
    copied.project.recipe["gates"][0]["min_n"] = 4
    reporter = Recorder()
    line = _refused(copied, RecipeError, reporter=reporter)
    assert "can never pass: it wants n of at least 4, and the corpus has 3" in line
    assert line.startswith(f"{copied.project.path}:{copied.project.line_of('measure: sharded/cosine')}:")
    assert reporter.started == []


def test_a_budget_that_only_the_prepared_corpus_shows_to_be_impossible(copied: Finished) -> None:
    """The words stand in files, so the recipe alone cannot tell how many there are."""
    for number in range(3):
        (copied.project.folder / "data" / f"chord{number}.txt").write_text("two words")
        copied.project.recipe["corpora"]["chords"]["clips"][number]["text_from"] = f"data/chord{number}.txt"
    whole = copied.project.recipe["measure"]["whole"]
    whole["via"] = {"client": "onnx-asr", "model": "whisper", "language": "en"}
    whole["metrics"] = ["wer"]
    copied.project.recipe["measure"] = {"whole": whole}
    copied.project.recipe["gates"] = [{"measure": "whole/wer", "max": 0.5, "min_n": 7}]
    copied.project.recipe["card"]["summary"] = "Never rendered."
    copied.project.recipe["steps"]["convert"]["args"] = ["1"]
    reporter = Recorder()
    line = _refused(copied, RecipeError, reporter=reporter)
    assert "can never pass: it wants n of at least 7, and the corpus has 6" in line
    assert "corpora/chords" in reporter.ended
    assert not set(reporter.started) & EXPENSIVE


# -- audio


@pytest.fixture
def tuned(copied: Finished) -> Finished:
    """With a changed step, so that something expensive would have to run."""
    copied.project.recipe["steps"]["convert"]["args"] = ["320"]
    copied.project.recipe["files"]["sharded/model.onnx"]["chain"][0]["max_bytes"] = 60_000
    return copied


def _same_file_under_another_name(folder: Path) -> None:
    (folder / "tuning.wav").write_bytes((folder / "chord1.wav").read_bytes())


def _same_samples_in_another_container(folder: Path) -> None:
    samples, _ = soundfile.read(folder / "chord1.wav", dtype="int16")
    soundfile.write(folder / "tuning.wav", samples, RATE, format="FLAC", subtype="PCM_16")


@pytest.mark.parametrize("make", [_same_file_under_another_name, _same_samples_in_another_container])
def test_overlapping_audio_stops_before_anything_expensive(tuned: Finished, make: Callable[[Path], None]) -> None:
    make(tuned.project.folder / "speech")
    reporter = Recorder()
    line = _refused(tuned, OverlapError, reporter=reporter)
    assert "clip tuning of tuning (calibration) and clip chord1 of chords (evaluation)" in line
    assert "are the same samples" in line
    assert not set(reporter.started) & EXPENSIVE


def test_overlapping_crops_of_one_recording(tuned: Finished) -> None:
    write_clip(tuned.project.folder / "speech" / "tuning.wav", 99, seconds=2)
    corpora = tuned.project.recipe["corpora"]
    corpora["tuning"]["clips"] = [{"audio": "speech/tuning.wav", "crop": [0, 1.2]}]
    corpora["chords"]["clips"].append({"audio": "speech/tuning.wav", "crop": [1, 2]})
    line = _refused(tuned, OverlapError)
    assert "share 1-1.2 s of one recording" in line


def test_every_overlap_is_named(tuned: Finished) -> None:
    for number in (1, 2):
        (tuned.project.folder / "speech" / f"again{number}.wav").write_bytes(
            (tuned.project.folder / "speech" / f"chord{number}.wav").read_bytes()
        )
        tuned.project.recipe["corpora"]["tuning"]["clips"].append({"audio": f"speech/again{number}.wav"})
    tuned.project.save()
    tuned.project.path.with_suffix(".lock").unlink()
    with pytest.raises(OverlapError) as caught:
        tuned.project.build(tuned.store)
    assert [line.split(" ")[1] for line in str(caught.value).splitlines()] == ["again1", "again2"]


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"\0" * 1000, b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + b"\xff" * 40]
)
def test_audio_that_cannot_be_decoded(tuned: Finished, content: bytes) -> None:
    (tuned.project.folder / "speech" / "chord1.wav").write_bytes(content)
    assert "clip chord1 (speech/chord1.wav)" in _refused(tuned, HubpubError)


def test_a_step_that_cannot_work_says_where_it_stands_in_the_recipe(copied: Finished) -> None:
    copied.project.recipe["files"]["sharded/model.onnx"]["chain"][0]["max_bytes"] = 2000
    line = _refused(copied, HubpubError)
    assert "more than max_bytes = 2000" in line
    assert "raise max_bytes" in line


def test_the_rejected_manifest_is_plain_json(copied: Finished) -> None:
    copied.project.recipe["gates"] = [{"measure": "sharded/max_abs_diff", "min": 5}]
    _refused(copied, GateError)
    data = json.loads((copied.release.with_name("toy.rejected") / "hubpub.json").read_text())
    assert data["verdicts"][0]["passed"] is False

"""Building again: what did not change is neither run nor fetched, what changed is, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import CONVERT, Finished, Project, Recorder, tree, write_clip

from hubpub.build import verify_release
from hubpub.errors import ReleaseError
from hubpub.manifest import CARD, MANIFEST
from hubpub.store import Store

ALL = (
    *("corpora/chords", "corpora/tuning", "disjointness", "convert", "files/sharded/model.onnx#1"),
    *("runs/whole", "runs/sharded", "measurements/whole", "measurements/sharded"),
)
SHARDED = ("files/sharded/model.onnx#1", "runs/sharded", "measurements/sharded")


def test_a_first_build_runs_every_step_once_in_order(finished: Finished) -> None:
    assert sorted(finished.built.ran) == sorted(ALL)
    assert finished.built.cached == ()
    position = {name: index for index, name in enumerate(finished.built.ran)}
    assert position["disjointness"] < position["convert"] < position["files/sharded/model.onnx#1"]
    assert position["runs/whole"] < position["measurements/sharded"]


def test_nothing_changed(copied: Finished) -> None:
    before = tree(copied.release)
    reporter = Recorder()
    copied.project.build(copied.store)  # a copy is read once
    built = copied.project.build(copied.store, reporter=reporter)
    assert (built.ran, built.bytes_fetched, built.unchanged) == ((), 0, True)
    assert sorted(built.cached) == sorted(ALL)
    assert reporter.started == []
    assert tree(copied.release) == before


def test_nothing_is_written_when_nothing_changed(copied: Finished) -> None:
    copied.project.build(copied.store)
    before = {path: path.stat().st_mtime_ns for path in copied.release.rglob("*")}
    copied.project.build(copied.store)
    assert {path: path.stat().st_mtime_ns for path in copied.release.rglob("*")} == before


def _edit_in_place(path: Path) -> None:
    with path.open("r+b") as file:  # a hard link into the store, where the file system cannot reflink
        file.write(b"EDITED")


def _replace_at_the_same_size(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[::-1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.onnx", _edit_in_place),
        ("model.onnx", _replace_at_the_same_size),
        ("model.onnx", Path.unlink),
        ("model.onnx", lambda path: os.truncate(path, 3)),
        ("notes.txt", _edit_in_place),
        ("sharded/model.onnx.data.000", _edit_in_place),
        (CARD, _edit_in_place),
        (CARD, Path.unlink),
        ("recipe/toy.yaml", _replace_at_the_same_size),
        ("measurements/whole.timings.jsonl", _edit_in_place),
        (MANIFEST, _edit_in_place),
        (MANIFEST, Path.unlink),
    ],
)
def test_an_edited_or_deleted_file_is_restored(copied: Finished, name: str, damage: Callable[[Path], object]) -> None:
    copied.project.build(copied.store)
    before = tree(copied.release)
    damage(copied.release / name)
    built = copied.project.build(copied.store)
    assert not built.unchanged
    after = tree(copied.release)
    observed = {MANIFEST, CARD, *(path for path in before if path.endswith(".timings.jsonl"))}
    assert {path: digest for path, digest in after.items() if path not in observed} == {
        path: digest for path, digest in before.items() if path not in observed
    }
    assert verify_release(copied.release).digest == copied.built.manifest.digest
    with Store(copied.store) as store:
        assert list(store.verify()) == []


def test_a_deleted_folder_is_restored(copied: Finished) -> None:
    shutil.rmtree(copied.release)
    built = copied.project.build(copied.store)
    assert built.ran == ()
    assert verify_release(copied.release).digest == copied.built.manifest.digest


@pytest.mark.parametrize("name", ["mine.txt", "sharded/mine.bin", ".git/config", "link"])
def test_a_file_of_the_users_is_noticed_and_never_destroyed(copied: Finished, name: str) -> None:
    mine = copied.release / name
    mine.parent.mkdir(exist_ok=True)
    mine.symlink_to("model.onnx") if name == "link" else mine.write_text("years of work")
    before = tree(copied.release)
    copied.project.recipe["card"]["title"] = "Another title"
    copied.project.save()
    with pytest.raises(ReleaseError, match=re.escape(f"holds {name}, which no build wrote")):
        copied.project.build(copied.store)
    assert tree(copied.release) == before
    mine.unlink()
    assert "Another title" in (copied.project.build(copied.store).folder / CARD).read_text()


def test_a_folder_that_is_no_release_is_refused_before_any_work(project: Project, store: Path, tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("years of work")
    reporter = Recorder()
    with pytest.raises(ReleaseError, match=r"holds thesis\.txt, which no build wrote"):
        project.build(store, documents, reporter=reporter)
    assert not set(reporter.started) & set(ALL)
    assert tree(documents).keys() == {"thesis.txt"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReleaseError, match="is not a folder"):
        project.build(store, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("damaged", [False, True])
def test_the_users_files_are_safe_when_the_manifest_is_gone_too(copied: Finished, damaged: bool) -> None:
    (copied.release / "mine.txt").write_text("years of work")
    (copied.release / MANIFEST).write_text("{}") if damaged else (copied.release / MANIFEST).unlink()
    with pytest.raises(ReleaseError, match=r"holds .*mine.txt.*, which no build wrote"):
        copied.project.build(copied.store)
    assert (copied.release / "mine.txt").read_text() == "years of work"


def test_an_output_may_be_an_empty_folder_a_link_or_the_working_folder(
    copied: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty [1]").mkdir()
    assert verify_release(copied.project.build(copied.store, tmp_path / "empty [1]").folder)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    copied.project.build(copied.store, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert verify_release(tmp_path / "real")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    copied.project.build(copied.store, Path())
    assert verify_release(tmp_path / "here")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_what_a_killed_build_left_beside_the_release_goes(copied: Finished) -> None:
    output = copied.release.with_name("out [1]")
    left = output.with_name(".out [1].abcdef.tmp")
    (left / "deep").mkdir(parents=True)
    other = output.with_name(".out 1.abcdef.tmp")  # what a glob would have taken for it
    other.mkdir()
    copied.project.build(copied.store, output)
    assert not left.exists()
    assert other.exists()


def test_prose_is_rendered_anew_without_running_a_step(copied: Finished) -> None:
    copied.project.recipe["card"]["summary"] = "Said otherwise."
    copied.project.save()
    built = copied.project.build(copied.store)
    assert (built.ran, built.unchanged) == ((), False)
    assert "Said otherwise." in (copied.release / CARD).read_text()
    assert "Said otherwise." in (copied.release / "recipe" / "toy.yaml").read_text()
    assert built.manifest.digest != copied.built.manifest.digest  # the recipe is part of the release
    assert built.manifest.files == copied.built.manifest.files


def test_a_new_template_is_rendered_without_running_a_step(copied: Finished) -> None:
    template = copied.project.folder / "templates" / "speech.md.j2"
    template.write_text(template.read_text() + "\nA new last line.\n")
    built = copied.project.build(copied.store)
    assert built.ran == ()
    assert (copied.release / CARD).read_text().endswith("A new last line.\n")


def _other_shards(recipe: dict[str, Any]) -> None:
    recipe["files"]["sharded/model.onnx"]["chain"][0]["max_bytes"] = 60_000


def _other_gate(recipe: dict[str, Any]) -> None:
    recipe["gates"][0]["min"] = 0.5


def _other_threads(recipe: dict[str, Any]) -> None:
    recipe["measure"]["whole"]["via"]["threads"] = 2
    recipe["gates"].pop(1)  # other sums, so no longer bit for bit the same


def _other_metrics(recipe: dict[str, Any]) -> None:
    recipe["measure"]["sharded"]["metrics"].append("rtf")


def _other_argument(recipe: dict[str, Any]) -> None:
    recipe["steps"]["convert"]["args"] = ["320"]


def _fewer_clips(recipe: dict[str, Any]) -> None:
    recipe["corpora"]["chords"]["clips"].pop()
    recipe["gates"][0]["min_n"] = 2


def _renamed_run(recipe: dict[str, Any]) -> None:
    recipe["measure"]["fp32"] = recipe["measure"].pop("whole")
    recipe["measure"]["sharded"]["reference"] = "fp32"
    recipe["gates"][2]["measure"] = "fp32/rtf"


def _another_file(recipe: dict[str, Any]) -> None:
    recipe["files"]["again/notes.txt"] = "data/notes.txt"


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        (_other_shards, SHARDED),
        (_other_gate, ()),
        (_other_threads, ("runs/whole", "measurements/whole", "measurements/sharded")),
        (_other_metrics, ("measurements/sharded",)),
        (_other_argument, ("convert",)),  # another config.json, the same model: early cutoff
        (
            _fewer_clips,
            ("corpora/chords", "disjointness", *[name for name in ALL if name.startswith(("runs/", "measure"))]),
        ),
        (_renamed_run, ("measurements/fp32", "measurements/sharded")),
        (_another_file, ()),
    ],
)
def test_a_change_runs_what_depends_on_it_and_nothing_else(
    copied: Finished, change: Callable[[dict[str, Any]], None], runs: tuple[str, ...]
) -> None:
    change(copied.project.recipe)
    copied.project.save()
    built = copied.project.build(copied.store)
    assert sorted(built.ran) == sorted(runs)
    assert verify_release(copied.release).digest == built.manifest.digest
    assert copied.project.build(copied.store).unchanged


def test_a_run_under_another_name_is_measured_under_that_name(copied: Finished) -> None:
    _renamed_run(copied.project.recipe)
    copied.project.save()
    built = copied.project.build(copied.store)
    cosine = next(each for each in built.manifest.measurements if each.metric == "cosine")
    assert (cosine.run, cosine.reference) == ("sharded", "fp32")
    assert {each.run for each in built.manifest.all_measurements()} == {"fp32", "sharded"}


def test_a_rewritten_script_with_the_same_outputs_stops_there(copied: Finished) -> None:
    copied.project.script.write_text(CONVERT + "# a remark\n")
    built = copied.project.build(copied.store)
    assert built.ran == ("convert",)
    assert not built.unchanged
    assert (copied.release / "recipe/scripts/convert.py").read_text().endswith("# a remark\n")
    copied.project.script.write_text(CONVERT)
    assert copied.project.build(copied.store).ran == ()


def test_what_is_edited_while_a_build_runs_has_no_part_in_it(project: Project, store: Path) -> None:
    class Editor(Recorder):
        def start(self, name: str, what: str, total: int | None) -> None:
            if name == "convert":
                project.script.write_text("raise SystemExit('half edited')")
                project.path.write_text("half edited")
                (project.folder / "templates" / "speech.md.j2").write_text("half edited")

    text = project.without_measurements().path.read_bytes()
    built = project.build(store, reporter=Editor())
    assert (built.folder / "recipe" / "toy.yaml").read_bytes() == text
    assert (built.folder / "recipe" / "scripts" / "convert.py").read_text() == CONVERT
    assert "half edited" not in (built.folder / CARD).read_text()
    record = built.manifest.steps["convert"].identity["script"]
    assert record == built.manifest.records["recipe/scripts/convert.py"].sha256


def test_a_damaged_result_in_the_store_is_made_anew(copied: Finished) -> None:
    copied.project.build(copied.store)
    digest = copied.built.manifest.files["sharded/model.onnx.data.000"].sha256
    (copied.store / "blobs" / digest[:2] / digest).write_bytes(b"rotten")
    shutil.rmtree(copied.release)
    built = copied.project.build(copied.store)
    assert built.ran == ("files/sharded/model.onnx#1",)
    assert verify_release(copied.release).digest == copied.built.manifest.digest


def test_after_everything_was_collected_a_build_starts_anew(project: Project, store: Path) -> None:
    built = project.without_measurements().build(store)
    time.sleep(0.02)
    with Store(store) as opened:
        opened.collect(unused_for=0)
        assert list(opened.blobs()) == []
    again = project.build(store)
    assert again.ran == built.ran == ("convert", "files/sharded/model.onnx#1")
    assert again.manifest.digest == built.manifest.digest
    assert project.build(store).unchanged


def test_an_output_elsewhere_is_the_same_release(copied: Finished, tmp_path: Path) -> None:
    built = copied.project.build(copied.store, tmp_path / "elsewhere" / "deep")
    assert built.ran == ()
    assert built.manifest.digest == copied.built.manifest.digest


def test_two_runs_of_the_same_files_are_one_computation(copied: Finished) -> None:
    measure = copied.project.recipe["measure"]
    measure["again"] = {**measure["whole"], "metrics": ["cosine", "rtf"], "reference": "whole"}
    copied.project.recipe["gates"].append({"measure": "again/cosine", "min": 1})
    copied.project.save()
    built = copied.project.build(copied.store)
    assert built.ran == ("measurements/again",)
    cosine = next(each for each in built.manifest.measurements if each.key == "again/cosine")
    assert cosine.reference == "whole"
    assert cosine.value == pytest.approx(1)


def test_a_clip_edited_after_its_release_makes_another_release(copied: Finished) -> None:
    write_clip(copied.project.folder / "speech" / "chord1.wav", 77)
    (copied.project.path.with_suffix(".lock")).unlink()
    built = copied.project.build(copied.store)
    assert "corpora/chords" in built.ran
    assert "convert" not in built.ran
    assert built.manifest.digest != copied.built.manifest.digest

"""The lock file: what it pins is what is built, and a byte that is another stops the build."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import Finished, Project, Recorder, tree, write_clip

from hubpub.build import Silent, lock, plan
from hubpub.build.plan import wanted_files
from hubpub.errors import DigestMismatch, LockError, SourceError
from hubpub.recipe import lock_path, read_lock
from hubpub.store import Store


def test_a_first_build_writes_a_lock_that_the_next_one_obeys(project: Project, store: Path) -> None:
    with pytest.raises(LockError, match="is missing; run `hubpub lock`") as caught:
        project.build(store, locked=True)
    assert caught.value.exit_code == 2
    assert str(lock_path(project.path)) in str(caught.value)
    assert not lock_path(project.path).exists()
    assert not (project.folder / "dist").exists()
    project.without_measurements().build(store)
    text = lock_path(project.path).read_bytes()
    assert project.build(store, locked=True).unchanged
    assert lock_path(project.path).read_bytes() == text


def test_a_lock_holds_nothing_of_this_machine(finished: Finished) -> None:
    text = lock_path(finished.project.path).read_text()
    assert str(finished.project.folder) not in text
    assert "http" not in text
    locked = read_lock(finished.project.path)
    assert locked is not None
    assert locked.sources["speech"].files.keys() == {*(f"chord{number}.wav" for number in range(3)), "tuning.wav"}
    assert "notes.txt" in locked.sources["data"].files


def _change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["data/notes.txt", "data/model.onnx", "speech/chord1.wav", "speech/tuning.wav"])
@pytest.mark.parametrize("locked", [False, True])
def test_a_changed_byte_in_a_local_source_stops_the_build(copied: Finished, name: str, locked: bool) -> None:
    before = tree(copied.release)
    _change(copied.project.folder / name)
    reporter = Recorder()
    with pytest.raises(DigestMismatch, match="if the new bytes are wanted run `hubpub lock`") as caught:
        copied.project.build(copied.store, locked=locked, reporter=reporter)
    assert str(caught.value).startswith(f"../{name}: sha256 is ")
    assert reporter.started == []
    assert tree(copied.release) == before


def test_a_changed_byte_is_found_without_the_old_bytes_too(copied: Finished, store: Path) -> None:
    _change(copied.project.folder / "data" / "notes.txt")
    with pytest.raises(DigestMismatch, match=r"^\.\./data/notes\.txt: sha256 is "):
        copied.project.build(store)


def test_a_new_lock_takes_the_new_bytes(copied: Finished) -> None:
    (copied.project.folder / "data" / "notes.txt").write_text("new notes")
    with Store(copied.store) as opened:
        lock(copied.project.path, opened, Silent())
    built = copied.project.build(copied.store, locked=True)
    assert built.ran == ()
    assert (copied.release / "notes.txt").read_text() == "new notes"


def test_a_local_file_that_is_gone_comes_from_the_store_or_is_missed(copied: Finished, store: Path) -> None:
    (copied.project.folder / "data" / "notes.txt").unlink()
    assert copied.project.build(copied.store).unchanged
    with pytest.raises(SourceError, match=r"\.\./data/notes.txt: is locked but not there; restore it or run"):
        copied.project.build(store)


def test_a_new_source_is_resolved_and_the_others_stay_pinned(copied: Finished) -> None:
    old = read_lock(copied.project.path)
    assert old is not None
    write_clip(copied.project.folder / "more" / "chord9.wav", 9)
    write_clip(copied.project.folder / "speech" / "unlocked.wav", 10)  # matches, but was not there when it was locked
    copied.project.recipe["sources"]["more"] = {"path": "../more", "license": "cc0-1.0"}
    copied.project.recipe["corpora"]["chords"]["clips"].append({"audio": "more/chord9.wav"})
    copied.project.save()
    with pytest.raises(LockError, match="does not answer the recipe for: more; run `hubpub lock`"):
        copied.project.build(copied.store, locked=True)
    assert read_lock(copied.project.path) == old
    built = copied.project.build(copied.store)
    assert "convert" not in built.ran
    new = read_lock(copied.project.path)
    assert new is not None
    assert {name: new.sources[name] for name in old.sources} == old.sources
    assert new.sources["more"].files.keys() == {"chord9.wav"}


@pytest.mark.parametrize("locked", [False, True])
def test_a_source_that_is_asked_for_otherwise_makes_the_lock_stale(copied: Finished, locked: bool) -> None:
    copied.project.recipe["sources"]["speech"]["include"] = ["chord*.wav", "tuning.wav"]
    copied.project.save()
    if locked:
        with pytest.raises(LockError, match="does not answer the recipe for: speech"):
            copied.project.build(copied.store, locked=True)
    else:
        assert copied.project.build(copied.store).ran == ()


def test_a_file_that_no_locked_source_holds(copied: Finished) -> None:
    copied.project.recipe["files"]["notes.txt"] = "data/note.txt"
    copied.project.save()
    line = copied.project.line_of("notes.txt: data/note.txt")
    with pytest.raises(LockError, match=r"source 'data' has no file 'note\.txt'; did you mean 'notes\.txt'") as caught:
        copied.project.build(copied.store)
    assert str(caught.value).startswith(f"{copied.project.path}:{line}:3: files.notes.txt")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.update(version=2), "version"),
        (lambda data: data["sources"]["data"].pop("files"), "is not a lock file: sources.*files"),
        (lambda data: data["sources"]["data"]["files"]["notes.txt"].update(sha256="0" * 63), "is not a lock file"),
        (lambda data: data.update(sources=[]), "is not a lock file: sources"),
    ],
)
def test_a_damaged_lock(copied: Finished, change: Callable[[Any], None], says: str) -> None:
    path = lock_path(copied.project.path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(LockError, match=says) as caught:
        copied.project.build(copied.store)
    assert "run `hubpub lock`" in str(caught.value)


def test_a_lock_that_pins_other_bytes_stops_the_build(copied: Finished, store: Path) -> None:
    path = lock_path(copied.project.path)
    data = json.loads(path.read_text())
    data["sources"]["data"]["files"]["notes.txt"]["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    for opened in (copied.store, store):
        with pytest.raises(DigestMismatch, match=f"but {'0' * 64} is pinned"):
            copied.project.build(opened)


# -- what a build would do


def test_a_plan_says_what_a_build_then_does(project: Project, store: Path) -> None:
    with Store(store) as opened:
        made, forecast = plan(project.path, opened, Silent(), locked=False, only=None, variant=None)
        assert forecast.bytes_to_fetch == {}  # a local folder is not fetched
        assert list(opened.blobs()) == []
        states = forecast.states
    assert states["corpora/chords"] == states["convert"] == "run"
    assert states["disjointness"] == states["runs/sharded"] == "waits"
    model = (project.folder / "data" / "model.onnx").stat().st_size
    assert forecast.bytes_to_write >= model
    assert [task.name for task in made.tasks] == list(project.build(store).ran)
    with Store(store) as opened:
        made, forecast = plan(project.path, opened, Silent(), locked=True, only=None, variant=None)
    assert set(forecast.states.values()) == {"cached"}
    assert (forecast.bytes_to_write, forecast.bytes_to_fetch) == (0, {})
    project.recipe["steps"]["convert"]["args"] = ["8"]
    project.save()
    with Store(store) as opened:
        made, forecast = plan(project.path, opened, Silent(), locked=True, only=None, variant=None)
    assert forecast.states["convert"] == "run"
    assert forecast.states["files/sharded/model.onnx#1"] == "waits"
    assert forecast.states["corpora/chords"] == forecast.states["disjointness"] == "cached"
    assert len([state for state in forecast.states.values() if state == "cached"]) == 3


def test_a_plan_changes_nothing_but_the_lock(project: Project, store: Path) -> None:
    before = tree(project.folder)
    with Store(store) as opened:
        plan(project.path, opened, Silent(), locked=False, only=None, variant=None)
        assert (list(opened.blobs()), list(opened.results())) == ([], [])
    after = tree(project.folder)
    assert after.keys() - before.keys() == {"recipes/toy.lock"}
    assert {name: after[name] for name in before} == before


def test_what_a_client_reads_besides_the_release_is_fetched_even_where_its_run_is_cached(
    project: Project, store: Path
) -> None:
    """The finished release is loaded too, and by then the cache may have been collected."""
    for source, wanted in (("data/model.onnx", {"model.onnx"}), ("convert/model.onnx", set())):
        segment = {"by": "vad", "model": source}
        via = {"client": "onnx-asr", "model": "whisper", "language": "en", "segment": segment}
        project.recipe["measure"]["whole"].update(via=via, metrics=["rtf"])
        project.recipe["files"] = {"model.onnx": "convert/model.onnx"}
        project.recipe["measure"].pop("sharded", None)
        project.recipe["gates"] = []
        project.save()
        with Store(store) as opened:
            made, _ = plan(project.path, opened, Silent(), locked=False, only=None, variant=None)
        assert wanted_files(made, []).get("data", set()) == wanted

"""Recordings that a person has to supply: named while they are not there, used as soon as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import Project, Recorder, make_project, write_clip

from hubpub.errors import RecipeError, SourceError
from hubpub.manifest import CARD
from hubpub.recipe import load_recipe, read_lock

SUPPLY = "record the chords yourself"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Its chords are for a person to supply; two others stand in for them."""
    made = make_project(tmp_path / "project")
    made.recipe["sources"]["chords"] = {
        "path": "../supplied", "include": ["*.wav"], "supply": SUPPLY, "license": "cc0-1.0",
    }  # fmt: skip
    corpora = made.recipe["corpora"]
    corpora["others"] = {**corpora["chords"], "clips": [{"audio": f"speech/chord{n}.wav"} for n in range(3)]}
    own = [{"audio": f"chords/own{n}.wav", "title": f"Own {n}", "year": 1999, "crop": [0, 0.3]} for n in range(3)]
    corpora["chords"] = {**corpora["chords"], "stand_in": "others", "clips": own}
    made.save()
    return made


def supply(project: Project, *numbers: int) -> None:
    for number in numbers:
        write_clip(project.folder / "supplied" / f"own{number}.wav", 50 + number)


def test_a_stand_in_takes_the_place_until_all_are_there(project: Project, tmp_path: Path) -> None:
    store, heard = tmp_path / "store", Recorder()
    supply(project, 1)
    manifest = project.build(store, reporter=heard).manifest
    assert manifest.provisional == ("others stands in for chords, of which 2 recordings are not at hand",)
    assert set(manifest.corpora) == {"others", "tuning"}
    assert {each.corpus for each in manifest.measurements} == {manifest.corpora["others"].digest}
    missing = manifest.missing["chords"]
    assert [(clip.audio, clip.crop, clip.provenance.year) for clip in missing.clips] == [
        ("chords/own0.wav", (0, 0.3), 1999),
        ("chords/own2.wav", (0, 0.3), 1999),
    ]
    (note,) = heard.notes
    for text in (note, (project.folder / "dist" / "toy" / CARD).read_text()):
        assert SUPPLY in text
        assert "../supplied" in text
        assert "own0.wav" in text
        assert "own1.wav" not in text
    supply(project, 0, 2)
    assert project.build(store, locked=True).manifest.provisional == manifest.provisional, "the lock is obeyed"
    whole = project.build(store).manifest
    assert whole.provisional == ()
    assert whole.missing == {}
    assert set(whole.corpora) == {"chords", "tuning"}, "a stand-in that nobody needs is left out"
    assert [clip.id for clip in whole.corpora["chords"].clips] == ["own0@0-0.3", "own1@0-0.3", "own2@0-0.3"]
    lock = read_lock(project.path)
    assert lock is not None
    assert set(lock.sources["chords"].files) == {"own0.wav", "own1.wav", "own2.wav"}


def test_without_a_stand_in_it_is_said_what_to_do(project: Project, tmp_path: Path) -> None:
    del project.recipe["corpora"]["chords"]["stand_in"]
    project.save()
    supply(project, 0, 1)
    with pytest.raises(SourceError) as caught:
        project.build(tmp_path / "store")
    assert str(caught.value.what) == "1 recording of 'chords' not at hand: own2.wav (Own 2)"
    assert f"toy.yaml:{project.line_of('corpora:') + 1}" in str(caught.value.where)
    assert str(caught.value.fix).startswith(f"{SUPPLY} (folder ../supplied, beside the recipe)")


def test_how_files_are_got_is_no_part_of_the_lock(project: Project, tmp_path: Path) -> None:
    supply(project, 0, 1, 2)
    first = project.build(tmp_path / "store").manifest
    project.recipe["sources"]["chords"]["supply"] = "ask a friend"
    project.save()
    again = project.build(tmp_path / "store", locked=True)
    assert again.ran == ()
    assert again.manifest.steps == first.steps


@pytest.mark.parametrize(
    ("corpus", "changes", "said"),
    [
        ("chords", {"stand_in": "other"}, "there is no corpus 'other'"),
        ("chords", {"stand_in": "tuning"}, "'tuning' is for calibration, and 'chords' for evaluation"),
        ("others", {"stand_in": "chords"}, "'chords' may itself be not at hand"),
        ("tuning", {"stand_in": "second"}, "all of 'tuning' is always at hand"),
    ],
)
def test_stand_ins_that_cannot_be(project: Project, corpus: str, changes: dict[str, Any], said: str) -> None:
    corpora = project.recipe["corpora"]
    corpora["second"] = {**corpora["tuning"]}
    corpora[corpus] |= changes
    project.save()
    with pytest.raises(RecipeError) as caught:
        load_recipe(project.path)
    assert said in str(caught.value)


def test_a_stand_in_must_have_transcripts_where_words_are_counted(project: Project) -> None:
    for clip in project.recipe["corpora"]["chords"]["clips"]:
        clip["text"] = "a chord"
    run = {"client": "onnx-asr", "model": "nemo-conformer-tdt"}
    project.recipe["measure"]["heard"] = {"files": ["*.json"], "via": run, "corpus": "chords", "metrics": ["wer"]}
    project.save()
    with pytest.raises(RecipeError) as caught:
        load_recipe(project.path)
    assert "run 'heard' needs transcripts, and 'others' has none" in str(caught.value)

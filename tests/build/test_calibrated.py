"""A calibrated transformation in a recipe: it reads its corpus, its key knows it, and nonsense is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import Project, Recorder, make_project, write_clip

from hubpub.build.release import verify_release
from hubpub.card import sensitivity
from hubpub.errors import RecipeError, StepError
from hubpub.manifest import Manifest
from hubpub.recipe import load_recipe

CALIBRATE = {"corpus": "tuning", "features": "waveform", "segment": {"by": "none"}}
INT8 = "model.int8.onnx"


def with_int8(folder: Path, **changes: Any) -> Project:
    step = {"transform": "static_int8", "op_types": ["Conv"], "calibrate": CALIBRATE, **changes}
    project = make_project(folder)
    project.recipe["files"][INT8] = {"from": "convert/model.onnx", "chain": [step]}
    project.recipe["measure"]["int8"] = {
        "files": [INT8],
        "via": {"client": "onnxruntime", "features": "waveform", "threads": 1, "model": INT8},
        "corpus": "chords",
        "metrics": ["snr"],
        "reference": "whole",
    }
    project.recipe["gates"].append({"measure": "int8/snr", "min": 25})
    project.save()
    return project


def key(manifest: Manifest) -> str:
    return manifest.steps[f"files/{INT8}#1"].key


def test_it_is_calibrated_on_its_corpus(tmp_path: Path) -> None:
    project = with_int8(tmp_path / "project")
    manifest = project.build(tmp_path / "store").manifest
    step = manifest.steps[f"files/{INT8}#1"]
    assert {"calibration/corpus.json", "model.onnx"} <= step.inputs.keys()
    assert step.inputs["calibration/corpus.json"] in {
        digest.sha256 for digest in manifest.steps["corpora/tuning"].outputs.values()
    }
    assert "onnx-asr" in step.libraries  # it computes the features
    assert step.facts["layers"]
    assert manifest.files[INT8].size < manifest.files["model.onnx"].size / 2
    assert manifest.provisional == ()
    assert not list((tmp_path / "store" / "downloads").glob("step-*"))  # nothing is left of the calibration


def test_a_glob_that_matches_nothing_is_said(tmp_path: Path) -> None:
    project, reporter = with_int8(tmp_path / "project", exclude=["frist", "sec*"], min_elements=16), Recorder()
    built = project.build(tmp_path / "store", reporter=reporter)
    name = f"files/{INT8}#1"
    assert built.manifest.steps[name].facts["unmatched"] == ["frist"]
    assert reporter.outcomes[name].endswith("bytes; nothing of the model matches 'frist'")


def test_a_search_for_layers_to_exclude_is_shown_in_the_card(tmp_path: Path) -> None:
    project = with_int8(tmp_path / "project", exclude={"auto": {"max_size": 0.6}}, min_elements=16)
    built = project.build(tmp_path / "store")
    release = project.folder / "dist" / "toy"
    found = built.manifest.steps[f"files/{INT8}#1"].facts["sensitivity"]
    plot = f"plots/{INT8}.sensitivity.svg"
    assert plot in built.manifest.records
    assert (release / plot).read_text() == sensitivity.plot(found)
    card = (release / "README.md").read_text()
    assert f"](<{plot}>)" in card
    assert sensitivity.table(found) in card
    assert len(found["layers"]) == 2
    assert verify_release(release).digest == built.manifest.digest


def test_other_audio_is_another_step(tmp_path: Path) -> None:
    project = with_int8(tmp_path / "project")
    first = project.build(tmp_path / "store")
    write_clip(project.folder / "speech" / "tuning.wav", 100)
    (project.folder / "recipes" / "toy.lock").unlink()
    second = project.build(tmp_path / "store")
    assert key(first.manifest) != key(second.manifest)
    assert first.manifest.files[INT8].sha256 != second.manifest.files[INT8].sha256
    assert "runs/whole" in second.cached


def test_a_stand_in_that_files_were_calibrated_on_makes_the_release_provisional(tmp_path: Path) -> None:
    project = with_int8(tmp_path / "project")
    project.recipe["corpora"]["tuning"]["stand_in_for"] = "eight speeches"
    project.save()
    assert project.build(tmp_path / "store").manifest.provisional == ("tuning stands in for eight speeches",)


def test_a_stand_in_that_no_step_reads_does_not(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    project.recipe["corpora"]["tuning"]["stand_in_for"] = "eight speeches"
    project.save()
    assert project.build(tmp_path / "store").manifest.provisional == ()


@pytest.mark.parametrize(
    ("calibrate", "says"),
    [
        (None, "static_int8 needs `calibrate`"),
        ({**CALIBRATE, "corpus": "tunning"}, "there is no corpus 'tunning'; did you mean 'tuning'?"),
        ({**CALIBRATE, "corpus": "chords"}, "'chords' is for evaluation; calibrate on another"),
        ({**CALIBRATE, "features": "mel"}, "features"),
        ({**CALIBRATE, "count": 0}, "count"),
    ],
)
def test_nonsense_is_named_with_its_line(tmp_path: Path, calibrate: dict[str, Any] | None, says: str) -> None:
    project = with_int8(tmp_path / "project", calibrate=calibrate)
    with pytest.raises(RecipeError) as caught:
        project.build(tmp_path / "store")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{project.path}:")
    assert says in line


def test_palettization_may_be_calibrated(tmp_path: Path) -> None:
    def loads(**changes: Any) -> Any:
        project = with_int8(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        project.recipe["files"][INT8]["chain"] = [{"transform": "palettize", **changes}]
        project.save()
        return load_recipe(project.path).recipe.rule(INT8).chain[0]

    assert loads().calibrate is None
    assert loads(calibrate=CALIBRATE).calibrate.corpus == "tuning"
    with pytest.raises(RecipeError, match="'chords' is for evaluation; calibrate on another"):
        loads(calibrate={**CALIBRATE, "corpus": "chords"})


def test_a_model_that_audio_cannot_fill(tmp_path: Path) -> None:
    """Features of another kind do not fit its input: named at its place, and without a traceback."""
    project = with_int8(tmp_path / "project", calibrate={**CALIBRATE, "features": "whisper80"})
    with pytest.raises(StepError) as caught:
        project.build(tmp_path / "store")
    assert str(caught.value).startswith(f"{project.path}:{project.line_of('transform: static_int8')}:")


def test_a_search_without_a_budget_says_what_it_lacks(tmp_path: Path) -> None:
    project = with_int8(tmp_path / "project", exclude="auto")
    with pytest.raises(RecipeError) as caught:
        project.build(tmp_path / "store")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{project.path}:{project.line_of('exclude: auto')}:")
    assert "{auto: {min_snr_db: 30}}" in line

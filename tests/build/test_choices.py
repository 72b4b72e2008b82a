"""Ladders and rosters, built for real on a small model: what is chosen, what is told, and what a rebuild does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy import Finished, Project, Recorder, make_project, tree, write_clip

from hubpub.build import Built, Silent, plan, verify_release
from hubpub.build.evaluate import evaluate
from hubpub.build.seal import check_seals
from hubpub.cli.common import choices_in_words
from hubpub.errors import GateError, RecipeError, StepError
from hubpub.manifest import CARD, CandidateRecord
from hubpub.publish.checks import refusals
from hubpub.recipe import load_recipe
from hubpub.recipe.model import PublishSpec
from hubpub.store import Store

INT8 = "model.int8.onnx"
CALIBRATE = {"corpus": "tuning", "features": "waveform", "segment": {"by": "none"}}
STATIC = {"transform": "static_int8", "op_types": ["Conv"], "calibrate": CALIBRATE}
SMOOTH = {"transform": "smoothquant_int8", "calibrate": CALIBRATE}
"""Cannot be made: the model has no matrix product."""


def chain(*steps: dict[str, Any], source: str = "convert/model.onnx") -> dict[str, Any]:
    return {INT8: {"from": source, "chain": list(steps)}}


RUNGS: dict[str, Any] = {
    "smooth": chain(SMOOTH),
    "text": {INT8: "data/notes.txt"},
    "static": chain(STATIC),
    "fp16": chain({"transform": "fp16"}),
    "fp32": {INT8: "convert/model.onnx"},
}


def with_choice(folder: Path, **choice: Any) -> Project:
    """The toy with one more file, a run of it over the chords, and its last word on a sealed corpus."""
    project = make_project(folder)
    write_clip(folder / "speech" / "last.wav", 50)
    recipe = project.recipe
    recipe["choices"] = {"small": {"runs": ["int8"], "promote": "first", "candidates": RUNGS, **choice}}
    chords = recipe["corpora"]["chords"]
    recipe["corpora"]["final"] = {**chords, "sealed": True, "clips": [{"audio": "speech/last.wav"}]}
    via = {"client": "onnxruntime", "features": "waveform", "threads": 1}
    for name, corpus in (("int8", "chords"), ("int8-final", "final")):
        recipe["measure"][name] = {
            "files": [INT8],
            "via": {**via, "model": INT8},
            "corpus": corpus,
            "metrics": ["snr", "download_size"],
            "reference": "whole" if corpus == "chords" else "whole-final",
        }
    recipe["measure"]["whole-final"] = {**recipe["measure"]["whole"], "corpus": "final", "metrics": ["rtf"]}
    recipe["gates"].append({"measure": "int8/snr", "min": 50, "min_n": 3})
    recipe["gates"].append({"measure": "int8-final/snr", "min": 40})
    project.save()
    return project


def with_roster(folder: Path, **choice: Any) -> Project:
    roster = {name: RUNGS[name] for name in ("fp32", "static", "fp16", "smooth")}
    return with_choice(folder, promote="fp16", against="fp32", candidates=roster, **choice)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("ladder")
    project = with_choice(folder / "project")
    return Finished(project, folder / "store", project.build(folder / "store"))


@pytest.fixture(scope="module")
def roster(tmp_path_factory: pytest.TempPathFactory, ladder: Finished) -> Finished:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("roster")
    shutil.copytree(ladder.store, folder / "store", symlinks=True)
    project = with_roster(folder / "project", publish_others="{stem}.{candidate}{suffix}")
    smaller = {"measure": "int8/download_size", "against": "int8@fp32/download_size", "max": -1000}
    project.recipe["gates"].append(smaller)
    project.save()
    return Finished(project, folder / "store", project.build(folder / "store"))


@pytest.fixture
def warm(ladder: Finished, tmp_path: Path) -> Path:
    """A store in which the parts of the ladder are."""
    return Path(shutil.copytree(ladder.store, tmp_path / "warm", symlinks=True))


@pytest.fixture
def warm_roster(roster: Finished, tmp_path: Path) -> Path:
    """A store in which the parts of the roster are."""
    return Path(shutil.copytree(roster.store, tmp_path / "warm", symlinks=True))


def candidates(built: Built) -> dict[str, CandidateRecord]:
    (choice,) = built.manifest.choices
    return {each.name: each for each in choice.candidates}


# -- a ladder


def test_the_first_that_passes_is_published_and_each_outcome_is_told(ladder: Finished) -> None:
    manifest, found = ladder.built.manifest, candidates(ladder.built)
    assert {name: each.state for name, each in found.items()} == {
        "smooth": "failed",
        "text": "failed",
        "static": "missed",
        "fp16": "chosen",
        "fp32": "not tried",
    }
    assert found["smooth"].reason == "cannot be made: model.onnx: holds no product that can run in integers"
    assert found["text"].reason.startswith("cannot be measured: ")
    assert found["static"].reason.startswith("int8/snr: at least 50: ")
    assert "below 50" in found["static"].reason
    assert found["fp32"].reason == "fp16 passed before it"
    assert manifest.files[INT8].sha256 == found["fp16"].files[INT8].sha256
    assert manifest.files[INT8].made_by == f"choices/small/fp16/{INT8}#1"
    assert 0 < found["static"].files[INT8].size < found["fp16"].files[INT8].size
    (choice,) = manifest.choices
    assert (choice.name, choice.chosen, choice.rule) == ("small", "fp16", "the first that passes its gates")


def test_figures_of_every_measured_candidate_are_kept(ladder: Finished) -> None:
    manifest = ladder.built.manifest
    snr = {each.run: each for each in manifest.measurements if each.metric == "snr"}
    assert snr["int8@static"].value < 50 < snr["int8@fp16"].value == snr["int8"].value
    assert candidates(ladder.built)["static"].verdicts[0].value == snr["int8@static"].value
    assert {"measurements/int8@static.jsonl", "measurements/int8@fp16.jsonl"} <= manifest.records.keys()
    digests = manifest.digests()
    assert all(digests[name] == sha256 for each in manifest.measurements for name, sha256 in each.artifacts.items())
    assert verify_release(ladder.release) == manifest


def test_rungs_below_the_chosen_one_are_not_made_and_sealed_audio_decides_nothing(ladder: Finished) -> None:
    ran = set(ladder.built.ran)
    assert not [name for name in ran if "fp32" in name]
    assert {"runs/int8@static", "runs/int8@fp16", "runs/int8-final"} <= ran
    assert not [name for name in ran if name.startswith("runs/int8-final@")]
    assert "runs/int8" not in ran  # the measurement that chose is the one that is published


def test_nothing_changed_gives_the_same_choice_and_runs_nothing(ladder: Finished) -> None:
    reporter = Recorder()
    again = ladder.project.build(ladder.store, reporter=reporter)
    assert (again.ran, again.unchanged, reporter.started) == ((), True, [])
    assert again.manifest == ladder.built.manifest


def test_the_plan_tells_what_the_cache_knows_of_the_choice(ladder: Finished, tmp_path: Path) -> None:
    def states(store: Path) -> dict[str, str]:
        with Store(store) as opened:
            return plan(ladder.project.path, opened, Silent(), locked=True, only=None, variant=None)[1].states

    assert set(states(ladder.store).values()) == {"cached"}
    assert not [name for name in states(ladder.store) if "/fp32/" in name]
    fresh = states(tmp_path / "fresh")
    assert fresh["choices/small/smooth/" + INT8 + "#1"] == "waits"
    assert fresh["choices/small/fp16/" + INT8 + "#1"] == fresh["runs/int8@fp32"] == "perhaps"
    assert fresh["runs/int8"] == "waits"


def test_a_published_release_gives_the_same_choice_in_a_fresh_store(ladder: Finished, tmp_path: Path) -> None:
    reporter = Recorder()
    shutil.copytree(ladder.project.folder, tmp_path / "p", ignore=shutil.ignore_patterns("dist"))
    project = Project(tmp_path / "p", ladder.project.recipe)
    built = project.build(tmp_path / "fresh", reuse=str(ladder.release), reporter=reporter)
    assert built.ran == ()
    assert tree(built.folder) == tree(ladder.release)
    assert not [name for name in reporter.started if name.startswith(("choices/", "runs/", "measurements/int8@"))
                and not name.endswith(".jsonl")]  # fmt: skip


@pytest.mark.slow
def test_two_builds_in_fresh_stores_have_one_digest(ladder: Finished, tmp_path: Path) -> None:
    shutil.copytree(ladder.project.folder, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("dist"))
    other = Project(tmp_path / "elsewhere", ladder.project.recipe).build(tmp_path / "a store of another length")
    assert other.manifest.digest == ladder.built.manifest.digest
    assert str(tmp_path) not in (other.folder / "hubpub.json").read_text()


def test_the_card_shows_every_rung(ladder: Finished) -> None:
    card = (ladder.release / CARD).read_text().replace("\N{NO-BREAK SPACE}", " ")
    table = card.partition("## Candidates: small")[2].partition("## Files")[0]
    assert f"`{INT8}` could be made in several ways. Published: **fp16**, the first that passes" in table
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    assert list(rows) == ["", "whole", "smooth", "text", "static", "fp16", "fp32"]
    assert "| **published** |" in rows["fp16"]
    assert "13.9 kB" in rows["fp16"] or "14.0 kB" in rows["fp16"]
    assert "| misses a gate |" in rows["static"]
    assert " dB" in rows["static"]
    assert "| failed |" in rows["smooth"]
    assert "| not tried |" in rows["fp32"]
    assert "- smooth: cannot be made: model.onnx: holds no product" in table
    assert "### int8@" not in card


def test_when_none_passes_the_build_ends_with_each_reason(ladder: Finished, warm: Path, tmp_path: Path) -> None:
    project = with_choice(tmp_path / "p", candidates={name: RUNGS[name] for name in ("smooth", "static")})
    with pytest.raises(GateError) as caught:
        project.build(warm)
    line = str(caught.value)
    assert caught.value.exit_code == 3
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{project.path}:{project.line_of('  small:')}:3: choices.small: no candidate passes")
    assert "smooth: cannot be made: model.onnx: holds no product" in line
    assert "static: int8/snr: at least 50: " in line
    assert not (project.folder / "dist" / "toy").exists()


def test_other_files_are_measured_with_what_was_chosen_before(warm: Path, tmp_path: Path) -> None:
    """A second choice whose run is given the file of the first."""
    project = with_choice(tmp_path / "p")
    second = {"kept": {"copy.txt": "data/notes.txt"}, "config": {"copy.txt": "convert/config.json"}}
    project.recipe["choices"]["copy"] = {"runs": ["both"], "promote": "kept", "candidates": second}
    project.recipe["measure"]["both"] = {**project.recipe["measure"]["int8"], "files": [INT8, "copy.txt"]}
    project.save()
    built = project.build(warm)
    fp16 = candidates(
        replace(built, manifest=built.manifest.model_copy(update={"choices": built.manifest.choices[:1]}))
    )
    for name in ("runs/both", "runs/both@kept", "runs/both@config"):
        assert built.manifest.steps[name].inputs[f"files/{INT8}"] == fp16["fp16"].files[INT8].sha256
    assert [each.chosen for each in built.manifest.choices] == ["fp16", "kept"]


def test_a_script_that_only_one_rung_needs_may_fail(warm: Path, tmp_path: Path) -> None:
    rungs = {"exported": {INT8: {"from": "risky/model.onnx", "chain": [{"transform": "fp16"}]}}, "fp16": RUNGS["fp16"]}
    project = with_choice(tmp_path / "p", candidates=rungs)
    scripts = project.script.parent
    project.recipe["steps"]["risky"] = {"script": "scripts/risky.py", "outputs": ["model.onnx"]}
    (scripts / "risky.py").write_text(project.script.read_text().replace("import json", "raise SystemExit('no luck')"))
    (scripts / "risky.requirements.txt").write_text("")
    project.save()
    built = project.build(warm)
    found = candidates(built)["exported"]
    assert found.state == "failed"
    assert found.reason.startswith("cannot be made: ")
    assert "no luck" in found.reason
    assert project.build(warm).ran == ()
    project.script.write_text(project.script.read_text().replace("import json", "raise SystemExit('no luck')"))
    with pytest.raises(StepError, match="no luck"):  # all rungs need this one
        project.build(warm)


def test_a_part_of_the_recipe_chooses_too(warm: Path, tmp_path: Path) -> None:
    built = with_choice(tmp_path / "p").build(warm, only=INT8)
    assert list(built.manifest.files) == [INT8]
    assert built.manifest.choices[0].chosen == "fp16"
    assert built.manifest.partial


# -- a roster


def test_all_are_made_and_one_is_promoted_by_name(roster: Finished) -> None:
    found = candidates(roster.built)
    assert {name: each.state for name, each in found.items()} == {
        "fp32": "passed",  # of the gates, but for the one that compares with itself
        "static": "missed",
        "fp16": "chosen",
        "smooth": "failed",
    }
    assert roster.built.manifest.files[INT8].sha256 == found["fp16"].files[INT8].sha256
    assert (
        "int8/download_size less int8@fp32/download_size" in found["static"].reason
        or found["static"].verdicts[1].passed
    )


def test_the_others_are_published_under_names_of_their_own(roster: Finished) -> None:
    files, found = roster.built.manifest.files, candidates(roster.built)
    assert files["model.int8.static.onnx"].sha256 == found["static"].files[INT8].sha256
    assert files["model.int8.fp32.onnx"].sha256 == files["model.onnx"].sha256
    assert not {"model.int8.fp16.onnx", "model.int8.smooth.onnx"} & files.keys()


def test_differences_to_the_one_that_others_are_compared_with(roster: Finished) -> None:
    manifest = roster.built.manifest
    deltas = {each.run: each for each in manifest.measurements if each.against == "int8@fp32/download_size"}
    assert deltas.keys() == {"int8", "int8@static", "int8@fp16"}
    size = {name: each.files[INT8].size for name, each in candidates(roster.built).items() if each.files}
    assert deltas["int8@static"].value == size["static"] - size["fp32"]
    assert deltas["int8"].value == size["fp16"] - size["fp32"]
    (verdict,) = [each for each in manifest.verdicts if each.gate.against == "int8@fp32/download_size"]
    assert verdict.passed
    card = (roster.release / CARD).read_text().partition("## Candidates: small")[2].partition("## Files")[0]
    assert "- smooth: cannot be made" in card
    assert "promoted by name" in card


def test_nothing_speaks_against_publishing_it(roster: Finished) -> None:
    manifest, reporter = roster.built.manifest, Recorder()
    recipe = load_recipe(roster.release / manifest.recipe).recipe
    spec = PublishSpec(repo="owner/other")
    where = {"endpoint": "http://localhost:1", "allow_provisional": False}
    assert refusals(roster.release, manifest, recipe, spec, reporter=reporter, **where) == []


def test_its_measurements_are_made_on_what_is_published(roster: Finished, tmp_path: Path) -> None:
    with Store(roster.store) as store:
        found = evaluate(str(roster.release), roster.project.path, store, Silent(), output=tmp_path / "e").evaluation
    assert found.left_out == {}
    assert "int8" in {each.run for each in found.measurements}
    assert found.missed() == []
    assert not [each for each in found.measurements if "@" in each.run + (each.against or "")]


@pytest.mark.parametrize(
    ("promote", "chosen"), [({"most": "int8/snr"}, "fp32"), ({"least": "int8/download_size"}, "static")]
)
def test_the_best_by_a_figure(warm_roster: Path, tmp_path: Path, promote: dict[str, str], chosen: str) -> None:
    project = with_roster(tmp_path / "p")
    project.recipe["choices"]["small"]["promote"] = promote
    project.recipe["gates"] = [{"measure": "int8/snr", "min": 30}]
    project.save()
    built = project.build(warm_roster)
    assert built.manifest.choices[0].chosen == chosen
    assert candidates(built)["smooth"].state == "failed"


def test_what_is_promoted_by_name_has_to_be_made(warm: Path, tmp_path: Path) -> None:
    project = with_roster(tmp_path / "p")
    project.recipe["choices"]["small"]["promote"] = "smooth"
    project.save()
    with pytest.raises(StepError) as caught:
        project.build(warm)
    line = str(caught.value)
    assert "candidate smooth of small cannot be made: model.onnx: holds no product" in line
    assert line.startswith(f"{project.path}:")
    assert ": choices.small.candidates.smooth.model.int8.onnx.chain[0]: " in line
    reporter = Recorder()
    with pytest.raises(StepError):
        project.build(warm, reporter=reporter)
    assert f"choices/small/smooth/{INT8}#1" in reporter.started  # what has to be made is tried again


def test_external_data_keeps_its_name(warm: Path, tmp_path: Path) -> None:
    shard = {"transform": "shard", "max_bytes": "26 kB", "alignment": 64}
    project = with_choice(tmp_path / "p", promote="fp16", candidates={"fp16": RUNGS["fp16"], "cut": chain(shard)})
    choice = project.recipe["choices"]["small"]
    choice["publish_others"] = "{stem}.{candidate}{suffix}"
    project.save()
    with pytest.raises(StepError, match="files of external data, found by their names"):
        project.build(warm)
    choice["publish_others"] = "{candidate}/{stem}{suffix}"
    project.save()
    files = project.build(warm).manifest.files
    assert {f"cut/{INT8}", f"cut/{INT8}.data"} <= files.keys() or {
        f"cut/{INT8}",
        f"cut/{INT8}.data.000",
    } <= files.keys()


# -- seals


def test_each_variant_chooses_for_itself(tmp_path: Path) -> None:
    project = with_choice(tmp_path / "p")
    recipe = project.recipe
    recipe["variants"] = {"a": {"bits": 8}, "b": {"bits": 4}}
    rungs = {name: {"${variant}/m.onnx": rung[INT8]} for name, rung in RUNGS.items()}
    recipe["choices"] = {
        "small-${variant}": {**recipe["choices"]["small"], "runs": ["int8-${variant}"], "candidates": rungs}
    }
    int8 = recipe["measure"].pop("int8")
    del recipe["measure"]["int8-final"], recipe["measure"]["whole-final"], recipe["corpora"]["final"]
    via = {**int8["via"], "model": "${variant}/m.onnx"}
    recipe["measure"]["int8-${variant}"] = {**int8, "files": ["${variant}/m.onnx"], "via": via}
    recipe["gates"] = [{"measure": "int8-${variant}/snr", "min": 50}]
    project.save()
    with Store(tmp_path / "store") as store:
        made, _ = plan(project.path, store, Silent(), locked=False, only=None, variant=None)
        part, _ = plan(project.path, store, Silent(), locked=True, only=None, variant="b")
    assert made.choices == ("small-a", "small-b")
    assert {"runs/int8-a@static", "runs/int8-b@static"} <= {task.name for task in made.tasks}
    assert part.choices == ("small-b",)
    assert not [task.name for task in part.tasks if "-a" in task.name]
    assert [each.variants for each in part.published if each.path == "b/m.onnx"] == [("b",)]


def test_every_candidate_has_a_line(ladder: Finished) -> None:
    lines = list(choices_in_words(ladder.built.manifest.choices))
    assert [line.split(": ")[1] for line in lines] == list(RUNGS)
    assert lines[3].startswith("small: fp16: chosen, ")
    assert lines[4] == "small: fp32: not tried: fp16 passed before it"


def test_nothing_is_chosen_by_a_sealed_corpus(tmp_path: Path) -> None:
    project = with_choice(tmp_path / "p", runs=["int8-final"])
    with pytest.raises(RecipeError) as caught:
        project.build(tmp_path / "store")
    assert "choices.small.runs[0]: 'int8-final' runs over the sealed corpus 'final': nothing is chosen by it" in str(
        caught.value
    )


def test_the_steps_that_choose_may_read_no_sealed_corpus_whatever_the_recipe_says(ladder: Finished) -> None:
    with Store(ladder.store) as store:
        made, _ = plan(ladder.project.path, store, Silent(), locked=True, only=None, variant=None)
    corpora = dict(made.loaded.recipe.corpora)
    check_seals(made.tasks, corpora, made.sources)
    corpora["chords"] = corpora["chords"].model_copy(update={"sealed": True})
    with pytest.raises(StepError, match=r"measure.int8: reads corpora/chords/\*, which belongs to the sealed corpus"):
        check_seals(made.tasks, corpora, made.sources)


def test_a_candidate_that_is_not_published_makes_nothing_provisional(warm: Path, tmp_path: Path) -> None:
    project = with_choice(tmp_path / "p")
    project.recipe["corpora"]["tuning"]["stand_in_for"] = "eight speeches"
    project.save()
    assert project.build(warm).manifest.provisional == ()
    project.recipe["gates"] = [{"measure": "int8/snr", "min": 20}]
    project.save()
    built = project.build(warm)
    assert candidates(built)["static"].state == "chosen"
    assert built.manifest.provisional == ("tuning stands in for eight speeches",)

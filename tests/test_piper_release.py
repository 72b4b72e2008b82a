"""The recipe of the voice, cut down to a few prompts: built, verified, listened to."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from hubpub.build import Built, build, verify_release
from hubpub.report import Silent
from hubpub.store import Store

pytest.importorskip("piper", reason="the extra tts is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.registry]

RECIPES = Path(__file__).parents[1] / "recipes"
RUNS = ("fp32", "int8", "fp32-speed", "int8-speed")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe with three prompts, its fp32 and int8 files and their runs."""
    folder = tmp_path_factory.mktemp("recipe")
    for path in (*RECIPES.glob("scripts/ct2_*"), RECIPES / "piper-joe.lock"):
        target = folder / path.relative_to(RECIPES)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copytree(RECIPES.parent / "templates", folder / "templates")
    data: dict[str, Any] = yaml.safe_load((RECIPES / "piper-joe.yaml").read_text("utf-8"))
    data["corpora"]["prompts"]["prompts"] = data["corpora"]["prompts"]["prompts"][:3]
    data["corpora"]["few"]["prompts"] = data["corpora"]["few"]["prompts"][:2]
    data["files"] = {name: rule for name, rule in data["files"].items() if ".fp16." not in name}
    data["files"] = {name: rule for name, rule in data["files"].items() if ".dynamic." not in name}
    data["measure"] = {name: run for name, run in data["measure"].items() if name in RUNS}
    data["measure"]["int8"]["audio"] = ["002"]
    data["gates"] = [
        {"measure": "int8/log_mel_distance", "max": 1.5},
        {"measure": "fp32/wer", "max": 0.2, "min_n": 30},
    ]
    data["card"]["sections"] = {"Heard": 'At {{ measured["int8/log_mel_distance"] }}.'}
    data["publish"]["load"] = ["int8-speed"]
    (folder / "piper-joe.yaml").write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return folder / "piper-joe.yaml"


@pytest.fixture(scope="module")
def built(recipe: Path, shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(recipe, shared_store, Silent(), output=tmp_path_factory.mktemp("dist") / "piper", locked=True)


def test_the_release_holds_what_a_person_can_listen_to(built: Built) -> None:
    manifest = verify_release(built.folder)
    kept = sorted(path for path in manifest.records if path.endswith(".flac"))
    assert kept == [*(f"measurements/fp32/00{n}.flac" for n in (1, 2, 3)), "measurements/int8/002.flac"]
    for path in kept:
        samples, rate = soundfile.read(built.folder / path, dtype="int16")
        assert rate == 22_050
        assert 2 < len(samples) / rate < 10
    lines = [json.loads(line) for line in (built.folder / "measurements/fp32.jsonl").read_text("utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["001", "002", "003"]
    assert "the stairs every evening before the sun went down" in lines[0]["text"].lower()


def test_the_card_shows_figures_texts_and_audio(built: Built) -> None:
    card = (built.folder / "README.md").read_text("utf-8")
    assert "pipeline_tag: text-to-speech" in card
    assert "[listen](measurements/int8/002.flac)" in card
    assert "[listen](measurements/int8/001.flac)" not in card
    assert "The old lighthouse keeper climbed the stairs" in card
    assert re.search(r"^\|  \| size \| wer \| .*cer \| .*log_mel_distance against fp32 \|", card, re.MULTILINE)
    assert "## Texts" in card
    assert "## Audio" not in card, "nothing that was recorded is measured on"
    assert "| weight_only, weight_only of en_US-joe-medium.onnx |" in card


def test_figures_are_of_the_voice_and_not_of_the_recognizer(built: Built) -> None:
    measured = {
        each.key: each for each in built.manifest.all_measurements() if each.against is None and not each.subset
    }
    assert set(measured["int8/wer"].artifacts) == {"en_US-joe-medium.int8.onnx", "en_US-joe-medium.int8.onnx.json"}
    assert 0 < measured["int8/log_mel_distance"].value < 1.5
    assert measured["int8/log_mel_distance"].normalizer == "shifts of up to 0.5 s"
    assert measured["int8-speed/download_size"].value < 0.4 * measured["fp32-speed/download_size"].value
    assert 30_000_000 < measured["int8-speed/peak_rss"].value < 1_000_000_000
    listened = built.manifest.steps["runs/int8"].inputs
    assert "options/whisper/encoder_model.onnx" in listened, "the recognizer is on record"


def test_a_release_is_built_again_from_itself_alone(
    built: Built, recipe: Path, shared_store: Store, tmp_path: Path
) -> None:
    again = build(built.folder / "recipe" / recipe.name, shared_store, Silent(), output=tmp_path / "again", locked=True)
    assert again.ran == ()
    assert again.manifest.digest == built.manifest.digest

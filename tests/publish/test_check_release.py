"""Why a release must not be published: budgets, bytes, stand-ins; every reason at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from check_tools import HUB, LOOPBACK, adopt, publishable, put, reasons, release, replaced, rewrite
from toy import Finished, Project, write_model

from hubpub.manifest import CARD, MANIFEST, read_manifest
from hubpub.onnxfile.marks import mark_synthetic
from hubpub.publish.checks import is_loopback, refusals
from hubpub.publish.dropin import drop_in_refusals
from hubpub.recipe import load_recipe
from hubpub.report import Silent

__all__ = ["publishable", "release", "replaced"]


def test_nothing_is_said_against_a_sound_release(publishable: Finished) -> None:
    assert reasons(publishable.release) == []


def test_a_missed_budget(release: Path) -> None:
    first, *others = read_manifest(release).verdicts
    rewrite(release, verdicts=(first.model_copy(update={"passed": False, "reason": "0.9: it is below 0.999"}), *others))
    fix = "no such release is published, build one that meets it"
    assert reasons(release) == [f"budget missed: sharded/cosine: at least 0.999: 0.9: it is below 0.999; {fix}"]


def test_a_budget_that_was_never_judged(release: Path) -> None:
    rewrite(release, verdicts=read_manifest(release).verdicts[1:])
    assert reasons(release) == [
        "budget not judged: sharded/cosine: at least 0.999; build the whole recipe again",
    ]


def test_a_verdict_that_the_figures_do_not_bear_out(release: Path) -> None:
    manifest = read_manifest(release)
    wrong = tuple(
        each.model_copy(update={"value": 0.5, "low": 0.4, "high": 0.6}) if each.key == "sharded/cosine" else each
        for each in manifest.measurements
    )
    rewrite(release, measurements=wrong)
    (line,) = reasons(release)
    assert line.startswith("budget missed: sharded/cosine: at least 0.999: 0.5")
    assert line.endswith("below 0.999, though it is recorded as met; build it again")


def test_a_release_without_any_measurement(release: Path) -> None:
    observed = read_manifest(release).observed.model_copy(update={"measurements": (), "verdicts": ()})
    rewrite(release, measurements=(), verdicts=(), observed=observed)
    assert reasons(release) == ["the recipe has 3 gates and nothing was measured; build the whole recipe"]


def test_a_part_of_a_recipe(release: Path) -> None:
    rewrite(release, partial=True)
    assert reasons(release) == ["only a part of the recipe was built; build it whole, without --only and --variant"]


def test_figures_of_other_bytes(release: Path) -> None:
    manifest = read_manifest(release)
    other = manifest.files["model.onnx"].model_copy(update={"sha256": "0" * 64})
    rewrite(release, files={**manifest.files, "model.onnx": other})
    lines = reasons(release)
    for run in ("whole", "sharded"):
        fix = "than the release holds; build it again"
        assert f"run {run}: measured on other bytes of model.onnx {fix}" in lines
    assert "model.onnx has other bytes than recorded; build it again" in lines


def test_files_that_no_longer_match(release: Path) -> None:
    (release / "notes.txt").write_text("edited")
    (release / "config.json").unlink()
    (release / "left over.tmp").write_text("x")
    with (release / "model.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xaa")
    lines = reasons(release)
    assert {
        "notes.txt has 6 bytes, 20 are recorded; build it again",
        "config.json is missing; build it again",
        "left over.tmp is not in the manifest; build it again",
        "model.onnx has other bytes than recorded; build it again",
    } <= set(lines)


def test_every_byte_is_read_once_for_its_digest(publishable: Finished) -> None:
    counted: list[int] = []

    class Counter(Silent):
        def advance(self, count: int) -> None:
            counted.append(count)

    folder = publishable.release
    manifest = read_manifest(folder)
    recipe = load_recipe(folder / manifest.recipe).recipe
    assert recipe.publish is not None
    refusals(folder, manifest, recipe, recipe.publish, endpoint=HUB, allow_provisional=False, reporter=Counter())
    listed = sum(file.size for file in manifest.listed_files().values())
    assert sum(counted) == 2 * listed + (folder / MANIFEST).stat().st_size


def test_a_provisional_release_needs_to_be_asked_for(release: Path) -> None:
    rewrite(release, provisional=("tuning stands in for VoxConverse dev",))
    fix = "calibrate on the real one, or publish with --provisional"
    assert reasons(release) == [f"provisional: tuning stands in for VoxConverse dev; {fix}"]
    assert reasons(release, provisional=True) == []


def test_a_stand_in_corpus_shows_from_the_recipe_to_the_card(replaced: Project, publishable: Finished) -> None:
    before = read_manifest(publishable.release)
    corpora = replaced.recipe["corpora"]
    stand_in = {**corpora["tuning"], "stand_in_for": "VoxConverse dev"}
    calibrate = {"corpus": "tuning", "features": "waveform", "segment": {"by": "none"}}
    step = {"transform": "static_int8", "op_types": ["Conv"], "calibrate": calibrate}
    files = {**replaced.recipe["files"], "int8.onnx": {"from": "convert/model.onnx", "chain": [step]}}
    replaced.recipe = {**replaced.recipe, "corpora": {**corpora, "tuning": stand_in}, "files": files}
    replaced.save()
    built = replaced.build(publishable.store)
    assert built.manifest.provisional == ("tuning stands in for VoxConverse dev",)
    assert built.ran == ("files/int8.onnx#1",), "what a corpus stands in for decides no byte"
    card = (built.folder / CARD).read_text()
    meta, body = card.split("---\n")[1:3]
    assert "- provisional\n" in meta
    assert body.strip().startswith("> **Provisional.** ")
    assert "tuning stands in for VoxConverse dev" in body.splitlines()[1]
    assert [line for line in reasons(built.folder) if not line.startswith("provisional: ")] == []
    assert before.provisional == ()


def test_a_manifest_of_an_earlier_version_keeps_its_digest(publishable: Finished, tmp_path: Path) -> None:
    manifest = read_manifest(publishable.release).model_copy(update={"drop_in": None, "provisional": ()}).sealed()
    text = manifest.text()
    assert "provisional" not in text
    assert "drop_in" not in text.replace("drop_in_for", "")
    (tmp_path / MANIFEST).write_text(text)
    assert read_manifest(tmp_path).digest == manifest.digest


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://localhost:80/", True),
        ("http://[::1]:8080", True),
        ("https://huggingface.co", False),
        ("http://127.0.0.1.example.org", False),
        ("http://127.0.0.1@huggingface.co", False),
        ("http://huggingface.co\\@127.0.0.1", False),
        ("http://localhost.example.org", False),
        ("http://10.0.0.1", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_loopback(endpoint: str, expected: bool) -> None:
    assert is_loopback(endpoint) is expected


def test_random_weights_stay_here(release: Path) -> None:
    import onnx

    model = onnx.load(release / "model.onnx")
    mark_synthetic(model)
    onnx.save(model, release / "model.onnx")
    adopt(release, "model.onnx")
    (line,) = reasons(release)
    assert line.startswith("model.onnx: is marked synthetic; publish it to a Hub on loopback")
    assert reasons(release, LOOPBACK) == []


def test_synthetic_figures_stay_here(release: Path) -> None:
    rewrite(release, synthetic=True)
    (line,) = reasons(release)
    assert line.startswith("the release is synthetic, from random weights or made-up audio; publish it to a Hub on")
    assert reasons(release, LOOPBACK) == []


def test_a_marked_model_is_found_without_its_external_data(release: Path, tmp_path: Path) -> None:
    import onnx

    write_model(tmp_path / "model.onnx", external="model.onnx.data")
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    mark_synthetic(model)
    put(release, "other/model.onnx", model.SerializeToString())
    marked, broken = sorted(reasons(release), key=len)
    assert marked.startswith("other/model.onnx: is marked synthetic; ")
    assert broken.startswith(
        "other/model.onnx: tensor 'first' (graph[0].initializer[0]): external data 'model.onnx.data'"
    )


def test_all_reasons_are_told_at_once(release: Path) -> None:
    (release / "notes.txt").write_text("hf_" + "aQ7zR2mK9xW4pL6vB8nD3cF5gH1jS0tYuE\n")
    rewrite(release, partial=True, synthetic=True, provisional=("a stands in for b",), license="cc0-1.0")
    text = "\n".join(reasons(release))
    for part in (
        "only a part",
        "notes.txt has",
        "provisional: a",
        "is synthetic",
        "Hugging Face token",
        "sources.data",
    ):
        assert part in text, part


def test_a_copy_elsewhere_is_checked_without_the_store(publishable: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(publishable.release, tmp_path / "another machine")
    manifest = read_manifest(folder)
    recipe = load_recipe(folder / manifest.recipe).recipe
    assert recipe.publish is not None
    assert drop_in_refusals(folder, manifest, recipe.publish) == []
    assert reasons(folder) == []

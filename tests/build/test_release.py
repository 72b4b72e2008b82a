"""A whole build of a small project: what lies in the release folder, and whether what it says is true."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from toy import ROOT, Finished, Project, Recorder, hubpub, make_project, tree

from hubpub.build import verify_release
from hubpub.card.figures import duration, number, size
from hubpub.errors import GateError, ReleaseError
from hubpub.manifest import CARD, MANIFEST, Manifest, read_manifest
from hubpub.store import FileDigest, Store

EXPECTED = {
    CARD,
    MANIFEST,
    "config.json",
    "model.onnx",
    "notes.txt",
    "sharded/model.onnx",
    "sharded/model.onnx.data.000",
    "sharded/model.onnx.data.001",
    "measurements/sharded.jsonl",
    "measurements/sharded.timings.jsonl",
    "measurements/whole.jsonl",
    "measurements/whole.timings.jsonl",
    "recipe/scripts/convert.py",
    "recipe/scripts/convert.requirements.txt",
    "recipe/templates/speech.md.j2",
    "recipe/toy.lock",
    "recipe/toy.yaml",
}


def test_the_release_holds_what_the_recipe_names_and_nothing_else(finished: Finished) -> None:
    assert tree(finished.release).keys() == EXPECTED
    assert (finished.release / "notes.txt").read_bytes() == b"kept byte for byte\r\n"
    assert (finished.release / "recipe/toy.yaml").read_bytes() == finished.project.path.read_bytes()
    assert (finished.release / "recipe/scripts/convert.py").read_bytes() == finished.project.script.read_bytes()
    for path in finished.release.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    assert [path.name for path in finished.release.parent.iterdir()].count("toy") == 1
    assert not [path for path in finished.release.parent.iterdir() if path.name.endswith(".tmp")]


def test_data_files_are_the_releases_own_where_there_is_room(
    copied: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`onnx.load` refuses them where they have several names, as a link into the store would be."""
    linked: dict[str, bool] = {}
    place = Store.place

    def noting(self: Store, digest: FileDigest, target: Path, *, link: bool = True) -> None:
        linked[target.name] = link
        place(self, digest, target, link=link)

    monkeypatch.setattr(Store, "place", noting)
    for spare, link in ((0, False), (1 << 60, True)):
        monkeypatch.setattr("hubpub.build.release.SPARE_BYTES", spare)
        copied.project.build(copied.store, tmp_path / str(spare))
        assert linked["model.onnx.data.001"] is link
        assert linked["model.onnx"]
    assert onnx.load(tmp_path / "0" / "sharded" / "model.onnx").graph.initializer


def test_the_manifest_tells_the_truth_about_every_file(finished: Finished) -> None:
    manifest = read_manifest(finished.release)
    assert manifest == finished.built.manifest
    listed = manifest.listed_files()
    assert listed.keys() == EXPECTED - {MANIFEST}
    for name, digest in listed.items():
        data = (finished.release / name).read_bytes()
        assert (digest.sha256, digest.size) == (hashlib.sha256(data).hexdigest(), len(data)), name
    assert manifest.files["notes.txt"].made_by == "data"
    assert manifest.files["model.onnx"].made_by == "convert"
    assert manifest.files["sharded/model.onnx.data.001"].made_by == "files/sharded/model.onnx#1"


def test_the_manifest_tells_how_each_file_was_made(finished: Finished) -> None:
    manifest = finished.built.manifest
    convert = manifest.steps["convert"]
    model = (finished.project.folder / "data" / "model.onnx").read_bytes()
    assert convert.inputs == {"model.onnx": hashlib.sha256(model).hexdigest()}
    assert convert.outputs["model.onnx"].sha256 == manifest.files["model.onnx"].sha256
    assert convert.identity["script"] == manifest.records["recipe/scripts/convert.py"].sha256
    shard = manifest.steps["files/sharded/model.onnx#1"]
    assert shard.identity["params"]["max_bytes"] == 26_000
    assert shard.inputs == {"model.onnx": manifest.files["model.onnx"].sha256}
    assert shard.libraries["onnx"]
    assert manifest.sources["data"].files.keys() == {"model.onnx", "notes.txt"}
    assert manifest.sources["speech"].license == "cc0-1.0"
    assert [clip.id for clip in manifest.corpora["chords"].clips] == ["chord0", "chord1", "chord2"]
    assert manifest.corpora["tuning"].role == "calibration"
    assert manifest.observed.steps["convert"]["network"] in ("off", "not enforced")
    assert {each.key for each in manifest.all_measurements()} >= {
        *("whole/rtf", "whole/latency_median", "whole/download_size"),
        *("sharded/cosine", "sharded/max_abs_diff", "sharded/load_time", "sharded/peak_rss"),
    }
    observed = {each.key for each in manifest.observed.measurements}
    assert observed >= {"whole/rtf", "sharded/load_time", "sharded/peak_rss"}
    assert not observed & {each.key for each in manifest.measurements}
    for each in manifest.all_measurements():
        assert each.artifacts
        assert each.artifacts.items() <= {name: file.sha256 for name, file in manifest.files.items()}.items()
    assert [verdict.passed for verdict in manifest.all_verdicts()] == [True, True, True]


def test_every_measurement_survives_the_folding_of_its_conditions(finished: Finished) -> None:
    data = json.loads((finished.release / MANIFEST).read_text())
    assert all("machine" not in each for each in data["measurements"] + data["observed"]["measurements"])
    assert read_manifest(finished.release).all_measurements() == finished.built.manifest.all_measurements()


def test_a_whole_release_verifies(finished: Finished) -> None:
    assert verify_release(finished.release).digest == finished.built.manifest.digest


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda folder: (folder / "new.bin").write_bytes(b"x"), "new.bin is not in the manifest"),
        (lambda folder: (folder / "link").symlink_to("sharded"), "link is not in the manifest"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe is not in the manifest"),
        (lambda folder: _flip(folder / "model.onnx"), "model.onnx has other bytes than recorded"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json has 2 bytes, 16 are recorded"),
        (lambda folder: _flip(folder / CARD), "README.md has other bytes than recorded"),
        (lambda folder: _link_away(folder / "model.onnx"), "model.onnx is not a regular file"),
        (lambda folder: _link_away(folder / "sharded"), "sharded/model.onnx is missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "holds no hubpub.json"),
        (lambda folder: _change(folder, lambda data: data.update(synthetic=True)), "its digest does not match"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is not a manifest"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "is not a manifest"),
        (lambda folder: _change(folder, lambda data: data["conditions"].update({"whole.1": "x"})), "is not a manifest"),
        (lambda folder: _change(folder, lambda data: data.update(conditions=[])), "is not a manifest"),
    ],
)
def test_verify_finds_all_damage(copied: Finished, damage: Any, says: str) -> None:
    damage(copied.release)
    with pytest.raises(ReleaseError, match=re.escape(says)) as caught:
        verify_release(copied.release)
    assert len(str(caught.value).splitlines()) == 1


def test_verify_names_all_that_is_wrong_at_once(copied: Finished) -> None:
    (copied.release / "model.onnx").unlink()
    _flip(copied.release / "notes.txt")
    with pytest.raises(ReleaseError, match=r"model.onnx is missing; notes.txt has other bytes"):
        verify_release(copied.release)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _change(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _link_away(path: Path) -> None:
    elsewhere = path.parents[1] / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


# -- the card


def test_the_card_begins_with_metadata_that_the_hub_reads(finished: Finished) -> None:
    text = (finished.release / CARD).read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "language": ["en"],
        "base_model": ["owner/toy"],
        "base_model_relation": "quantized",
        "library_name": "onnx",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["onnx", "test"],
    }
    assert body.strip().startswith("# Toy of 2 convolutions")


NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _may_be_said(manifest: Manifest, card: dict[str, Any], template: str) -> set[str]:
    """Every number that a card may hold: formatted from a value of the manifest, or part of a text."""
    data = manifest.model_dump(mode="json")
    allowed = [*_strings(data), *_strings(card), re.sub(r"\{[{%#].*?[}%#]\}", " ", template, flags=re.DOTALL)]
    allowed += [size(file.size) for file in manifest.files.values()]
    sizes = {file.sha256: file.size for file in manifest.files.values()}
    for step in (step for step in manifest.steps.values() if step.kind == "run"):
        allowed.append(size(sum(sizes[sha256] for path, sha256 in step.inputs.items() if path.startswith("files/"))))
    for each in manifest.all_measurements():
        allowed += [number(value, each.unit) for value in (each.value, each.low, each.high) if value is not None]
        allowed += [str(each.n), str(each.machine.cores)]
    for corpus in manifest.corpora.values():
        allowed += [str(len(corpus.clips)), duration(corpus.seconds)]
        allowed += [duration(clip.seconds) for clip in corpus.clips]
    proof = manifest.steps["disjointness"].facts
    allowed += [duration(proof["calibration_seconds"]), duration(proof["evaluation_seconds"])]
    allowed += [str(proof[f"{role}_clips"]) for role in ("calibration", "evaluation")]
    allowed += [str(verdict.gate) for verdict in manifest.all_verdicts()]
    return {token for text in allowed for token in NUMBER.findall(text)}


def _invented(card: str, manifest: Manifest, recipe: dict[str, Any], template: str) -> set[str]:
    for digest in manifest.listed_files().values():
        card = card.replace(f"{digest.sha256[:16]}…", "")  # a digest cut short is no number
    for corpus in manifest.corpora.values():
        for clip in corpus.clips:
            card = card.replace(f"{clip.samples_sha256[:16]}…", "")
    body = card.split("---\n", 2)[2]
    return set(NUMBER.findall(body)) - _may_be_said(manifest, recipe["card"], template)


def test_the_card_holds_no_number_that_is_not_in_the_manifest(finished: Finished) -> None:
    template = (ROOT / "templates" / "speech.md.j2").read_text()
    card, manifest = (finished.release / CARD).read_text(), finished.built.manifest
    assert _invented(card, manifest, finished.project.recipe, template) == set()
    assert _invented(card + "31.7 % faster", manifest, finished.project.recipe, template) == {"31.7"}
    shown = number(next(each.value for each in manifest.all_measurements() if each.metric == "peak_rss"), "bytes")
    assert shown in card
    changed = card.replace(shown, "98.7654 MB")
    assert _invented(changed, manifest, finished.project.recipe, template) == {"98.7654"}


def test_the_card_shows_every_figure_verdict_and_file(finished: Finished) -> None:
    card = (finished.release / CARD).read_text()
    for each in finished.built.manifest.all_measurements():
        assert number(each.value, each.unit) in card, each.key
    for verdict in finished.built.manifest.all_verdicts():
        assert str(verdict.gate) in card
    for path in finished.built.manifest.files:
        assert f"`{path}`" in card
    assert "its cosine is 1.000000." in card  # prose quotes measurements
    assert "{{" not in card


def test_a_fault_in_the_template_is_named_where_the_reader_finds_it(copied: Finished) -> None:
    template = copied.project.folder / "templates" / "speech.md.j2"
    template.write_text(template.read_text() + "\n{{ manifest.nothing.such }}\n{% if %}\n")
    before = tree(copied.release)
    with pytest.raises(ReleaseError, match="cannot be rendered") as caught:
        copied.project.build(copied.store)
    assert str(caught.value).startswith(f"{template}:{len(template.read_text().splitlines())}: ")
    assert tree(copied.release) == before


def test_a_fault_in_the_prose_is_named_in_the_recipe(copied: Finished) -> None:
    copied.project.recipe["card"]["sections"]["Use"] = "It is {{ measured['whole/werr'] }}."
    copied.project.save()
    with pytest.raises(ReleaseError, match="no attribute 'whole/werr'") as caught:
        copied.project.build(copied.store)
    assert str(caught.value).startswith(
        f"{copied.project.path}:{copied.project.line_of('card:')}:1: card: the card cannot"
    )


def test_verify_does_not_call_a_rejected_release_good(copied: Finished) -> None:
    copied.project.recipe["gates"] = [{"measure": "sharded/cosine", "min": 1.5}]
    copied.project.save()
    with pytest.raises(GateError):
        copied.project.build(copied.store)
    with pytest.raises(GateError, match="budget missed: sharded/cosine"):
        verify_release(copied.release.with_name("toy.rejected"))


# -- the same bytes everywhere


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project built elsewhere: other folder, other store, other hash seed, other user, other directory."""
    folder = tmp_path_factory.mktemp("somewhere-else-entirely")
    project = make_project(folder / "deeper" / "still" / "p")
    done = hubpub(
        *("build", project.path, "--output", folder / "out" / "release", "--quiet"),
        cwd=folder,
        HUBPUB_CACHE=str(folder / "other store"),
        PYTHONHASHSEED="4242",
        HOME=str(folder),
        USER="zaphodbeeblebrox",
        LOGNAME="zaphodbeeblebrox",
        TZ="Asia/Tokyo",
        LC_ALL="C",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_two_builds_in_fresh_stores_are_byte_identical(finished: Finished, twin: Path) -> None:
    mine, other = read_manifest(finished.release), verify_release(twin / "out" / "release")
    assert other.digest == mine.digest
    assert other.model_dump(exclude={"observed"}) == mine.model_dump(exclude={"observed"})
    ours, theirs = tree(finished.release), tree(twin / "out" / "release")
    differ = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    assert differ <= {CARD, MANIFEST, "measurements/whole.timings.jsonl", "measurements/sharded.timings.jsonl"}
    assert mine.observed != other.observed


def test_nothing_in_a_release_tells_where_or_by_whom_it_was_built(twin: Path) -> None:
    secrets = [str(twin), str(Path(sys.executable).parents[1]), "zaphodbeeblebrox", str(Path.home()) + "/"]
    secrets += [name for name in (socket.gethostname(), socket.getfqdn()) if len(name) > 3 and name != "localhost"]
    files = [path for path in (twin / "out" / "release").rglob("*") if path.is_file()]
    assert len(files) == len(EXPECTED)
    for path in files:
        for secret in secrets:
            assert secret.encode() not in path.read_bytes(), f"{secret} in {path}"


def test_a_release_does_not_depend_on_which_folder_it_is_built_from(copied: Finished, monkeypatch: Any) -> None:
    monkeypatch.chdir(copied.project.folder / "recipes")
    relative = Project(Path(".."), copied.project.recipe)
    assert relative.build(copied.store, copied.release).unchanged


def test_the_onnx_files_run_in_a_process_that_knows_only_the_release(finished: Finished, tmp_path: Path) -> None:
    code = (
        "import numpy, onnxruntime, sys\n"
        "outputs = [onnxruntime.InferenceSession(path).run(None, {'waveform': numpy.ones((1, 1600), numpy.float32)})[0]"
        " for path in sys.argv[1:]]\n"
        "assert (outputs[0] == outputs[1]).all() and outputs[0].any()\n"
    )
    models = [finished.release / "model.onnx", finished.release / "sharded" / "model.onnx"]
    subprocess.run([sys.executable, "-c", code, *map(str, models)], check=True, cwd=tmp_path)


def test_what_a_busy_machine_timed_is_said_at_once(copied: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the card it is tested where the card is."""
    monkeypatch.setattr("hubpub.measure.run._others_share", lambda *_: 0.31)
    for run in copied.project.recipe["measure"].values():
        run["via"]["threads"] = 2
    copied.project.save()
    reporter = Recorder()
    built = copied.project.build(copied.store, reporter=reporter)
    assert built.manifest.observed.steps["runs/whole"]["others_share"] == 0.31
    assert reporter.outcomes["runs/whole"].endswith("; other programs took 31 % of the processor while it was timed")

"""A published release stands: where a step has the same key, its bytes and figures are taken, never made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stub import CdnStub, HubStub
from toy import Finished, Project, Recorder, recipe, tree, write_clip

from hubpub.build import Built, Silent, verify_release
from hubpub.build import plan as make_plan
from hubpub.build.published import UnpublishedError, open_published
from hubpub.build.run import input_digests
from hubpub.errors import ReleaseError, SourceError
from hubpub.manifest import MANIFEST, Manifest, read_manifest
from hubpub.store import Store

Build = Callable[..., Built]


@pytest.fixture
def fresh(finished: Finished, tmp_path: Path) -> Project:
    """The recipe and its sources, without the release, to be built in a fresh store."""
    shutil.copytree(finished.project.folder, tmp_path / "fresh", ignore=shutil.ignore_patterns("dist"))
    return Project(tmp_path / "fresh", recipe())


@pytest.fixture
def release(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the published release, to be changed."""
    return Path(shutil.copytree(finished.release, tmp_path / "published"))


def _edit(release: Path, change: Callable[[dict[str, Any]], None]) -> Manifest:
    """Change the manifest and seal it again, as one who lies would."""
    data = json.loads((release / MANIFEST).read_text())
    change(data)
    manifest = Manifest.model_validate(data).sealed()
    (release / MANIFEST).write_text(manifest.text())
    return manifest


def test_nothing_changed_gives_the_same_bytes_and_runs_nothing(fresh: Project, release: Path, store: Path) -> None:
    reporter = Recorder()
    built = fresh.build(store, reuse=str(release), reporter=reporter)
    assert built.ran == ()
    assert set(built.published) == set(built.cached) == set(read_manifest(release).observed.steps)
    assert tree(built.folder) == tree(release)
    assert not {"convert", "runs/whole", "corpora/chords"} & set(reporter.started)
    assert (built.folder / MANIFEST).read_bytes() == (release / MANIFEST).read_bytes()


def test_no_source_is_read_for_what_is_published(fresh: Project, release: Path, store: Path) -> None:
    for folder in ("data", "speech"):
        shutil.rmtree(fresh.folder / folder)
        (fresh.folder / folder).mkdir()
    built = fresh.build(store, reuse=str(release), locked=True)
    assert tree(built.folder) == tree(release)
    read = {
        (file.sha256, file.size)
        for path, file in read_manifest(release).listed_files().items()
        if not path.startswith(("README", "recipe/"))
    }
    assert built.bytes_fetched == sum(size for _, size in read)


def test_what_a_run_left_is_written_again_byte_for_byte(finished: Finished, release: Path, store: Path) -> None:
    """All of it but its arrays: so that another metric of a run that gives texts needs no second run."""
    manifest = read_manifest(release)
    with Store(finished.store) as made, Store(store) as opened:
        plan, _ = make_plan(finished.project.path, made, Silent(), locked=True, only=None, variant=None)
        published = open_published(str(release), opened, Silent())
        origins: dict[str, Any] = dict(plan.sources)
        for task in plan.tasks:
            digests = input_digests(task, origins)
            assert digests is not None
            key = task.key(digests)
            result = published.result(task, key, digests)
            assert result is not None
            assert result == made.result(key)
            origins[task.name] = result.outputs
            if task.name.startswith(("runs/", "measurements/")):
                assert task.name.startswith("measurements/") or key == manifest.steps[task.name].key
                for path, digest in result.outputs.items():
                    if path.startswith("outputs/"):
                        with pytest.raises(UnpublishedError, match=task.name):
                            published.bring(task.name, digest)
                    else:
                        published.bring(task.name, digest)
                        assert opened.path(digest.sha256).read_bytes() == made.path(digest.sha256).read_bytes()


def test_what_was_taken_is_taken_from_the_cache_next_time(fresh: Project, release: Path, store: Path) -> None:
    first = fresh.build(store, reuse=str(release))
    again = fresh.build(store, reuse=str(release))
    assert (again.unchanged, again.ran, again.bytes_fetched) == (True, (), 0)
    assert again.manifest == first.manifest
    with Store(store) as opened:
        assert list(opened.verify()) == []


def test_published_figures_go_before_those_of_this_machine(fresh: Project, release: Path, store: Path) -> None:
    mine = fresh.build(store)
    assert (mine.folder / MANIFEST).read_bytes() != (release / MANIFEST).read_bytes()  # timings
    assert mine.manifest.digest == read_manifest(release).digest
    built = fresh.build(store, reuse=str(release))
    assert not built.unchanged
    assert tree(built.folder) == tree(release)


def test_without_measurements_the_published_times_stand_too(tmp_path: Path, finished: Finished) -> None:
    first, second = (
        Project(Path(shutil.copytree(finished.project.folder, tmp_path / name)), recipe()).without_measurements()
        for name in ("first", "second")
    )
    for project in (first, second):
        shutil.rmtree(project.folder / "dist")
    theirs = first.build(tmp_path / "one")
    mine = second.build(tmp_path / "two")
    assert mine.manifest.observed != theirs.manifest.observed
    built = second.build(tmp_path / "two", reuse=str(theirs.folder))
    assert tree(built.folder) == tree(theirs.folder)


def _other_shards(recipe: dict[str, Any]) -> None:
    recipe["files"]["sharded/model.onnx"]["chain"][0]["max_bytes"] = 60_000


def _other_argument(recipe: dict[str, Any]) -> None:
    recipe["steps"]["convert"]["args"] = ["320"]


def _other_prose(recipe: dict[str, Any]) -> None:
    recipe["card"]["summary"] = "Said otherwise."


def _fewer_files(recipe: dict[str, Any]) -> None:
    del recipe["files"]["notes.txt"]


def _another_metric(recipe: dict[str, Any]) -> None:
    recipe["measure"]["whole"]["metrics"].append("load_time")


def _renamed_run(recipe: dict[str, Any]) -> None:
    recipe["measure"]["fp32"] = recipe["measure"].pop("whole")
    recipe["measure"]["sharded"]["reference"] = "fp32"
    recipe["gates"][2]["measure"] = "fp32/rtf"


@pytest.mark.parametrize(
    ("change", "ran"),
    [
        (_other_prose, set()),
        (_fewer_files, set()),
        (_other_argument, {"convert"}),  # another config.json, the same model: all after it stands
        # The new run needs the samples. Its outputs are those that the whole model gave, which were not published.
        (
            _other_shards,
            {
                *("corpora/chords", "files/sharded/model.onnx#1"),
                *("runs/sharded", "measurements/sharded"),
            },
        ),
        # A figure needs the run's outputs; with the run its times change, and so does what is compared with it.
        (_another_metric, {"corpora/chords", "runs/whole", "measurements/whole", "measurements/sharded"}),
        (_renamed_run, {"corpora/chords", "runs/fp32", "measurements/fp32", "measurements/sharded"}),
    ],
)
def test_a_change_runs_what_it_must(
    fresh: Project, release: Path, store: Path, change: Callable[[dict[str, Any]], None], ran: set[str]
) -> None:
    change(fresh.recipe)
    fresh.save()
    built = fresh.build(store, reuse=str(release))
    assert set(built.ran) == ran
    assert verify_release(built.folder) == built.manifest
    theirs = read_manifest(release)
    for name in built.published:
        if name in theirs.steps:
            assert built.manifest.steps[name] == theirs.steps[name]
        assert built.manifest.observed.steps[name] == theirs.observed.steps[name]
    with Store(store) as opened:
        assert list(opened.verify()) == []


def test_figures_and_timings_of_a_run_are_of_one_piece(fresh: Project, release: Path, store: Path) -> None:
    """Where a run had to run again, no figure of the published run is left beside its new timings."""
    _another_metric(fresh.recipe)
    fresh.save()
    built = fresh.build(store, reuse=str(release))
    timings = (built.folder / "measurements" / "whole.timings.jsonl").read_text().splitlines()
    walls = sorted(json.loads(line)["wall_s"] for line in timings)
    median = next(each for each in built.manifest.all_measurements() if each.key == "whole/latency_median")
    assert median.value == walls[1]
    assert walls != sorted(
        json.loads(line)["wall_s"]
        for line in (release / "measurements" / "whole.timings.jsonl").read_text().splitlines()
    )


def test_a_changed_recording_reuses_the_model(fresh: Project, release: Path, store: Path) -> None:
    write_clip(fresh.folder / "speech" / "chord0.wav", 77)
    (fresh.path.with_suffix(".lock")).unlink()
    built = fresh.build(store, reuse=str(release))
    assert {"convert", "files/sharded/model.onnx#1", "corpora/tuning"} & set(built.ran) == {"corpora/tuning"}
    assert {"convert", "files/sharded/model.onnx#1"} <= set(built.published)


def _swap(data: dict[str, Any]) -> None:
    data["files"]["model.onnx"] = {**data["files"]["config.json"]}


def _other_source_bytes(data: dict[str, Any]) -> None:
    data["files"]["notes.txt"]["sha256"] = "0" * 64


def _other_transcripts(data: dict[str, Any]) -> None:
    data["records"]["measurements/whole.jsonl"]["sha256"] = "0" * 64


def _outside(data: dict[str, Any]) -> None:
    data["records"]["../outside"] = {"sha256": "0" * 64, "size": 1}


def _other_inputs(data: dict[str, Any]) -> None:
    data["steps"]["convert"]["inputs"]["model.onnx"] = "0" * 64


def _output_left_out(data: dict[str, Any]) -> None:
    del data["steps"]["corpora/chords"]["outputs"]["corpus.json"]


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (_swap, r"model\.onnx is not what convert gave|config\.json"),
        (_other_source_bytes, r"notes\.txt is not what data gave"),
        (_other_transcripts, r"measurements/whole\.jsonl is not what runs/whole gave"),
        (_outside, r"it lists '\.\./outside'"),
        (_other_inputs, "step convert records inputs that its key was not made of"),
        (_output_left_out, r"step corpora/chords records no corpus\.json"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    fresh: Project, release: Path, store: Path, lie: Callable[[dict[str, Any]], None], said: str
) -> None:
    if lie is _swap:
        _edit(release, lambda data: data["steps"]["convert"]["outputs"].pop("model.onnx"))
        said = r"model\.onnx is not what convert gave"
    else:
        _edit(release, lie)
    with pytest.raises(ReleaseError, match=f"cannot be believed: {said}"):
        fresh.build(store, reuse=str(release))
    assert not (fresh.folder / "dist" / "toy").exists()


@pytest.mark.parametrize("name", ["model.onnx", "sharded/model.onnx.data.000", "measurements/whole.timings.jsonl"])
def test_a_file_with_other_bytes_is_refused(fresh: Project, release: Path, store: Path, name: str) -> None:
    data = (release / name).read_bytes()
    (release / name).unlink()
    (release / name).write_bytes(data[::-1])
    with pytest.raises(ReleaseError, match=rf"{name} has sha256 [0-9a-f]+, the manifest says"):
        fresh.build(store, reuse=str(release))
    assert not (fresh.folder / "dist" / "toy").exists()


def test_a_file_that_is_gone(fresh: Project, release: Path, store: Path) -> None:
    (release / "model.onnx").unlink()
    with pytest.raises(ReleaseError, match=r"model\.onnx is missing; build without reusing it"):
        fresh.build(store, reuse=str(release))


def test_an_edited_manifest(fresh: Project, release: Path, store: Path) -> None:
    text = (release / MANIFEST).read_text()
    (release / MANIFEST).write_text(text.replace('"license": "apache-2.0"', '"license": "mit"'))
    with pytest.raises(ReleaseError, match="was edited: its digest does not match"):
        fresh.build(store, reuse=str(release))


def test_figures_without_their_machine_are_measured_again(fresh: Project, release: Path, store: Path) -> None:
    """A manifest that lacks what a run observed: the run cannot be taken, the rest can."""
    _edit(release, lambda data: data["observed"]["steps"]["runs/whole"].pop("load_s"))
    built = fresh.build(store, reuse=str(release))
    assert {"runs/whole", "measurements/whole"} <= set(built.ran)
    assert {"convert", "files/sharded/model.onnx#1"} <= set(built.published)


@pytest.fixture
def hub(release: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    """The release at ``owner/repo``; the models are kept as LFS files."""
    monkeypatch.setattr("hubpub.source.hub.METADATA_TRIES", 1)
    files = {path.relative_to(release).as_posix(): path.read_bytes() for path in release.rglob("*") if path.is_file()}
    with CdnStub() as cdn, HubStub(files, cdn, {name for name in files if ".onnx" in name}) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield hub


def _publish_to(project: Project, repo: str) -> None:
    project.recipe["publish"] = {"repo": repo}
    project.save()


def test_nothing_is_published_yet(fresh: Project, store: Path, hub: HubStub) -> None:
    _publish_to(fresh, "owner/repo")
    hub.error_code = "RepoNotFound"
    reporter = Recorder()
    built = fresh.build(store, published=True, reporter=reporter)
    assert built.published == ()
    assert reporter.notes == ["no release is published at hf://owner/repo@main yet, so nothing is reused"]


def test_a_repo_without_a_release(fresh: Project, store: Path, hub: HubStub) -> None:
    _publish_to(fresh, "owner/repo")
    del hub.files[MANIFEST]
    reporter = Recorder()
    assert fresh.without_measurements().build(store, published=True, reporter=reporter).published == ()
    assert len(reporter.notes) == 1


@pytest.mark.parametrize(
    "options", [{"published": True}, {"reuse": "hf://owner/repo"}, {"reuse": "hf://owner/repo@v1"}]
)
def test_from_the_hub(fresh: Project, store: Path, hub: HubStub, release: Path, options: dict[str, Any]) -> None:
    """The recipe's own address is not in the release that is compared, so only the steps are."""
    _publish_to(fresh, "owner/repo")
    built = fresh.build(store, **options)
    assert built.ran == ()
    theirs = read_manifest(release)
    assert (built.manifest.steps, built.manifest.measurements) == (theirs.steps, theirs.measurements)
    assert {path: file.sha256 for path, file in built.manifest.files.items()} == {
        path: file.sha256 for path, file in theirs.files.items()
    }
    asked = [asked.path for asked in hub.log]
    assert len(asked) == len(set(asked)) or options == {"published": True}
    assert not [path for path in asked if path.endswith("README.md") or "/recipe/" in path]


def test_a_gated_repo_is_not_taken_for_an_empty_one(fresh: Project, store: Path, hub: HubStub) -> None:
    _publish_to(fresh, "owner/repo")
    hub.error_code = "GatedRepo"
    with pytest.raises(SourceError, match="the repo is gated"):
        fresh.build(store, published=True)


def test_a_hub_that_serves_other_bytes(fresh: Project, store: Path, hub: HubStub) -> None:
    _publish_to(fresh, "owner/repo")
    hub.files["config.json"] = b"{}"
    with pytest.raises(ReleaseError, match=r"config\.json"):
        fresh.build(store, published=True)


def test_a_recipe_that_says_no_place(fresh: Project, store: Path) -> None:
    with pytest.raises(ReleaseError, match="has no `publish`"):
        fresh.build(store, published=True)


@pytest.mark.parametrize("where", ["hf://repo", "nowhere"])
def test_what_is_no_release(fresh: Project, store: Path, where: str) -> None:
    with pytest.raises(ReleaseError, match=r"is not hf://OWNER/REPO|is not a release"):
        fresh.build(store, reuse=where)

"""The weekly rebuild, every ``run`` block of it, with a toy recipe and a Hub on loopback for upstream and for us."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from github_runner import JobRun, Runner
from toy import ROOT, Project, hubpub, make_project, tree, write_model

sys.path.insert(0, str(Path(__file__).parents[1] / "coremlfile"))

from ml_packages import write_embedder

from hubpub.build.evaluation import EVALUATION, read_evaluation
from hubpub.coremlfile.device import NEEDS_MACOS, not_here
from hubpub.localhub import LocalHub
from hubpub.manifest import CARD, MANIFEST

if TYPE_CHECKING:
    from huggingface_hub import HfApi

pytestmark = pytest.mark.slow

WORKFLOW = ROOT / ".github" / "workflows" / "rebuild.yml"
UPSTREAM, OURS, REPOSITORY = "up/toy", "me/toy", "maker/models"


@dataclass
class World:
    """A repository with one recipe that is published and one that is not, and the Hub."""

    hub: LocalHub
    runner: Runner
    project: Project
    upstream: Path

    def pull_requests(self) -> list[int]:
        """Numbers of those that are open."""
        found = self._api().get_repo_discussions(OURS)
        return sorted(each.num for each in found if each.is_pull_request and each.status in ("draft", "open"))

    def merge(self, number: int) -> None:
        self._api().change_discussion_status(OURS, number, "open")
        self._api().merge_pull_request(OURS, number)

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.hub.endpoint, token=self.hub.token())


def _wrap(work: Path) -> None:
    """A finished `.venv` for the checkout, so that `make setup` finds nothing to do: this environment is it."""
    binaries = work / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name, code in (("python", ""), ("hubpub", '-c "from hubpub.cli import main; main()"')):
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {code} "$@"\n')
        (binaries / name).chmod(0o755)
    (work / ".venv" / ".ready").touch()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    project = make_project(tmp_path / "repository")
    for name in ("Makefile", "pyproject.toml", "requirements/dev.txt"):
        (project.folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, project.folder / name)
    upstream = project.folder.rename(tmp_path / "moved") / "data"
    shutil.copytree(tmp_path / "moved", project.folder, ignore=shutil.ignore_patterns("data"))
    other = {**project.recipe, "name": "unpublished"}
    project.recipe["sources"]["data"] = {"hub": UPSTREAM, "include": ["*.onnx", "*.txt"], "license": "apache-2.0"}
    project.recipe["publish"] = {"repo": OURS}
    project.save()
    Project(project.folder, other).path.with_name("unpublished.yaml").write_text(
        json.dumps({**other, "sources": {**other["sources"], "data": {"path": "../nowhere"}}})
    )
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / CARD).write_text("---\nlicense: apache-2.0\n---\nSoon.\n")
    with LocalHub(tmp_path / "hub") as hub:
        hub.seed(UPSTREAM, upstream)
        hub.seed(OURS, ours)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        runner = Runner(
            WORKFLOW,
            project.folder,
            tmp_path / "github",
            {**kept, "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": str(ROOT)},
            {
                "ACTIONS_ID_TOKEN_REQUEST_URL": hub.id_token_url,
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": hub.trust(OURS, REPOSITORY),
            },
            _wrap,
        )
        yield World(hub, runner, project, upstream)


def _only(jobs: dict[str, list[JobRun]], name: str) -> JobRun:
    (leg,) = jobs[name]
    assert leg.result == "success", leg.log
    return leg


def test_only_the_job_that_publishes_may_ask_for_an_id_token_and_it_runs_no_build() -> None:
    data = yaml.safe_load(WORKFLOW.read_text())
    assert data["permissions"] == {}
    permissions = {name: job["permissions"] for name, job in data["jobs"].items()}
    reads = {"contents": "read"}
    publishes = {**reads, "id-token": "write"}
    assert permissions == {"recipes": reads, "build": reads, "device": reads, "publish": publishes}
    blocks = {name: " ".join(step.get("run", "") for step in job["steps"]) for name, job in data["jobs"].items()}
    assert "hubpub build" in blocks["build"]
    assert "hubpub build" not in blocks["publish"]
    assert not any("cache" in step.get("uses", "") for step in data["jobs"]["publish"]["steps"])


def _lock(world: World) -> None:
    """What a person does once, and commits."""
    done = hubpub(
        "lock",
        world.project.path,
        HF_ENDPOINT=world.hub.endpoint,
        HUBPUB_CACHE=str(world.project.folder.parent / "mine"),
    )
    assert done.returncode == 0, done.stderr


def test_from_the_first_release_to_the_next(world: World) -> None:
    _lock(world)
    before = world.hub.head(OURS)

    by_hand = world.runner.run("workflow_dispatch")
    assert _only(by_hand, "recipes").outputs["count"] == "1"
    assert [leg.result for leg in by_hand["device"]] == ["skipped"]  # nothing of it needs a Mac
    build, publish = _only(by_hand, "build"), _only(by_hand, "publish")
    assert "no release is published at hf://me/toy@main yet" in build.log
    assert "as locked" in build.summary
    assert build.steps["Lock what is upstream now"] == "skipped"
    assert "budget met: sharded/cosine: at least 0.999" in build.summary
    assert "model.onnx" in publish.summary
    assert world.hub.head(OURS) == before  # proposed, not published
    assert world.pull_requests() == [1]
    world.merge(1)
    first = world.hub.files(OURS)
    assert {MANIFEST, "model.onnx", "sharded/model.onnx"} <= first.keys()

    quiet = world.runner.run("schedule")
    build, publish = _only(quiet, "build"), _only(quiet, "publish")
    assert build.steps["Build, measure and judge"] == "skipped"
    assert "nothing was built" in publish.log
    assert publish.steps["Open the pull request"] == "skipped"

    # By hand it is built again, on a machine without a cache: every step of it is taken from what is published, to the
    # last byte, and nothing of upstream is fetched.
    shutil.rmtree(world.runner.room / "caches")
    world.hub.clear_requests()
    again = world.runner.run("workflow_dispatch", {"recipe": "toy"})
    assert "0 steps run" in _only(again, "build").log
    assert "nothing to publish" in _only(again, "publish").summary
    handed_over = tree(world.runner.artifacts / "release-toy")
    assert handed_over == {path: sha256 for path, (_, sha256) in first.items() if path != ".gitattributes"}
    assert not [each for each in world.hub.requests if each.path.startswith(f"/{UPSTREAM}/resolve/")]
    assert world.pull_requests() == []

    write_model(world.upstream / "model.onnx", seed=1)
    world.hub.seed(UPSTREAM, world.upstream)
    weekly = world.runner.run("schedule")
    build, publish = _only(weekly, "build"), _only(weekly, "publish")
    assert "moved, other bytes" in build.summary
    assert "model.onnx" in build.summary
    assert "recipe/toy.lock: commit it" in build.summary
    assert " → " in publish.summary
    (number,) = world.pull_requests()
    world.merge(number)
    assert world.hub.files(OURS)["model.onnx"] != first["model.onnx"]
    assert world.hub.files(OURS)["model.onnx"][1] == tree(world.upstream)["model.onnx"]


@pytest.mark.skipif(not_here() is None, reason="here nothing has to be left to a Mac")
def test_what_runs_on_a_mac_only_is_left_to_one(world: World) -> None:
    """Played here, that machine is none either, and says so; its steps are the same."""
    for clip in (world.project.folder / "speech").glob("*.wav"):
        shutil.copy2(clip, world.upstream)
    write_embedder(world.upstream / "toy.mlpackage")
    world.hub.seed(UPSTREAM, world.upstream)
    recipe = world.project.recipe
    recipe["sources"]["data"]["include"].append("toy.mlpackage/**")
    recipe["sources"]["speech"] = {"hub": UPSTREAM, "include": ["*.wav"], "license": "cc0-1.0"}
    recipe["files"]["toy.mlpackage"] = "data/toy.mlpackage"
    recipe["measure"]["cpu"] = {
        "files": ["toy.mlpackage"],
        "via": {"client": "coreml-device", "model": "toy.mlpackage", "features": "campplus", "units": "CPU_ONLY"},
        "corpus": "chords",
        "metrics": ["load_time", "latency"],
    }
    world.project.save()
    _lock(world)
    jobs = world.runner.run("workflow_dispatch")
    assert _only(jobs, "recipes").outputs["mac-count"] == "1"
    assert f"not run: {NEEDS_MACOS}: cpu" in _only(jobs, "build").log
    device = _only(jobs, "device")
    assert device.steps["Compile, load and run it"] == "success"
    assert f"cpu: not measured: {NEEDS_MACOS}" in device.summary
    evaluation = read_evaluation(world.runner.artifacts / "evaluation-toy" / EVALUATION)
    assert evaluation.left_out == {"cpu": NEEDS_MACOS}
    assert _only(jobs, "publish")
    assert world.pull_requests() == [1]


def test_a_missed_budget_is_shown_and_nothing_is_proposed(world: World) -> None:
    world.project.recipe["gates"][2] = {"measure": "whole/rtf", "max": 0}
    world.project.save()
    _lock(world)
    jobs = world.runner.run("workflow_dispatch")
    (build,), publish = jobs["build"], _only(jobs, "publish")
    assert build.result == "failure"
    assert "budget missed: whole/rtf" in build.summary
    assert build.steps["Save the store"] == "success"  # the next try goes on from there
    assert build.steps["Hand over the release"] == "skipped"
    assert publish.steps["Open the pull request"] == "skipped"
    assert world.pull_requests() == []


def test_an_upstream_that_cannot_be_asked_fails_the_job(world: World) -> None:
    _lock(world)
    world.hub.fault("/api/models/up/toy", status=500, times=99)
    jobs = world.runner.run("schedule")
    (build,) = jobs["build"]
    assert build.result == "failure"
    assert "the Hub answers 500" in build.summary
    assert build.steps["Build, measure and judge"] == "skipped"


def test_a_job_without_trust_publishes_nothing(world: World) -> None:
    _lock(world)
    world.runner.id_token["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = world.hub.trust(UPSTREAM, "a/stranger")
    jobs = world.runner.run("workflow_dispatch")
    (publish,) = jobs["publish"]
    assert _only(jobs, "build")
    assert publish.result == "failure"
    assert world.pull_requests() == []


@pytest.mark.parametrize("recipe", ["unpublished", "x'; touch owned; '", "$(touch owned)", "`touch owned`"])
def test_a_recipe_that_is_not_published(world: World, recipe: str) -> None:
    jobs = world.runner.run("workflow_dispatch", {"recipe": recipe})
    assert jobs["recipes"][0].result == "failure"
    assert "no recipe of this name says where it is published" in jobs["recipes"][0].log
    assert [leg.result for name in ("build", "publish") for leg in jobs[name]] == ["skipped", "skipped"]
    assert not list(world.runner.room.rglob("owned"))

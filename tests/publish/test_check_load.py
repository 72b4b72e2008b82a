"""A published commit is downloaded by the unmodified client, compared, opened with the real loader and run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from check_tools import publishable, release
from made_up import Stage
from toy import Finished

from hubpub.manifest import read_manifest
from hubpub.publish.load import files_of
from hubpub.recipe import load_recipe

__all__ = ["publishable", "release"]

CHILD = """
import json, sys
from pathlib import Path

from hubpub.errors import HubpubError
from hubpub.manifest import read_manifest
from hubpub.publish.load import load_back
from hubpub.recipe import load_recipe
from hubpub.report import Silent

repo, commit, folder = sys.argv[1:]
manifest = read_manifest(Path(folder))
recipe = load_recipe(Path(folder) / manifest.recipe).recipe
try:
    print(json.dumps({"lines": load_back(repo, commit, recipe, manifest, Silent())}))
except HubpubError as error:
    print(json.dumps({"kind": type(error).__name__, "error": str(error)}))
"""


def load(stage: Stage, commit: str, folder: Path, **changes: str) -> dict[str, Any]:
    """``load_back`` in a process of its own."""
    cache = stage.folder / "hubpub"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, stage.repo, commit, str(folder)],
        env=stage.environment(HUBPUB_CACHE=str(cache), **changes),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert stage.token not in done.stdout + done.stderr
    assert list((cache / "scratch").iterdir()) == [], "what was downloaded is gone"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_runs_that_the_recipe_names(stage: Stage, publishable: Finished) -> None:
    commit = stage.hub.seed(stage.repo, publishable.release)
    stage.hub.seed(stage.repo, publishable.release / "recipe", message="something else moves main on")
    answer = load(stage, commit, publishable.release)
    said = "1 arrays for 0.4 s of generated sound"
    assert answer == {
        "lines": [
            f"whole: with onnxruntime, 1 file loaded and run: {said}",
            f"sharded: with onnxruntime, 3 files loaded and run: {said}",
        ]
    }


def test_a_run_is_given_the_sidecars_of_its_files(publishable: Finished) -> None:
    manifest = read_manifest(publishable.release)
    run = load_recipe(publishable.release / manifest.recipe).recipe.measure["sharded"]
    names = ["sharded/model.onnx", "sharded/model.onnx.data.000", "sharded/model.onnx.data.001"]
    for patterns in (["sharded/*"], ["sharded/model.onnx"]):
        assert files_of(run.model_copy(update={"files": tuple(patterns)}), manifest) == names


def test_other_bytes_than_were_published(lfs_stage: Stage, release: Path) -> None:
    spoilt = shutil.copytree(release, lfs_stage.folder / "spoilt")
    with (spoilt / "model.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xaa")
    answer = load(lfs_stage, lfs_stage.hub.seed(lfs_stage.repo, spoilt), release)
    assert answer["kind"] == "PublishError"
    assert "run whole: model.onnx came back as other bytes (" in answer["error"]


def test_a_file_that_is_not_there(lfs_stage: Stage, release: Path) -> None:
    spoilt = shutil.copytree(release, lfs_stage.folder / "spoilt")
    (spoilt / "sharded" / "model.onnx.data.001").unlink()
    answer = load(lfs_stage, lfs_stage.hub.seed(lfs_stage.repo, spoilt), release)
    assert answer["kind"] == "PublishError"
    assert "run sharded: sharded/model.onnx.data.001 did not come with the download; " in answer["error"]


def test_a_model_that_its_loader_refuses(lfs_stage: Stage, release: Path) -> None:
    """The bytes are those of the manifest, and still no user can load them."""
    from check_tools import put

    put(release, "model.onnx", b"no model")
    answer = load(lfs_stage, lfs_stage.hub.seed(lfs_stage.repo, release), release)
    assert answer["kind"] == "PublishError"
    assert "run whole: does not work with onnxruntime: " in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"path": "/tree/", "status": 403, "times": 99}, "the token may not do this"),
        ({"path": "/tree/", "status": 404, "times": 99}, "cannot be downloaded again: "),
        ({"path": "/resolve/", "status": 403, "times": 99}, "cannot be downloaded again: "),
    ],
)
def test_a_hub_that_does_not_give_it_back(
    lfs_stage: Stage, publishable: Finished, fault: dict[str, Any], said: str
) -> None:
    commit = lfs_stage.hub.seed(lfs_stage.repo, publishable.release)
    lfs_stage.hub.fault(**fault)
    answer = load(lfs_stage, commit, publishable.release)
    assert answer["kind"] == "PublishError"
    assert said in answer["error"]
    assert "\n" not in answer["error"]

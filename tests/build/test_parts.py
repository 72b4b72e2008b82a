"""Variants share what they have in common; a part of a recipe is built elsewhere, and is not taken for the whole."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import Finished, Project, make_project, tree

from hubpub.build import verify_release
from hubpub.errors import HubpubError, ReleaseError
from hubpub.manifest import CARD, read_manifest


@pytest.fixture(scope="module")
def built_matrix(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two variants that share the model and its run, and differ in how it is sharded."""
    folder = tmp_path_factory.mktemp("matrix")
    project = make_project(folder / "project")
    recipe = project.recipe
    recipe["variants"] = {"small": {"bytes": 26000}, "large": {"bytes": 60000}}
    recipe["files"]["${variant}/model.onnx"] = {
        "from": "convert/model.onnx",
        "chain": [{"transform": "shard", "max_bytes": "${bytes}", "alignment": 64}],
    }
    del recipe["files"]["sharded/model.onnx"]
    recipe["measure"]["${variant}"] = recipe["measure"].pop("sharded")
    recipe["measure"]["${variant}"]["files"] = ["${variant}/*"]
    recipe["measure"]["${variant}"]["via"]["model"] = "${variant}/model.onnx"
    recipe["gates"] = [{"measure": "${variant}/max_abs_diff", "max": 0}, {"measure": "whole/rtf", "max": 1000}]
    recipe["card"]["summary"] = "Two variants."
    project.save()
    return Finished(project, folder / "store", project.build(folder / "store"))


@pytest.fixture
def matrix(built_matrix: Finished, tmp_path: Path) -> Project:
    """A copy of the project; nothing of it in a new store."""
    shutil.copytree(built_matrix.project.folder, tmp_path / "matrix")
    return Project(tmp_path / "matrix", copy.deepcopy(built_matrix.project.recipe))


@pytest.fixture
def warm(built_matrix: Finished, tmp_path: Path) -> Path:
    """A store that has it all."""
    shutil.copytree(built_matrix.store, tmp_path / "warm", symlinks=True)
    return tmp_path / "warm"


def test_steps_that_variants_share_run_once(built_matrix: Finished) -> None:
    built = built_matrix.built
    assert len(built.ran) == len(set(built.ran))
    assert built.ran.count("convert") == built.ran.count("runs/whole") == 1
    assert {"files/small/model.onnx#1", "files/large/model.onnx#1", "runs/small", "runs/large"} <= set(built.ran)
    files = built.manifest.files
    assert "small/model.onnx.data.001" in files
    assert "large/model.onnx.data.001" not in files
    assert files["small/model.onnx"].variants == ("small",)
    assert set(files["model.onnx"].variants) == {"small", "large"}
    assert len(built.manifest.verdicts) == 2


def test_a_part_is_built_elsewhere_and_never_touches_the_release(matrix: Project, warm: Path) -> None:
    whole = matrix.build(warm)
    assert whole.ran == ()
    before = tree(whole.folder)
    parts: tuple[tuple[dict[str, Any], set[str]], ...] = (
        ({"variant": "small"}, {"small/model.onnx", "small/model.onnx.data.000", "small/model.onnx.data.001"}),
        ({"only": "large/model.onnx"}, {"large/model.onnx", "large/model.onnx.data.000"}),
    )
    for options, paths in parts:
        part = matrix.build(warm, **options)
        assert set(part.ran) <= {"disjointness"}  # of fewer corpora
        assert part.folder == whole.folder.with_name("toy.partial")
        assert part.manifest.partial
        assert paths <= part.manifest.files.keys()
        assert "this is not a release" in (part.folder / CARD).read_text()
        assert verify_release(part.folder).partial
        assert tree(whole.folder) == before
    assert part.manifest.files.keys() == {"large/model.onnx", "large/model.onnx.data.000"}
    assert part.manifest.runs == ()
    assert matrix.build(warm).unchanged


def test_a_part_takes_only_the_steps_that_it_needs(matrix: Project, store: Path) -> None:
    assert "convert" not in matrix.build(store, only="notes.txt").ran
    built = matrix.build(store, variant="small")
    assert "convert" in built.ran
    assert not any("large" in name for name in built.ran)
    assert set(built.manifest.runs) == {"whole", "small"}


def test_a_part_whose_prose_quotes_what_is_not_measured(copied: Finished) -> None:
    part = copied.project.build(copied.store, only="notes.txt")
    assert "its cosine is (not measured)." in (part.folder / CARD).read_text()
    copied.project.recipe["card"]["summary"] = "{{ measured['sharded/kosine'] }}"
    copied.project.save()
    with pytest.raises(ReleaseError, match="sharded/kosine"):
        copied.project.build(copied.store)


def test_a_rejected_part_does_not_touch_the_whole_ones_rejection(matrix: Project, warm: Path) -> None:
    matrix.recipe["gates"].append({"measure": "${variant}/cosine", "min": 1.5})
    matrix.save()
    with pytest.raises(HubpubError, match="budget missed"):
        matrix.build(warm, variant="small")
    dist = matrix.folder / "dist"
    assert {path.name for path in dist.iterdir() if not path.name.startswith(".")} == {"toy", "toy.partial.rejected"}
    assert read_manifest(dist / "toy.partial.rejected").partial


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only": "small/modle.onnx"}, "publishes no file 'small/modle.onnx'; did you mean 'small/model.onnx'?"),
        ({"variant": "smal"}, "no variant 'smal'; did you mean 'small'?; known: small, large"),
        ({"variant": "small", "only": "large/model.onnx"}, "'large/model.onnx' is not of variant 'small'"),
    ],
)
def test_a_part_that_does_not_exist(matrix: Project, store: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(HubpubError) as caught:
        matrix.build(store, **options)
    assert says in str(caught.value)
    assert [path.name for path in (matrix.folder / "dist").iterdir() if path.name[0] != "."] == ["toy"]

"""A Core ML package is one artifact: taken from a source or a script, kept or palettized, published file by file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from toy import Project, tree

sys.path.insert(0, str(Path(__file__).parents[1] / "coremlfile"))

from ml_packages import convert

from hubpub.build import verify_release
from hubpub.coremlfile import messages
from hubpub.coremlfile.marks import mark_synthetic
from hubpub.errors import CoremlFileError, LockError, RecipeError

MODEL = "Data/com.apple.CoreML/model.mlmodel"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "embedder.mlpackage"
    convert("iOS17", path)
    return path


@pytest.fixture
def coreml(project: Project, package: Path) -> Project:
    """A project whose source holds the package, and a compiled model."""
    project.without_measurements()
    shutil.copytree(package, project.folder / "data" / "fp16" / "embedder.mlpackage")
    compiled = project.folder / "data" / "embedder.mlmodelc"
    compiled.mkdir()
    (compiled / "coremldata.bin").write_bytes(b"\x00")
    project.recipe["sources"]["data"]["include"] = ["*.txt", "fp16/**", "embedder.mlmodelc/**"]
    project.recipe["steps"] = {}
    files(project)
    return project


def files(project: Project, **more: Any) -> None:
    source = "data/fp16/embedder.mlpackage"
    project.recipe["files"] = {
        "v3/fp16/embedder.mlpackage": source,
        "v3/palettized/embedder6.mlpackage": {"from": source, "chain": [{"transform": "palettize", "bits": 6}]},
        **more,
    }
    project.save()


def test_kept_and_palettized(coreml: Project, store: Path, package: Path) -> None:
    built = coreml.build(store)
    release = coreml.folder / "dist" / "toy"
    verify_release(release)
    assert tree(release / "v3/fp16/embedder.mlpackage") == tree(package)
    made = release / "v3/palettized/embedder6.mlpackage"
    assert tree(made).keys() == tree(package).keys()
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    facts = built.manifest.steps["files/v3/palettized/embedder6.mlpackage#1"].facts
    assert (made / weights).stat().st_size == facts["bytes_out"] < 0.5 * (package / weights).stat().st_size
    assert built.manifest.files[f"v3/palettized/embedder6.mlpackage/{MODEL}"].made_by.startswith("files/v3/palettized")
    assert not built.manifest.synthetic
    assert coreml.build(store).unchanged


def test_chain_of_two_steps_and_a_part_of_the_recipe(coreml: Project, store: Path) -> None:
    chain = [{"transform": "palettize", "bits": 8, "include": [name]} for name in ("up_weight_0", "down_weight_0")]
    files(coreml, **{"twice.mlpackage": {"from": "data/fp16/embedder.mlpackage", "chain": chain}})
    built = coreml.build(store, only="twice.mlpackage")
    steps = built.manifest.steps
    assert [len(steps[f"files/twice.mlpackage#{number}"].facts["layers"]) for number in (1, 2)] == [1, 1]
    assert {path.split("/")[0] for path in built.manifest.files} == {"twice.mlpackage"}


def test_script_takes_and_gives_packages(coreml: Project, store: Path, package: Path) -> None:
    body = (
        '\n"""Hands on what it is given."""\n\nimport shutil\n\n'
        'shutil.copytree("inputs/in.mlpackage", "outputs/out.mlpackage", dirs_exist_ok=True)\n'
    )
    coreml.replace_script(body)
    outputs = [f"out.mlpackage/{path}" for path in tree(package)]
    coreml.recipe["steps"] = {
        "hand": {
            "script": "scripts/convert.py",
            "inputs": {"in.mlpackage": "data/fp16/embedder.mlpackage"},
            "outputs": outputs,
        }
    }
    chain = [{"transform": "palettize", "bits": 4}]
    files(
        coreml, **{"a.mlpackage": "hand/out.mlpackage", "b.mlpackage": {"from": "hand/out.mlpackage", "chain": chain}}
    )
    coreml.build(store)
    release = coreml.folder / "dist" / "toy"
    assert tree(release / "a.mlpackage") == tree(package)
    assert (release / "b.mlpackage" / MODEL).is_file()
    files(coreml, **{"c.mlpackage": "hand/other.mlpackage"})
    with pytest.raises(RecipeError, match=r"step 'hand' does not make 'other.mlpackage'"):
        coreml.build(store)


def test_random_weights_are_known_by_their_mark(coreml: Project, store: Path) -> None:
    file = coreml.folder / "data/fp16/embedder.mlpackage" / MODEL
    spec = messages().Model.FromString(file.read_bytes())
    mark_synthetic(spec)
    file.write_bytes(spec.SerializeToString())
    files(coreml)
    del coreml.recipe["files"]["v3/fp16/embedder.mlpackage"]  # the mark survives what is made of it
    coreml.save()
    assert coreml.build(store).manifest.synthetic


def test_what_cannot_be_is_one_line_at_its_place(coreml: Project, store: Path) -> None:
    files(coreml, **{"x.mlpackage": {"from": "data/embedder.mlmodelc", "chain": [{"transform": "palettize"}]}})
    with pytest.raises(CoremlFileError) as caught:
        coreml.build(store)
    line = str(caught.value)
    assert line.startswith(f"{coreml.path}:")
    assert "files.x.mlpackage.chain[0]: embedder.mlmodelc: " in line
    assert "embedder.mlmodelc: is a compiled model, which cannot be transformed; start from the .mlpackage" in line
    files(coreml, **{"x.mlpackage": "data/fp16/embeder.mlpackage"})
    with pytest.raises(LockError, match=r"source 'data' has no file 'fp16/embeder.mlpackage'"):
        coreml.build(store)

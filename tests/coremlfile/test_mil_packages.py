"""Whole packages: pipelines stage by stage, tables in the weight file, kinds that cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_packages import convert_linear

from hubpub.coremlfile import Package, Part, main_blocks
from hubpub.coremlfile.mil import Model
from hubpub.errors import CoremlFileError
from hubpub.transform.palettize import Palettize


def test_a_pipeline_runs_stage_by_stage(packages: Any) -> None:
    """The second stage hands on what the first gave: the alias is no hindrance here."""
    package = Package.open(packages.pipeline)
    model = Model(package, precision="fp32")
    assert list(model.inputs) == ["chunk"]
    x = np.random.default_rng(0).normal(size=(1, 6, 40)).astype(np.float32)
    found = model.run({"chunk": x})
    first, second = (_weight(package, part, "weight") for part in package.programs)
    emb = x @ first.T + 1
    np.testing.assert_allclose(found["preds"], emb @ second.T + 1, rtol=1e-4, atol=1e-4)
    assert set(model.outputs) == set(found)
    rounded = Model(package, precision="fp16").run({"chunk": x})["preds"]
    assert 0 < np.abs(rounded - found["preds"]).max() < 0.02


def _weight(package: Package, part: Part, parameter: str) -> np.ndarray:
    """The constant that the program's linear layer takes."""
    ((_, _, block),) = main_blocks(part.program)
    (linear,) = (each for each in block.operations if each.type == "linear")
    name = linear.inputs[parameter].arguments[0].name
    (constant,) = (each for each in block.operations if each.outputs[0].name == name)
    return package.array(constant.attributes["val"], name).astype(np.float64)


@pytest.mark.parametrize("name", ["ios16", "ios18", "single"])
def test_the_same_program_of_every_age(packages: Any, name: str) -> None:
    """The packages are of one program and one seed, in fp16 and in fp32."""
    x = np.random.default_rng(1).normal(size=(1, 8, 48)).astype(np.float16)
    runs = {}
    for each in ("single", name):
        model = Model(Package.open(getattr(packages, each)))
        (runs[each],) = model.run({"x": x}).values()
    single = runs["single"].astype(float)
    assert np.abs(runs[name].astype(float) - single).max() < 2e-3 * np.abs(single).max()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ios16", {"bits": 8}),
        ("ios18", {"bits": 3, "granularity": "per_grouped_channel", "group_size": 16}),
        ("ios18", {"bits": 4, "per_channel_scale": True}),
    ],
)
def test_what_palettize_writes_is_what_it_was_nearly(
    packages: Any, tmp_path: Path, name: str, parameters: dict[str, Any]
) -> None:
    source, target = getattr(packages, name), tmp_path / "tables.mlpackage"
    Palettize.model_validate(parameters).apply(source, target, lambda _: None)
    x = np.random.default_rng(2).normal(size=(1, 8, 48)).astype(np.float16)
    (before,), (after,) = (Model(Package.open(path)).run({"x": x}).values() for path in (source, target))
    noise = np.linalg.norm(after.astype(float) - before.astype(float)) / np.linalg.norm(before.astype(float))
    assert 1e-4 < noise < 0.5


def test_a_stage_that_is_no_program_is_named(packages: Any) -> None:
    package = Package.open(packages.pipeline)
    package.parts[0].spec.neuralNetwork.SetInParent()
    broken = Package(package.path, package.manifest, package.spec, _again(package))
    with pytest.raises(CoremlFileError, match="neural network"):
        Model(broken)


def _again(package: Package) -> tuple[Part, ...]:
    return tuple(Part(p.index, p.name, p.spec.WhichOneof("Type"), p.spec) for p in package.parts)


def test_a_program_that_does_not_hold_together_is_one_line(packages: Any) -> None:
    package = Package.open(packages.ios16)
    ((_, _, block),) = main_blocks(package.parts[0].program)
    del next(each for each in block.operations if each.type == "const").outputs[:]
    with pytest.raises(CoremlFileError, match="const without outputs: is a const without a value; fetch or"):
        Model(package)


def test_an_image_is_no_array(packages: Any) -> None:
    package = Package.open(packages.ios16)
    package.spec.description.input[0].type.imageType.SetInParent()
    with pytest.raises(CoremlFileError, match="x is of the type imageType, not an array"):
        Model(package)


def test_the_default_of_several_functions_runs(tmp_path: Path) -> None:
    """Each function has inputs and outputs of its own; the package itself describes none."""
    import coremltools

    weight = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    descriptor = coremltools.utils.MultiFunctionDescriptor()
    for name, rows in (("other", weight[:2]), ("usual", weight)):
        convert_linear(tmp_path / f"{name}.mlpackage", rows)
        descriptor.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    descriptor.default_function_name = "usual"
    coremltools.utils.save_multifunction(descriptor, str(tmp_path / "two.mlpackage"))
    model = Model(Package.open(tmp_path / "two.mlpackage"))
    assert (list(model.inputs), model.outputs) == (["x"], ("first",))
    x = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(model.run({"x": x})["first"], x @ weight.T, rtol=1e-5)

"""What is asked of Core ML, with a stand-in for it; on macOS with Core ML itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_packages import Packages

from hubpub.coremlfile import Package
from hubpub.coremlfile.device import NEEDS_MACOS, UNITS, made_up_inputs, run_on_device
from hubpub.errors import CoremlFileError
from hubpub.transform.palettize import Palettize


@pytest.mark.skipif(sys.platform == "darwin", reason="here it runs")
def test_elsewhere_it_is_reported_as_not_run(packages: Packages, tmp_path: Path) -> None:
    reports = run_on_device(packages.ios16, tmp_path)
    assert [(each.unit, each.status, each.why) for each in reports] == [
        (unit, "not run", NEEDS_MACOS) for unit in UNITS
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "darwin", reason="needs Core ML")
def test_palettized_package_runs_on_every_unit(packages: Packages, tmp_path: Path) -> None:
    for source in (packages.ios16, packages.pipeline):
        made = tmp_path / source.name
        Palettize(bits=8, split_aliases=True).apply(source, made, lambda _: None)
        reports = run_on_device(made, tmp_path)
        assert [each.status for each in reports] == ["ran"] * len(UNITS), reports
        exact = reports[0].outputs
        assert exact is not None
        for each in reports[1:]:
            assert each.outputs is not None
            for name, value in exact.items():
                np.testing.assert_allclose(each.outputs[name], value, rtol=0.05, atol=0.05)


class Framework:
    """Answers as Core ML does; ``broken`` units do not load, ``outputs`` is what a model gives."""

    def __init__(self, outputs: dict[str, Any], broken: tuple[str, ...] = ()) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.outputs, self.broken = outputs, broken
        framework = self

        class CompiledMLModel:
            def __init__(self, path: str, compute_units: str) -> None:
                framework.calls.append(("load", Path(path).name, compute_units))
                if compute_units in framework.broken:
                    raise RuntimeError("Error compiling for ANE\nand more of it")

            def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
                framework.calls.append(("predict", *sorted(inputs)))
                return framework.outputs

        self.models = SimpleNamespace(
            CompiledMLModel=CompiledMLModel, utils=SimpleNamespace(compile_model=self.compile_model)
        )
        self.ComputeUnit = SimpleNamespace(**{unit: unit for unit in UNITS})

    def compile_model(self, path: str, destination_path: str) -> None:
        self.calls.append(("compile", Path(path).name, Path(destination_path).name))
        if not self.outputs:
            raise RuntimeError("compiler error: too many inputs and outputs")


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(framework: Framework) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setitem(sys.modules, "coremltools", framework)

    return use


def test_compiled_once_and_run_on_each_unit(packages: Packages, tmp_path: Path, macos: Any) -> None:
    made_up_inputs(Package.open(packages.pipeline))  # the messages are loaded from the real coremltools
    framework = Framework({"preds": np.zeros(3)}, broken=("CPU_AND_NE",))
    macos(framework)
    reports = run_on_device(packages.pipeline, tmp_path, repeats=2)
    assert [(each.unit, each.status, each.why) for each in reports] == [
        ("CPU_ONLY", "ran", ""),
        ("CPU_AND_GPU", "ran", ""),
        ("CPU_AND_NE", "failed", "Error compiling for ANE"),
        ("ALL", "ran", ""),
    ]
    assert framework.calls[0] == ("compile", "pipeline.mlpackage", "pipeline.mlmodelc")
    assert framework.calls[1:5] == [("load", "pipeline.mlmodelc", "CPU_ONLY"), *[("predict", "chunk")] * 3]
    assert all((each.predict_s is not None) == (each.status == "ran") for each in reports)


def test_numbers_that_are_none_fail(packages: Packages, tmp_path: Path, macos: Any) -> None:
    made_up_inputs(Package.open(packages.ios16))
    macos(Framework({"backward": np.array([1, np.nan])}))
    reports = run_on_device(packages.ios16, tmp_path, repeats=1)
    assert {(each.status, each.why) for each in reports} == {("failed", "backward holds NaN or infinities")}


def test_what_does_not_compile_is_one_line(packages: Packages, tmp_path: Path, macos: Any) -> None:
    made_up_inputs(Package.open(packages.ios16))
    macos(Framework({}))
    with pytest.raises(CoremlFileError, match=r"^ios16.mlpackage: Core ML does not compile it: compiler error: "):
        run_on_device(packages.ios16, tmp_path)


def test_inputs_are_made_up_by_the_description(packages: Packages) -> None:
    package = Package.open(packages.single)
    made = made_up_inputs(package)
    assert {name: (value.dtype, value.shape) for name, value in made.items()} == {"x": (np.float32, (1, 8, 48))}
    np.testing.assert_array_equal(made["x"], made_up_inputs(package)["x"])
    package.spec.description.input[0].type.imageType.width = 3
    with pytest.raises(CoremlFileError, match="the input 'x' is not an array; give the inputs"):
        made_up_inputs(package)

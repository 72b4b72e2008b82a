"""What is asked of Core ML, with a stand-in for it; on macOS of Core ML itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from core_ml_fake import CoreMl
from ml_packages import Packages

from hubpub.coremlfile import Package, device
from hubpub.coremlfile.device import NEEDS_MACOS, DeviceModel, Units, compiled, not_here
from hubpub.coremlfile.mil import Model
from hubpub.errors import CoremlFileError
from hubpub.transform.palettize import Palettize

UNITS = get_args(Units)
Use = Callable[[CoreMl], CoreMl]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Puts a Core ML in its place; what was compiled before is forgotten."""

    def install(fake: CoreMl) -> CoreMl:
        compiled.cache_clear()
        fake.install(monkeypatch.setattr)
        return fake

    yield install
    compiled.cache_clear()


def made_up(package: Package) -> dict[str, np.ndarray]:
    """Normal noise of the shapes that the model describes, always the same."""
    random = np.random.default_rng(0)
    shapes = {each.name: tuple(each.type.multiArrayType.shape) for each in package.spec.description.input}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.skipif(not_here() is not None, reason=NEEDS_MACOS)
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", ["ios16", "pipeline"])
def test_palettized_package_in_core_ml_itself(packages: Packages, tmp_path: Path, name: str, units: Units) -> None:
    path = tmp_path / f"{name}.mlpackage"
    Palettize(bits=8, split_aliases=True).apply(getattr(packages, name), path, lambda _: None)
    package = Package.open(path)
    given = made_up(package)
    found, wanted = DeviceModel(package, units).run(given), Model(package, precision="fp16").run(given)
    assert found.keys() == wanted.keys()
    for output, array in wanted.items():
        np.testing.assert_allclose(found[output], array, rtol=0.05, atol=0.05)


def test_elsewhere_it_is_refused_in_a_line(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.cache_clear()
    monkeypatch.setattr(device, "sys", SimpleNamespace(platform="linux"))
    assert not_here() == NEEDS_MACOS
    with pytest.raises(CoremlFileError, match=r"^ios16.mlpackage: Core ML runs on macOS only; run it on a Mac, or"):
        DeviceModel(Package.open(packages.ios16), "ALL")


def test_compiled_once_and_loaded_and_run_on_each_unit(packages: Packages, use: Use) -> None:
    fake = use(CoreMl())
    assert not_here() is None
    for path in (packages.single, packages.pipeline):
        package = Package.open(path)
        given, reference = made_up(package), Model(package, precision="fp16", threads=1)
        fake.calls.clear()
        for units in UNITS:
            model = DeviceModel(package, units)
            assert (model.inputs, model.outputs) == (reference.inputs, reference.outputs)
            found = model.run(given)
            for name, array in reference.run(given).items():
                np.testing.assert_array_equal(found[name], array)
        assert fake.calls == [
            ("compile", path.name, f"{path.stem}.mlmodelc"),
            *(call for units in UNITS for call in (("load", f"{path.stem}.mlmodelc", units), ("predict", units))),
        ]
    assert compiled(packages.pipeline).parent != compiled(packages.single).parent


def test_inputs_have_the_types_of_the_description(packages: Packages, use: Use) -> None:
    use(CoreMl())
    package = Package.open(packages.ios16)  # takes float16
    model = DeviceModel(package, "CPU_ONLY")
    assert model.inputs["x"].dtype == "fp16"
    (output,) = model.run({name: array.astype(np.float64) for name, array in made_up(package).items()}).values()
    assert np.isfinite(output).all()
    with pytest.raises(CoremlFileError, match=r"^ios16.mlpackage on CPU_ONLY: the input x is missing$"):
        model.run({})
    package.spec.description.input[0].type.multiArrayType.enumeratedShapes.shapes.add(shape=[1, 8, 48])
    assert DeviceModel(package, "CPU_ONLY").inputs["x"].shape == (None, None, None)
    package.spec.description.input[0].type.imageType.width = 3
    with pytest.raises(CoremlFileError, match=r"^ios16.mlpackage: the input x is not an array of a known type; "):
        DeviceModel(package, "CPU_ONLY")


def test_a_unit_that_fails_is_named_and_the_others_run(packages: Packages, use: Use) -> None:
    use(CoreMl(broken=["CPU_AND_NE"], failing=["CPU_AND_GPU"], hollow=["ALL"]))
    package = Package.open(packages.single)
    said = {}
    for units in UNITS:
        try:
            DeviceModel(package, units).run(made_up(package))
        except CoremlFileError as error:
            said[units] = str(error)
    assert said == {
        "CPU_AND_GPU": "single.mlpackage on CPU_AND_GPU: Core ML does not run it: "
        "Unable to compute the prediction using ML Program",
        "CPU_AND_NE": "single.mlpackage on CPU_AND_NE: Core ML does not load it: Error compiling for ANE",
        "ALL": "single.mlpackage on ALL: its output backward holds NaN or infinities",
    }


def test_what_does_not_compile_is_one_line(packages: Packages, use: Use, tmp_path: Path) -> None:
    use(CoreMl(refused="compiler error: too many inputs and outputs\nand more of it"))
    wanted = r"^ios16.mlpackage: Core ML does not compile it: compiler error: too many inputs and outputs; convert it"
    with pytest.raises(CoremlFileError, match=wanted):
        compiled(packages.ios16)
    fake = use(CoreMl())
    damaged = Path(shutil.copytree(packages.ios16, tmp_path / "damaged.mlpackage"))
    (damaged / "Manifest.json").unlink()
    with pytest.raises(CoremlFileError, match=r"^damaged\.mlpackage: "):
        compiled(damaged)
    assert fake.calls == []

"""Core ML where there is none: the two calls of coremltools that need macOS, their predictions by reference execution.

They are put in their places inside the real coremltools, with its own signatures and rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coremltools
import numpy as np

from hubpub.coremlfile import Package, device
from hubpub.coremlfile.mil import Model

_COMPILE = inspect.signature(coremltools.models.utils.compile_model)
_LOAD = inspect.signature(coremltools.models.CompiledMLModel)


class CoreMl:
    """What it is asked for is in ``calls``.

    Args:
        refused: what the compiler says of every package.
        broken: units on which nothing loads.
        failing: units on which nothing runs.
        hollow: units whose outputs are NaN.
        off_by: what is added to every output of the units that are not the CPU alone.
    """

    def __init__(
        self,
        refused: str | None = None,
        broken: Sequence[str] = (),
        failing: Sequence[str] = (),
        hollow: Sequence[str] = (),
        off_by: float = 0.0,
    ) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.refused, self.broken, self.failing, self.hollow = refused, broken, failing, hollow
        self.off_by = off_by

    def install(self, patch: Callable[[Any, str, Any], object] = setattr) -> None:
        """As if this were a Mac; ``patch`` as ``setattr``."""
        patch(device, "sys", SimpleNamespace(platform="darwin"))
        patch(coremltools.models.utils, "compile_model", self.compile_model)
        patch(coremltools.models, "CompiledMLModel", lambda *args, **named: _Loaded(self, *args, **named))

    def compile_model(self, *args: Any, **named: Any) -> str:
        given = _COMPILE.bind(*args, **named).arguments
        package, target = Path(given["model"]), Path(given["destination_path"])
        self.calls.append(("compile", package.name, target.name))
        assert package.suffix == ".mlpackage"
        assert target.suffix == ".mlmodelc"
        if self.refused:
            raise RuntimeError(self.refused)
        target.mkdir()
        (target / "of").write_text(str(package))
        return str(target)


class _Loaded:
    def __init__(self, fake: CoreMl, *args: Any, **named: Any) -> None:
        given = _LOAD.bind(*args, **named).arguments
        path, units = given["path"], given["compute_units"]
        assert isinstance(path, str)
        assert isinstance(units, coremltools.ComputeUnit)
        self._fake, self._units = fake, units.name
        fake.calls.append(("load", Path(path).name, self._units))
        if self._units in fake.broken:
            raise RuntimeError("Error compiling for ANE\nand more of it")
        package = Package.open(Path(Path(path, "of").read_text()))
        self._wanted = {
            each.name: (coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(
                each.type.multiArrayType.dataType), tuple(each.type.multiArrayType.shape))
            for each in package.spec.description.input
        }  # fmt: skip
        self._model = Model(package, precision="fp16", threads=1)

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        self._fake.calls.append(("predict", self._units))
        found = {name: (array.dtype.name.upper(), array.shape) for name, array in data.items()}
        assert found == self._wanted
        if self._units in self._fake.failing:
            raise RuntimeError("Unable to compute the prediction using ML Program\nand more of it")
        outputs = self._model.run(data)
        if self._units in self._fake.hollow:
            return {name: np.full_like(array, np.nan) for name, array in outputs.items()}
        off_by = 0.0 if self._units == "CPU_ONLY" else self._fake.off_by
        return {
            name: array + array.dtype.type(off_by) if array.dtype.kind == "f" else array
            for name, array in outputs.items()
        }


def site(folder: Path, **options: Any) -> Path:
    """Write into ``folder``, to be put on PYTHONPATH, what makes every Python process a Mac."""
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import core_ml_fake\ncore_ml_fake.CoreMl(**{options!r}).install()\n"
    )
    return folder

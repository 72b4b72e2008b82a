"""An ML package in Core ML itself, which there is on macOS only: compiled, loaded for some compute units, run."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubpub.coremlfile.dtypes import BY_NAME
from hubpub.coremlfile.package import Package
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy.typing as npt

    from hubpub.coremlfile.mil.types import TensorType

    Array = npt.NDArray[Any]

Units = Literal["CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL"]
"""What Core ML may use, as coremltools calls it; NE is the Neural Engine."""

UNITS_HELP = (
    "What Core ML may use, as coremltools calls it: a run for each choice shows that the package loads and runs on it."
)

NEEDS_MACOS = "Core ML runs on macOS only"


def not_here() -> str | None:
    """Why no package can run in Core ML on this machine; None where one can."""
    return None if sys.platform == "darwin" else NEEDS_MACOS


@cache
def compiled(package: Path) -> Path:
    """A package compiled to ``.mlmodelc``: once in a process, at whose end it is removed.

    Raises:
        CoremlFileError: there is no Core ML here, the package is not sound, or it does not compile.
    """
    if reason := not_here():
        raise CoremlFileError(reason, where=package.name, fix="run it on a Mac, or by reference execution")
    Package.open(package)  # what is damaged is told in our words
    import coremltools

    folder = Path(tempfile.mkdtemp(prefix="hubpub-mlmodelc-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / f"{package.stem}.mlmodelc"
    try:
        coremltools.models.utils.compile_model(str(package), destination_path=str(target))
    except Exception as error:  # the compiler's errors have no class of their own
        what = f"Core ML does not compile it: {_first_line(error)}"
        raise CoremlFileError(what, where=package.name, fix="convert it for this version of macOS") from error
    return target


class DeviceModel:
    """A package loaded by Core ML; to its callers what `hubpub.coremlfile.mil.Model` is.

    Args:
        package: as opened.
        units: what it may use; whether it does is for Core ML to decide.

    Raises:
        CoremlFileError: there is no Core ML here, or the package does not compile or load; an input is not an array.
    """

    def __init__(self, package: Package, units: Units) -> None:
        self._where = f"{package.path.name} on {units}"
        description = package.spec.description
        self.inputs = {each.name: _kind(each, package.path.name) for each in description.input}
        self.outputs = tuple(each.name for each in description.output)
        path = compiled(package.path)
        import coremltools

        try:
            self._model = coremltools.models.CompiledMLModel(str(path), getattr(coremltools.ComputeUnit, units))
        except Exception as error:  # a framework's error, or one of its Python bindings
            raise self._error(f"Core ML does not load it: {_first_line(error)}") from error

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs that the model declares.

        Raises:
            CoremlFileError: an input is missing, it does not run, or what comes out is no number.
        """
        import numpy as np

        if lacking := sorted(self.inputs.keys() - values.keys()):
            raise self._error(f"the input {lacking[0]} is missing")
        given = {name: np.asarray(values[name], BY_NAME[kind.dtype].dtype()) for name, kind in self.inputs.items()}
        try:
            found = self._model.predict(given)
            arrays = {name: np.asarray(found[name]) for name in self.outputs}
        except Exception as error:  # a framework's error, or one of its Python bindings
            raise self._error(f"Core ML does not run it: {_first_line(error)}") from error
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise self._error(f"its output {name} holds NaN or infinities")
        return arrays

    def _error(self, what: str) -> CoremlFileError:
        return CoremlFileError(what, where=self._where)


def _kind(feature: Any, where: str) -> TensorType:
    """The type of an input by the package's description; flexible sizes are open."""
    from hubpub.coremlfile.mil.types import TensorType, from_text

    array = feature.type.multiArrayType
    codes = array.DESCRIPTOR.enum_types_by_name["ArrayDataType"].values_by_number
    dtype = from_text(codes[array.dataType].name.lower())
    if feature.type.WhichOneof("Type") != "multiArrayType" or dtype not in BY_NAME:
        what = f"the input {feature.name} is not an array of a known type"
        raise CoremlFileError(what, where=where, fix="convert it with arrays as inputs and outputs")
    flexible = array.WhichOneof("ShapeFlexibility") is not None
    return TensorType(dtype, tuple(None if flexible else int(size) for size in array.shape))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

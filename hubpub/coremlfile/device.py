"""Running a package in Core ML itself, which is there on macOS only; elsewhere each unit is reported as not run."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubpub.coremlfile.package import Package
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, np.dtype[Any]]]

UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
"""Core ML's choices of compute units, as coremltools calls them."""

NEEDS_MACOS = "Core ML runs on macOS only"


@dataclass(frozen=True)
class UnitReport:
    """What became of a package on one choice of compute units.

    Attributes:
        unit: which.
        status: ``ran``; ``failed``: it did not load or predict; ``not run``: there is no Core ML here.
        why: of a failure, or of its not having run.
        load_s: seconds to load it.
        predict_s: median seconds of a prediction, the first not counted.
        outputs: what the last prediction gave.
    """

    unit: str
    status: Literal["ran", "failed", "not run"]
    why: str = ""
    load_s: float | None = None
    predict_s: float | None = None
    outputs: Arrays | None = None


def run_on_device(package: Path, folder: Path, *, inputs: Arrays | None = None, repeats: int = 10) -> list[UnitReport]:
    """Compile a package into ``folder`` (as ``<name>.mlmodelc``), and load and run it on every choice of units.

    Args:
        package: the ``.mlpackage``.
        folder: an existing one, where the compiled model is put.
        inputs: what it is given; none = `made_up_inputs`.
        repeats: predictions that are timed, at least 1.

    Raises:
        CoremlFileError: the package is not sound, or does not compile.
    """
    opened = Package.open(package)
    if sys.platform != "darwin":
        return [UnitReport(unit, "not run", NEEDS_MACOS) for unit in UNITS]
    import coremltools

    given = made_up_inputs(opened) if inputs is None else inputs
    target = folder / f"{package.stem}.mlmodelc"
    try:
        coremltools.models.utils.compile_model(str(package), destination_path=str(target))
    except Exception as error:  # the compiler's errors have no class of their own
        raise CoremlFileError(
            f"Core ML does not compile it: {_first_line(error)}", where=package.name, fix="see what it says"
        ) from error
    return [_run(target, unit, given, repeats) for unit in UNITS]


def made_up_inputs(package: Package) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Normal noise, or ones where integers are asked for, of the shapes that the model describes; always the same.

    Raises:
        CoremlFileError: an input is not an array.
    """
    import numpy as np

    random = np.random.default_rng(0)
    made: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
    for feature in package.spec.description.input:
        if feature.type.WhichOneof("Type") != "multiArrayType":
            raise CoremlFileError(
                f"the input {feature.name!r} is not an array", where=package.path.name, fix="give the inputs"
            )
        array = feature.type.multiArrayType
        name = array.DESCRIPTOR.enum_types_by_name["ArrayDataType"].values_by_number[array.dataType].name.lower()
        dtype = np.dtype({"double": "float64"}.get(name, name))
        shape = tuple(int(size) for size in array.shape)
        if dtype.kind == "f":
            made[feature.name] = random.standard_normal(shape).astype(dtype)
        else:
            made[feature.name] = np.ones(shape, dtype)
    return made


def _run(compiled: Path, unit: str, inputs: Arrays, repeats: int) -> UnitReport:
    import coremltools
    import numpy as np

    try:
        start = time.perf_counter()
        model = coremltools.models.CompiledMLModel(str(compiled), getattr(coremltools.ComputeUnit, unit))
        load = time.perf_counter() - start
        outputs = model.predict(dict(inputs))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            outputs = model.predict(dict(inputs))
            seconds.append(time.perf_counter() - start)
    except Exception as error:  # a framework's error, or one of its Python bindings
        return UnitReport(unit, "failed", _first_line(error))
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    strange = sorted(name for name, value in arrays.items() if value.dtype.kind == "f" and not np.isfinite(value).all())
    if strange:
        return UnitReport(unit, "failed", f"{strange[0]} holds NaN or infinities", load, None, arrays)
    return UnitReport(unit, "ran", "", load, statistics.median(seconds), arrays)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

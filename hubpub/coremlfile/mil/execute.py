"""Run an ML program, or a pipeline of them, where there is no Core ML: reference execution in onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hubpub.coremlfile.dtypes import BY_NAME
from hubpub.coremlfile.mil.graph import Precision, Read
from hubpub.coremlfile.mil.translate import Translated, input_name, output_name, translate
from hubpub.coremlfile.mil.types import TensorType
from hubpub.coremlfile.package import Package, Part
from hubpub.coremlfile.program import check_program
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


class Program:
    """A function of an ML program, ready to run.

    Args:
        program: the protobuf ``Program``.
        read: reads its constants.
        precision: see `Precision`.
        function: which one, of a program that has several.
        also: further values of the function's outermost block that `run` gives.
        means: values of that block and an axis each, of whose means it gives and, with ``centre``, takes `mean_name`.
        centre: see `translate`.
        threads: of one operator; operators run in turn.

    Raises:
        CoremlFileError: an operation has no translation, or the program is not valid.
    """

    def __init__(
        self,
        program: Any,
        read: Read,
        *,
        precision: Precision = "fp32",
        function: str = "main",
        also: Iterable[str] = (),
        means: Mapping[str, int] = MappingProxyType({}),
        centre: bool = False,
        threads: int = 0,
    ) -> None:
        options: dict[str, Any] = {"also": also, "means": means, "centre": centre}
        translated = translate(program, read, precision=precision, function=function, **options)
        self.inputs, self.outputs = translated.inputs, translated.outputs
        self._session = _session(translated, threads)

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """What it makes of ``values``, each by its name in the program.

        Raises:
            CoremlFileError: an input is missing or of another shape, or what comes out is not what was declared.
        """
        feed = {input_name(name): _fitting(name, kind, values) for name, kind in self.inputs.items()}
        wanted = [output_name(name) for name in self.outputs]
        try:
            found = self._session.run(wanted, feed)
        except Exception as error:  # onnxruntime's own are of no common class
            raise CoremlFileError(f"it fails when it runs: {_line(error)}", where="ML program") from error
        for (name, kind), array in zip(self.outputs.items(), found, strict=True):
            if not _agrees(array.shape, kind):
                raise CoremlFileError(f"{name} is declared as {kind} and comes out as {list(array.shape)}")
        return dict(zip(self.outputs, found, strict=True))


class Model:
    """An ML package: an ML program, or a pipeline whose stages pass their values on by name.

    Args:
        package: as opened.
        precision: see `Precision`.
        threads: of one operator; operators run in turn; 0 leaves it to onnxruntime.

    Raises:
        CoremlFileError: a stage is of another kind, or its program cannot run here.
    """

    def __init__(self, package: Package, *, precision: Precision = "fp32", threads: int = 0) -> None:
        self._name = package.path.name
        self._stages = [_stage(package, part, precision, threads) for part in package.parts]
        self.outputs = tuple(each.name for each in _described(package.spec.description)[1].output)
        made: set[str] = set()
        self.inputs: dict[str, TensorType] = {}
        for stage in self._stages:
            self.inputs |= {name: type_ for name, type_ in stage.inputs.items() if name not in made}
            made |= set(stage.outputs)
        if not self.outputs:
            raise CoremlFileError("it describes no output", where=self._name, fix="it is damaged")
        if lacking := [name for name in self.outputs if name not in made]:
            raise CoremlFileError(f"nothing makes its output {lacking[0]}", where=self._name, fix="it is damaged")

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs that the model declares.

        Raises:
            CoremlFileError: as `Program.run`.
        """
        known = dict(values)
        for stage in self._stages:
            known |= stage.run(known)
        return {name: known[name] for name in self.outputs}


def _stage(package: Package, part: Part, precision: Precision, threads: int) -> Program:
    part = package.part(part.index)
    check_program(package, part)
    function, description = _described(part.spec.description)
    for each in (*description.input, *description.output):
        if (kind := each.type.WhichOneof("Type")) != "multiArrayType":
            what = f"{each.name} is of the type {kind}, not an array"
            raise CoremlFileError(what, where=package.path.name, fix="convert it with arrays as inputs and outputs")
    return Program(part.program, package.array, precision=precision, function=function, threads=threads)


def _described(description: Any) -> tuple[str, Any]:
    """The function that runs where none is asked for, and the message that holds its inputs and outputs."""
    name = description.defaultFunctionName or "main"
    return name, next((each for each in description.functions if each.name == name), description)


def _session(translated: Translated, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is raised, and said once
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    names = list(translated.weights)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(translated.weights[name]) for name in names]
    options.add_external_initializers(names, values)
    try:
        return onnxruntime.InferenceSession(
            translated.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own are of no common class
        raise CoremlFileError(f"onnxruntime does not take it: {_line(error)}", where="ML program") from error


def _fitting(name: str, kind: TensorType, values: Mapping[str, Array]) -> Array:
    import numpy as np

    if name not in values:
        raise CoremlFileError(f"the input {name} is missing", where="ML program", fix=f"give it as {kind}")
    array = np.asarray(values[name])
    if not _agrees(array.shape, kind):
        raise CoremlFileError(
            f"the input {name} has the shape {list(array.shape)}", where="ML program", fix=f"give {kind}"
        )
    return array.astype(BY_NAME[kind.dtype].dtype(), copy=False)


def _agrees(shape: tuple[int, ...], kind: TensorType) -> bool:
    return len(shape) == len(kind.shape) and all(
        declared in (None, size) for size, declared in zip(shape, kind.shape, strict=True)
    )


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__

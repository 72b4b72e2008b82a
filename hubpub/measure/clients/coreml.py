"""Core ML packages where there is no Core ML: their programs translated to ONNX and run in onnxruntime."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from hubpub.corpus.feed import FEATURES_HELP, Features, Feed, Input, filled_up
from hubpub.corpus.segment import LengthWindows, SilenceWindows, Whole
from hubpub.errors import CoremlFileError, MeasureError
from hubpub.measure.clients.base import Client, Loaded, ModelPath, Output
from hubpub.measure.result import Kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hubpub.coremlfile import Package
    from hubpub.coremlfile.mil import TensorType
    from hubpub.corpus.audio import Samples

    Array = npt.NDArray[Any]

Precision = Annotated[
    Literal["fp16", "fp32"],
    Field(
        description="fp16: what the program declares as fp16 is rounded to it after each operation, as on the Neural "
        "Engine; fp32: nothing is."
    ),
]


def by_reference(model: str, precision: Precision) -> str:
    """What reference execution is, for the reader of a figure."""
    system = "macOS" if sys.platform == "darwin" else "Linux"
    rounding = "rounded to fp16 after each operation" if precision == "fp16" else "in single precision"
    return f"reference execution on {system} (no Core ML) of {model}, {rounding}"


class Runnable(Protocol):
    """A package that is ready, wherever its program runs."""

    @property
    def inputs(self) -> Mapping[str, TensorType]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """What it gives."""
        ...

    def run(self, values: Mapping[str, Array]) -> Mapping[str, Array]:
        """Predict once."""
        ...


class WindowClient(Client):
    """What the clients share that give a package's outputs for each window; they differ in what runs it."""

    model: ModelPath = Field(description="The ``.mlpackage``, by its published name.")
    features: Features = Field(description=FEATURES_HELP)
    fill: dict[str, float] = Field(
        default_factory=dict,
        description="Inputs besides the audio, and the number that each holds throughout, such as a mask of ones.",
    )
    output: str | None = Field(default=None, description="Name of the output to keep; default: the first.")
    segment: Annotated[Whole | SilenceWindows | LengthWindows, Field(discriminator="by")] = Field(
        default=Whole(), description="How audio is cut; a window must not be longer than a fixed input."
    )
    makes: ClassVar[tuple[Kind, ...]] = ("arrays",)

    def opens(self) -> tuple[str, ...]:
        """The package."""
        return (self.model,)

    def feed_in_words(self) -> str:
        """What the model is given, and which of its outputs is kept."""
        output = f", output {self.output}" if self.output else ""
        output = "".join(f", {name} {number:g}" for name, number in self.fill.items()) + output
        return f"{self.features} features{output}, {self.segment.describe()}"

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Make the package ready.

        Raises:
            MeasureError: it is damaged, holds what cannot run here, has inputs that audio alone cannot fill, or no such
                output.
        """
        from hubpub.coremlfile import Package

        with coreml_errors():
            return _Batches(self.runnable(Package.open(folder / self.model)), self)

    def runnable(self, package: Package) -> Runnable:
        """The package where it runs.

        Raises:
            CoremlFileError: it cannot run there.
        """
        raise NotImplementedError


class CoreMl(WindowClient):
    """The outputs of a Core ML package for each window, by reference execution: the same program, not the same machine.

    The first floating-point input gets the features, the first integer input their length. Inputs of a fixed length are
    filled up with zeros, and windows go as many at a time as the model takes; what is left of a batch is zeros too.
    """

    client: Literal["coreml"]
    precision: Precision = "fp16"
    libraries: ClassVar[tuple[str, ...]] = ("coremltools", "onnx", "onnxruntime", "onnx-asr", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnx_asr")

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        return f"{by_reference(self.model, self.precision)}, {self.feed_in_words()}, {self.threads} threads"

    def runnable(self, package: Package) -> Runnable:
        """The package, translated."""
        from hubpub.coremlfile.mil import Model

        return Model(package, precision=self.precision, threads=self.threads)


@contextmanager
def coreml_errors() -> Iterator[None]:
    """The operation that an error is about goes into what it says: where it was run is added later."""
    try:
        yield
    except CoremlFileError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        raise MeasureError(what, fix=error.fix) from error


class _Batches:
    def __init__(self, model: Runnable, spec: WindowClient) -> None:
        self._model, self._spec = model, spec
        if strange := sorted(spec.fill.keys() - model.inputs.keys()):
            fix = f"choose from {', '.join(model.inputs)}"
            raise MeasureError(f"{spec.model} has no input {strange[0]} to fill", fix=fix)
        inputs = [
            Input(name, kind.onnx_name, len(kind.shape)) for name, kind in model.inputs.items() if name not in spec.fill
        ]
        self._feed = Feed(spec.features, inputs, spec.model)
        if spec.output is not None and spec.output not in model.outputs:
            fix = f"choose from {', '.join(model.outputs)}"
            raise MeasureError(f"{spec.model} has no output {spec.output}", fix=fix)
        self._output = spec.output or model.outputs[0]
        sizes = {kind.shape[0] for kind in model.inputs.values() if kind.shape}
        self._batch = max((size for size in sizes if size is not None), default=1)

    def run(self, samples: Samples) -> Output:
        windows = self._spec.segment.windows(samples, 16_000)
        rows = [self._row(window) for window in windows]
        found = []
        for first in range(0, len(rows), self._batch):
            found += self._run(rows[first : first + self._batch])
        return Output(segments=len(found), arrays=tuple(found))

    def _row(self, window: Samples) -> dict[str, npt.NDArray[Any]]:
        """The inputs for one window, as long as the model wants them."""
        import numpy as np

        found = {}
        for name, array in self._feed(window).items():
            found[name] = filled_up(self._spec.features, name, array, self._model.inputs[name].shape)
        for name, number in self._spec.fill.items():
            kind = self._model.inputs[name]
            if None in kind.shape[1:]:
                raise MeasureError(f"{name} is {kind}, so how much of it to fill is open", fix="fix its shape")
            found[name] = np.full([1, *(size or 0 for size in kind.shape[1:])], number, np.float32)
        return found

    def _run(self, rows: list[dict[str, npt.NDArray[Any]]]) -> list[npt.NDArray[np.generic]]:
        import numpy as np

        filling = [{name: _filling(array) for name, array in rows[0].items()}] * (self._batch - len(rows))
        feed = {name: np.concatenate([row[name] for row in (*rows, *filling)]) for name in rows[0]}
        with coreml_errors():
            made = self._model.run(feed)[self._output]
        if self._batch == 1:
            return [made]
        if made.shape[:1] != (self._batch,):
            what = f"{self._output} does not tell the {self._batch} windows of a batch apart: {list(made.shape)}"
            raise MeasureError(what, fix="keep another output")
        return [made[place : place + 1] for place in range(len(rows))]


def _filling(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Zeros; but a length stays one that the model may meet."""
    return array * 0 if array.dtype.kind == "f" else array

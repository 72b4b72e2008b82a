"""onnxruntime directly: one model file fed with features of real audio, for comparing outputs number by number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hubpub.corpus.feed import FEATURES_HELP, Features, Feed, Input
from hubpub.corpus.segment import LengthWindows, SilenceWindows, Whole
from hubpub.errors import MeasureError
from hubpub.measure.clients.base import PROVIDERS, Client, Loaded, ModelPath, Output
from hubpub.measure.result import Kind

if TYPE_CHECKING:
    from hubpub.corpus.audio import Samples


class OnnxRuntime(Client):
    """The model's output for each clip, fed as the model's client would feed it.

    The first floating-point input gets the features (a waveform is shaped ``[1, frames]`` or ``[1, 1, frames]``, as the
    graph wants it), the first integer input their length.
    """

    client: Literal["onnxruntime"]
    model: ModelPath = Field(description="The ONNX file, by its published name.")
    features: Features = Field(description=FEATURES_HELP)
    output: str | None = Field(default=None, description="Name of the output to compare; default: the first.")
    segment: Annotated[Whole | SilenceWindows | LengthWindows, Field(discriminator="by")] = Field(
        default=Whole(), description="How long audio is cut."
    )
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx-asr", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx_asr")
    makes: ClassVar[tuple[Kind, ...]] = ("arrays",)

    def opens(self) -> tuple[str, ...]:
        """The model."""
        return (self.model,)

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        output = f", output {self.output}" if self.output else ""
        return (
            f"onnxruntime {self.model}, {self.features} features{output}, {self.segment.describe()}, "
            f"{self.threads} threads"
        )

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Open a session; onnxruntime's own errors come through.

        Raises:
            MeasureError: the graph has inputs that audio alone cannot fill, or no such output.
        """
        import onnxruntime

        path = folder / self.model
        session = onnxruntime.InferenceSession(path, self.session_options(), providers=list(PROVIDERS))
        return _Session(session, self)


class _Session:
    def __init__(self, session: Any, spec: OnnxRuntime) -> None:
        self._session, self._segment = session, spec.segment
        inputs = (Input(i.name, i.type.removeprefix("tensor(").rstrip(")"), len(i.shape)) for i in session.get_inputs())
        self._feed = Feed(spec.features, inputs, spec.model)
        names = [o.name for o in session.get_outputs()]
        if spec.output is not None and spec.output not in names:
            raise MeasureError(f"{spec.model} has no output {spec.output}", fix=f"choose from {', '.join(names)}")
        self._output = spec.output or names[0]

    def run(self, samples: Samples) -> Output:
        windows = self._segment.windows(samples, 16_000)
        arrays = tuple(self._session.run([self._output], self._feed(window))[0] for window in windows)
        return Output(segments=len(arrays), arrays=arrays)

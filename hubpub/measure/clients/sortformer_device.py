"""Streaming diarization by a Sortformer package in Core ML itself, on macOS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.coremlfile.device import UNITS_HELP, DeviceModel, Units, compiled, not_here
from hubpub.measure.clients.coreml import Runnable, coreml_errors
from hubpub.measure.clients.sortformer import StreamClient

if TYPE_CHECKING:
    from hubpub.coremlfile import Package


class SortformerDevice(StreamClient):
    """What `sortformer` gives, by Core ML itself: compiled, loaded and run on macOS; elsewhere reported as not run.

    The time to load does not include compiling, which an app does once. Core ML decides on threads.
    """

    client: Literal["sortformer-device"]
    units: Units = Field(default="ALL", description=UNITS_HELP)
    libraries: ClassVar[tuple[str, ...]] = ("coremltools", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("coremltools",)

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        return f"Core ML, {self.model} on {self.units}, {self.stream_in_words()}"

    def not_here(self) -> str | None:
        """Where there is no Core ML."""
        return not_here()

    def prepare(self, folder: Path) -> None:
        """Compile the package.

        Raises:
            MeasureError: it does not compile, or there is no Core ML.
        """
        with coreml_errors():
            compiled(folder / self.model)

    def runnable(self, package: Package) -> Runnable:
        """The package, loaded by Core ML."""
        return DeviceModel(package, self.units)

"""Core ML packages in Core ML itself, on macOS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hubpub.coremlfile.device import UNITS_HELP, DeviceModel, Units, compiled, not_here
from hubpub.measure.clients.base import Client
from hubpub.measure.clients.coreml import Runnable, WindowClient, coreml_errors

if TYPE_CHECKING:
    from hubpub.coremlfile import Package


class OnDevice(Client):
    """Base of the clients that run one package in Core ML; what it is fed is their other base's."""

    units: Units = Field(default="ALL", description=UNITS_HELP)

    def not_here(self) -> str | None:
        """Where there is no Core ML."""
        return not_here()

    def prepare(self, folder: Path) -> None:
        """Compile the package.

        Raises:
            MeasureError: it does not compile, or there is no Core ML.
        """
        with coreml_errors():
            for name in self.opens():
                compiled(folder / name)

    def runnable(self, package: Package) -> Runnable:
        """The package, loaded by Core ML."""
        return DeviceModel(package, self.units)


class CoreMlDevice(OnDevice, WindowClient):
    """What `coreml` gives, by Core ML itself: compiled, loaded and run on macOS; elsewhere reported as not run.

    The time to load does not include compiling, which an app does once. Core ML decides on threads.
    """

    client: Literal["coreml-device"]
    libraries: ClassVar[tuple[str, ...]] = ("coremltools", "onnx-asr", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("coremltools", "onnx_asr")

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        return f"Core ML, {self.model} on {self.units}, {self.feed_in_words()}"

"""Streaming diarization by a Sortformer package in Core ML itself, on macOS."""

from __future__ import annotations

from typing import ClassVar, Literal

from hubpub.measure.clients.coreml_device import OnDevice
from hubpub.measure.clients.sortformer import StreamClient


class SortformerDevice(OnDevice, StreamClient):
    """What `sortformer` gives, by Core ML itself: compiled, loaded and run on macOS; elsewhere reported as not run.

    The time to load does not include compiling, which an app does once. Core ML decides on threads.
    """

    client: Literal["sortformer-device"]
    libraries: ClassVar[tuple[str, ...]] = ("coremltools", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("coremltools",)

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        return f"Core ML, {self.model} on {self.units}, {self.stream_in_words()}"

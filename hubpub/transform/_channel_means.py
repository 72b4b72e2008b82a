"""What rounding a kernel does to the mean of each output channel, so that the bias can take it back.

Nagel et al., "Data-free quantization through weight equalization and bias correction" (ICCV 2019), with means from
calibration. Errors of means are what is left where a model averages over time, as those that embed speakers do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hubpub.transform.calibration.probes import Probe, Writer

if TYPE_CHECKING:
    from hubpub.transform.calibration.probes import Accumulator

    Array = np.ndarray[Any, np.dtype[Any]]

_FLOAT = 1


@dataclass(frozen=True)
class ChannelMeans(Probe):
    """The mean of each channel (axis 1) of ``[batch, channels, …]``.

    Accumulates ``total``, ``[channels]``, and ``windows``.
    """

    def key(self) -> tuple[str, ...]:
        """The value."""
        return ("channel means", self.value)

    def attach(self, writer: Writer) -> list[tuple[str, int]]:
        """Channels to the end, then ReduceMean over all rows."""
        flat = writer.node("Reshape", [self.value, writer.constant(np.array([0, 0, -1], np.int64))])
        channels_first = writer.node("Transpose", flat, perm=[1, 0, 2])
        matrix = writer.node("Reshape", [*channels_first, writer.constant(np.array([0, -1], np.int64))])
        return [(writer.reduce("ReduceMean", writer.node("Transpose", matrix, perm=[1, 0])[0]), _FLOAT)]

    def start(self) -> Accumulator:
        """Nothing."""
        return {"total": np.zeros((), np.float64), "windows": np.zeros((), np.int64)}

    def fold(self, seen: Accumulator, given: list[Array]) -> None:
        """Every window counts as much as any other."""
        seen["total"] = seen["total"] + given[0].astype(np.float64)
        seen["windows"] = seen["windows"] + 1


def mean_error(error: Array, means: Array) -> Array:
    """How far the mean of each output channel moves, ``[outputs]``.

    Args:
        error: of the kernel, ``[outputs, channels / groups, …]``.
        means: of the input's channels.
    """
    outputs, width = error.shape[:2]
    groups = len(means) // width
    by_group = error.reshape(groups, outputs // groups, width, -1).astype(np.float64).sum(axis=3)
    moved: Array = np.einsum("goc,gc->go", by_group, means.reshape(groups, width))
    return moved.reshape(outputs)

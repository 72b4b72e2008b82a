"""Signal-to-noise ratio of a model's outputs, those of a reference run being the signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from hubpub.measure.metrics._outputs import OutputComparison

if TYPE_CHECKING:
    from hubpub.measure.outputs import Vector
    from hubpub.measure.stats import Floats

CAP_DB = 200.0
"""Given for equal outputs, whose ratio is infinite; float32 itself carries about 150 dB."""


class Snr(OutputComparison):
    """``snr`` in dB, the mean over clips."""

    metric: Literal["snr"]
    gives: ClassVar[tuple[str, ...]] = ("snr",)
    unit: ClassVar[str] = "dB"

    def clip_value(self, output: Vector, reference: Vector) -> float:
        """Between -200 and 200 dB."""
        import numpy as np

        scale = max(np.abs(output).max(initial=0), np.abs(reference).max(initial=0)) or 1.0
        signal, noise = reference / scale, (output - reference) / scale
        noise_power, signal_power = float(noise @ noise), float(signal @ signal)
        if noise_power == 0:
            return CAP_DB
        if signal_power == 0:
            return -CAP_DB
        return float(np.clip(10 * (np.log10(signal_power) - np.log10(noise_power)), -CAP_DB, CAP_DB))

    def statistics(self) -> dict[str, Callable[[Floats], Floats]]:
        """Mean."""
        return {"snr": lambda values: values.mean(axis=-1)}

"""Audio that a model made: kept without loss as FLAC, so that a person can listen to exactly what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LIBRARIES = ("soundfile",)
"""Distributions that decide the bytes; it brings the encoder."""
FULL_SCALE = 32768


def write_audio(file: BinaryIO, samples: npt.NDArray[np.generic], rate: int) -> None:
    """Encode int16 ``[frames]``, at ``rate`` Hz; FLAC holds no time of day, so the bytes are the same every time."""
    import soundfile

    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")


def read_audio(path: Path) -> tuple[npt.NDArray[np.int16], int]:
    """The samples as they were written, and their rate in Hz.

    Raises:
        ValueError: it is not such a file.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return samples, int(rate)

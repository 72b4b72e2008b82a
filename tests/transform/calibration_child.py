"""A calibration in a process of its own that dies by SIGKILL before the window of a given number.

python calibration_child.py METHOD SOURCE TARGET STATE PASS WINDOW
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transform.int8_graphs import Sequences

from hubpub.transform.smoothquant_int8 import SmoothQuantInt8
from hubpub.transform.static_int8 import StaticInt8

STEPS: dict[str, SmoothQuantInt8 | StaticInt8] = {
    "smoothquant": SmoothQuantInt8(min_elements=64, ranges="percentile", percentile=99, report_runtime=False),
    "static": StaticInt8(min_elements=64, method="mse", report_runtime=False),
}


class Mortal(Sequences):
    """Windows, one of which is never reached."""

    def __init__(self, at_pass: int, at_window: int) -> None:
        super().__init__()
        self._at, self._passes = (at_pass, at_window), 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        self._passes += 1
        for number, window in enumerate(super().__iter__()):
            if (self._passes, number) == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield window


if __name__ == "__main__":
    method, source, target, state, at_pass, at_window = sys.argv[1:]
    windows = Mortal(int(at_pass), int(at_window))
    STEPS[method].apply_calibrated(Path(source), Path(target), windows, Path(state), lambda _: None)

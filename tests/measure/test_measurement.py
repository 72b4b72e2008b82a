from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from measure_fakes import MACHINE
from pydantic import ValidationError

from hubpub.measure.machine import machine
from hubpub.measure.measurement import Measurement

GOOD: dict[str, Any] = {
    "run": "int8",
    "metric": "wer",
    "value": 0.1,
    "unit": "ratio",
    "n": 10,
    "n_unit": "words",
    "low": 0.0,
    "high": 0.2,
    "interval": "m",
    "corpus": None,
    "artifacts": {},
    "client": "c",
    "versions": {},
    "machine": MACHINE,
}


def test_a_measurement_survives_json() -> None:
    measurement = Measurement(**GOOD)
    assert Measurement.model_validate_json(measurement.model_dump_json()) == measurement
    assert measurement.key == "int8/wer"


@pytest.mark.parametrize("field", ["value", "low", "high"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_refused(field: str, bad: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Measurement(**GOOD | {field: bad})


@pytest.mark.parametrize("change", [{"low": None}, {"high": None}, {"low": 0.3}, {"n": -1}, {"run": ""}, {"huh": 1}])
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Measurement(**GOOD | change)


def test_the_class_of_this_machine() -> None:
    found = machine()
    assert found == machine()
    assert found.cores >= 1
    assert found.cpu
    assert found.system


def test_peak_memory_grows_with_what_is_held() -> None:
    """In a process of its own: the peak of this one may be far above what it holds now."""
    code = (
        "from hubpub.measure.machine import peak_rss_bytes; before = peak_rss_bytes(); held = bytearray(64_000_000);"
        "held[::4096] = b'x' * len(held[::4096]); print(before, peak_rss_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert before + 60_000_000 < after < before + 100_000_000

"""What other programs take of the processor while a run is timed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hubpub.corpus.corpus import Corpus
from hubpub.measure import machine
from hubpub.measure.clients.ort import OnnxRuntime
from hubpub.measure.machine import OthersClock
from hubpub.measure.result import others_in_words
from hubpub.measure.run import run_client

linux = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc/stat")
SPIN_S = 0.5
SPIN = f"""
import time
input()
end = time.process_time() + {SPIN_S}
while time.process_time() < end:
    pass
print("spun", flush=True)
input()
"""


@linux
def test_what_another_process_takes_counts() -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        clock = OthersClock()
        other.stdin.write(b"\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"spun\n"  # it lives on: what a child took is its parent's once it has ended
        taken = clock.seconds()
        other.communicate(b"\n")
    assert taken is not None
    assert taken > 0.8 * SPIN_S  # counted in ticks


@linux
def test_what_this_process_takes_does_not() -> None:
    busy, own = machine._cpu_seconds()
    end = time.process_time() + SPIN_S
    while time.process_time() < end:
        pass
    busy_then, own_then = machine._cpu_seconds()
    assert busy is not None
    assert busy_then is not None
    assert own_then - own >= 0.9 * SPIN_S
    assert busy_then - busy >= 0.8 * SPIN_S  # counted in ticks


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert OthersClock().seconds() is None


@linux
@pytest.mark.parametrize("timed", [True, False])
def test_a_run_says_it(
    speech: tuple[Path, Corpus], mel_model: Callable[..., Path], tmp_path: Path, timed: bool
) -> None:
    client = OnnxRuntime(client="onnxruntime", model="model.onnx", features="nemo80")
    out = tmp_path / "out"
    result = run_client(
        client, mel_model(), speech[0], out, lambda _: None, run="r", artifacts={"model.onnx": "0" * 64}, timed=timed
    )
    clips = [timing.others_cpu_s for timing in result.timings]
    assert all(each is not None and each >= 0 for each in clips)
    share = result.observed.others_share
    if timed:
        wall_s = sum(timing.wall_s for timing in result.timings)
        wanted = sum(each or 0 for each in clips) / (wall_s * result.observed.machine.cores)
        assert share == pytest.approx(min(1, wanted), abs=1e-3)
    else:
        assert share is None


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (None, ""),
        (0.099, ""),
        (0.1, "other programs took 10 % of the processor while it was timed"),
        (0.427, "other programs took 43 % of the processor while it was timed"),
    ],
)
def test_a_busy_machine_in_words(share: float | None, words: str) -> None:
    assert others_in_words(share) == words

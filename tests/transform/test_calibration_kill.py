"""A calibration that is killed between windows goes on from there, and its result does not tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transform.calibration_child import STEPS
from transform.int8_graphs import Sequences, block

CHILD = Path(__file__).with_name("calibration_child.py")


@pytest.mark.parametrize(("at_pass", "at_window"), [(1, 1), (1, 4), (2, 3)])
@pytest.mark.parametrize("method", sorted(STEPS))
def test_killed_between_windows(
    method: str, at_pass: int, at_window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, whole, state = tmp_path / "m.onnx", tmp_path / "whole" / "m.onnx", tmp_path / "state"
    source.write_bytes(block().SerializeToString(deterministic=True))
    target = tmp_path / "out" / "m.onnx"
    for path in (whole, target):
        path.parent.mkdir()
    facts = STEPS[method].apply_calibrated(source, whole, Sequences(), None, lambda _: None)

    path = os.pathsep.join([str(CHILD.parents[1]), *filter(None, sys.path)])
    died = subprocess.run(
        [sys.executable, str(CHILD), method, str(source), str(target), str(state), str(at_pass), str(at_window)],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        timeout=60,
    )
    assert died.returncode == -signal.SIGKILL
    assert not target.exists()
    with np.load(state / f"pass{at_pass}" / "state.npz", allow_pickle=False) as kept:
        assert len(json.loads(str(kept["head"]))["done"]) == at_window

    ran: list[str] = []
    running = sys.modules["hubpub.transform.calibration.observe"]._Run  # the package has a function of that name
    take = running.take
    monkeypatch.setattr(running, "take", lambda run, *given: (ran.append(given[2]), take(run, *given))[1])
    again = STEPS[method].apply_calibrated(source, target, Sequences(), state, lambda _: None)
    assert len(ran) == 2 * len(Sequences()) - (at_pass - 1) * len(Sequences()) - at_window
    assert target.read_bytes() == whole.read_bytes()
    assert again == facts

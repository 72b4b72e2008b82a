"""The stand-in has upstream's names and size, says that it is one, and hears what it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as rt
from wespeaker_resnet34 import FILE, UPSTREAM_CHANNELS, write_repo

from hubpub.onnxfile.marks import is_synthetic

UPSTREAM_BYTES = 26_534_127


def test_names_mark_and_bytes(tmp_path: Path) -> None:
    path = write_repo(tmp_path / "a", channels=4)
    assert path.name == FILE
    assert is_synthetic(path)
    assert path.read_bytes() == write_repo(tmp_path / "b", channels=4).read_bytes()
    session = rt.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("feats", ["B", "T", 80])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("embs", ["B", 256])]
    rng = np.random.default_rng(0)
    one, other = (
        session.run(["embs"], {"feats": rng.normal(size=(2, frames, 80)).astype(np.float32)})[0] for frames in (98, 300)
    )
    assert one.shape == other.shape == (2, 256)
    assert np.abs(one[0] - one[1]).max() > 0.1


def test_at_full_width_it_is_as_large_as_upstream(tmp_path: Path) -> None:
    assert abs(write_repo(tmp_path, UPSTREAM_CHANNELS).stat().st_size / UPSTREAM_BYTES - 1) < 0.001

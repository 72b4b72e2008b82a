from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from measure_fakes import fake_corpus, fake_run

from hubpub.errors import MeasureError
from hubpub.measure.metrics.trial_shift import TrialShift

METRIC = TrialShift(metric="trial_shift")


def test_it_is_the_root_mean_square_of_what_the_scores_move(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corpus = fake_corpus([None] * 24, speakers=[str(i % 8) for i in range(24)])
    vectors = rng.normal(size=(24, 6))
    moved = vectors + 0.1 * rng.normal(size=(24, 6))
    runs = [
        fake_run(corpus, name=name, folder=tmp_path / name, outputs=[[row[None]] for row in rows])
        for name, rows in (("int8", moved), ("fp32", vectors))
    ]
    (found,) = METRIC.measure(runs[0], corpus, runs[1])
    scores = []
    for rows in (moved, vectors):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        scores.append((unit @ unit.T)[np.triu_indices(24, 1)])
    assert found.value == pytest.approx(np.sqrt(np.mean((scores[0] - scores[1]) ** 2)))
    assert (found.n, found.n_unit, found.reference) == (24 * 23 // 2, "trials", "fp32")
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    (same,) = METRIC.measure(runs[1], corpus, runs[1])
    assert same.value == 0
    assert same.low == 0
    assert same.high is not None
    assert same.high > 0


def test_it_needs_a_reference() -> None:
    corpus = fake_corpus([None] * 4, speakers=["a", "a", "b", "b"])
    with pytest.raises(MeasureError, match="trial_shift needs a run to compare with"):
        METRIC.measure(fake_run(corpus), corpus)

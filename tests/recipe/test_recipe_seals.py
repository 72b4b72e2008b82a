"""A sealed corpus is for the final evaluation: nothing else in a recipe may name its recordings."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_tools import BASE, changed, problems

SEALED = changed("  speech:\n    role: evaluation\n", "  speech:\n    role: evaluation\n    sealed: true\n")


def test_measurements_may_read_a_sealed_corpus(tmp_path: Path) -> None:
    assert problems(tmp_path, SEALED) == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("audio: weights/e.wav", "audio: weights/a.wav", "corpora.tuning.clips[0].audio"),
        ("audio: weights/d.wav", "audio: weights/a.wav", "corpora.silent.clips[0].audio"),
        (
            "audio: weights/d.wav",
            "audio: weights/d.wav, text_from: package/a/b.txt",
            "corpora.silent.clips[0].text_from",
        ),
        ("model.bin: weights/model.bin", "model.bin: weights/a.wav", "steps.convert.inputs.model.bin"),
        ("vocab.json: convert/vocab.json", "vocab.json: weights/b.wav", "files.vocab.json.from"),
        ("with: [package/a/side.bin]", "with: [package/a/b.txt]", "files.sharded/model.onnx.with[0]"),
    ],
)
def test_nothing_else_may(tmp_path: Path, old: str, new: str, where: str) -> None:
    (line,) = problems(tmp_path, changed(old, new, SEALED))
    assert f" {where}: " in line
    assert "belongs to the sealed corpus 'speech': only `measure` may read it" in line
    assert problems(tmp_path, changed(old, new, BASE)) == []


def test_two_sealed_corpora_may_share_recordings(tmp_path: Path) -> None:
    both = changed("  silent:\n    role: evaluation\n", "  silent:\n    role: evaluation\n    sealed: true\n", SEALED)
    assert problems(tmp_path, changed("audio: weights/d.wav", "audio: weights/a.wav", both)) == []


def test_calibration_cannot_be_sealed(tmp_path: Path) -> None:
    text = changed("role: calibration\n", "role: calibration\n    sealed: true\n")
    (line,) = problems(tmp_path, text)
    assert line.endswith("corpora.tuning: only a corpus for evaluation can be sealed")

"""The mark of random weights is seen, and survives what hubpub does to a model."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnxfile.models import plain, save

from hubpub.errors import OnnxFileError
from hubpub.onnxfile import OnnxFile, write
from hubpub.onnxfile.marks import SYNTHETIC, is_synthetic, mark_synthetic


def _model(path: Path, *marks: str) -> Path:
    model = plain()
    for mark in marks:
        model.metadata_props.add(key=SYNTHETIC, value=mark)
    save(model, path, "inline")
    return path


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ((), False),
        (("false",), False),
        ((" False ",), False),
        (("true",), True),
        (("True",), True),
        (("",), True),
        (("yes",), True),
        (("false", "true"), True),
    ],
)
def test_only_a_clear_no_or_no_mark_passes_for_real(tmp_path: Path, marks: tuple[str, ...], expected: bool) -> None:
    assert is_synthetic(_model(tmp_path / "m.onnx", *marks)) is expected


def test_marking_is_once_and_leaves_other_metadata(tmp_path: Path) -> None:
    model = onnx.load(_model(tmp_path / "m.onnx", "false"))
    mark_synthetic(model)
    mark_synthetic(model)
    metadata = [(entry.key, entry.value) for entry in model.metadata_props]
    assert sorted(metadata) == [(SYNTHETIC, "true"), ("language", "en"), ("é", "ü")]


def test_the_mark_goes_along_when_a_model_is_written(tmp_path: Path) -> None:
    source = _model(tmp_path / "m.onnx", "true")
    write(OnnxFile.open(source), tmp_path / "copy.onnx")
    assert is_synthetic(tmp_path / "copy.onnx")


def test_a_damaged_model_is_refused_not_passed(tmp_path: Path) -> None:
    path = _model(tmp_path / "m.onnx", "true")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(OnnxFileError):
        is_synthetic(path)

"""The mark of models whose weights are random: it goes wherever their bytes go, and publish looks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hubpub.onnxfile.file import OnnxFile

if TYPE_CHECKING:
    import onnx

SYNTHETIC = "hubpub.synthetic"
"""Key in a model's metadata_props."""


def is_synthetic(path: Path) -> bool:
    """Whether an ONNX model says that it comes from random weights; of the file only the graph is read.

    Any value of the mark but ``false`` counts: whoever cannot say it clearly does not pass for real.

    Raises:
        OnnxFileError: the file is damaged or not ONNX, or its external data is not there.
    """
    return says_synthetic(OnnxFile.open(path).model)


def says_synthetic(model: onnx.ModelProto) -> bool:
    """Whether ``model`` bears the mark."""
    properties = model.metadata_props
    return any(entry.key == SYNTHETIC and entry.value.strip().lower() != "false" for entry in properties)


def mark_synthetic(model: onnx.ModelProto) -> None:
    """Let ``model`` say that its weights are random."""
    for entry in model.metadata_props:
        if entry.key == SYNTHETIC:
            entry.value = "true"
            return
    model.metadata_props.add(key=SYNTHETIC, value="true")

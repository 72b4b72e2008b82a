"""The mark of models whose weights are random: it goes wherever their bytes go, and publish looks for it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from hubpub.coremlfile.blob import open_regular

SYNTHETIC = "hubpub.synthetic"
"""Key in the user-defined metadata of a model."""


def is_synthetic(path: Path) -> bool:
    """Whether the model file ``path`` (``model.mlmodel``) bears the mark, itself or a model of its pipeline.

    The mark's name anywhere in it counts, so that this needs no coremltools: who cannot say it clearly does not pass
    for real.

    Raises:
        CoremlFileError: the file cannot be read.
    """
    fd, size = open_regular(path)
    try:
        if not size:
            return False
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as data:
            return data.find(SYNTHETIC.encode()) >= 0
    finally:
        os.close(fd)


def mark_synthetic(spec: Any) -> None:
    """Let a `Model` message say that its weights are random."""
    spec.description.metadata.userDefined[SYNTHETIC] = "true"

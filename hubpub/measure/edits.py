"""Where a hypothesis departs from its reference, unit by unit (words or characters), by jiwer's alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Unit = Literal["words", "characters"]


@dataclass(frozen=True)
class Edits:
    """Errors of one utterance.

    Attributes:
        units: units of the reference.
        at: int ``[units + 1]``, errors at each unit; an inserted unit counts at the one that it precedes.
    """

    units: int
    at: npt.NDArray[np.int64]

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return int(self.at.sum())


def count_units(text: str, unit: Unit) -> int:
    """Units of a normalised text."""
    return len(text.split()) if unit == "words" else len(text)


def aligned_units(reference: str, hypothesis: str, unit: Unit) -> list[tuple[int, int]]:
    """Indices of the units of both that are aligned with each other, equal or not."""
    import jiwer

    process = jiwer.process_words if unit == "words" else jiwer.process_characters
    found = []
    for chunk in process(reference, hypothesis).alignments[0]:
        if chunk.type in ("equal", "substitute"):
            length = chunk.ref_end_idx - chunk.ref_start_idx
            found += [(chunk.ref_start_idx + i, chunk.hyp_start_idx + i) for i in range(length)]
    return found


def edits(reference: str, hypothesis: str, unit: Unit) -> Edits:
    """Align two normalised texts; characters include the spaces between words, as jiwer's CER does."""
    import jiwer

    process = jiwer.process_words if unit == "words" else jiwer.process_characters
    output = process(reference, hypothesis)
    units = len(output.references[0])
    at = np.zeros(units + 1, dtype=np.int64)
    for chunk in output.alignments[0]:
        if chunk.type == "insert":
            at[chunk.ref_start_idx] += chunk.hyp_end_idx - chunk.hyp_start_idx
        elif chunk.type != "equal":
            at[chunk.ref_start_idx : chunk.ref_end_idx] += 1
    return Edits(units, at)

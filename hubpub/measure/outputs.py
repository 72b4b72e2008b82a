"""The outputs of two runs side by side, one clip in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hubpub.errors import MeasureError
from hubpub.measure.result import RunResult, Utterance

Vector = npt.NDArray[np.float64]


def paired_outputs(run: RunResult, reference: RunResult) -> Iterator[tuple[str, Vector, Vector]]:
    """For each clip its id, the run's output and the reference's, flattened, the segments of a clip joined.

    Raises:
        MeasureError: a run without outputs, shapes that differ, NaN or infinity.
    """
    for utterance, other in zip(run.utterances, reference.utterances, strict=True):
        arrays, others = _load(run, utterance), _load(reference, other)
        where = f"run {run.job.run}, clip {utterance.id}"
        shapes, other_shapes = [a.shape for a in arrays], [a.shape for a in others]
        if shapes != other_shapes:
            raise MeasureError(
                f"its outputs are {_say(shapes)}, those of {reference.job.run} {_say(other_shapes)}",
                where=where,
                fix="give both runs the same features and segments",
            )
        yield utterance.id, _flat(arrays), _flat(others)


def _load(run: RunResult, utterance: Utterance) -> list[npt.NDArray[np.generic]]:
    where = f"run {run.job.run}, clip {utterance.id}"
    if not utterance.outputs:
        raise MeasureError("the run kept no outputs", where=where, fix="measure outputs with client onnxruntime")
    arrays = []
    for name in utterance.outputs:
        try:
            array = np.load(Path(run.folder, name), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise MeasureError(f"{name} is missing or damaged", where=where, fix="run it again") from error
        if not np.isfinite(array).all():
            raise MeasureError("the model's output holds NaN or infinity", where=where)
        arrays.append(array)
    return arrays


def _flat(arrays: list[npt.NDArray[np.generic]]) -> Vector:
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays])


def _say(shapes: list[tuple[int, ...]]) -> str:
    return " + ".join("x".join(map(str, shape)) for shape in shapes)

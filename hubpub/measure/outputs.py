"""The outputs of two runs side by side, one clip in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hubpub.errors import MeasureError
from hubpub.measure.audio import FULL_SCALE, read_audio
from hubpub.measure.result import RunResult, Utterance

Vector = npt.NDArray[np.float64]


def paired_outputs(
    run: RunResult, reference: RunResult, *, same_shape: bool = True
) -> Iterator[tuple[str, Vector, Vector]]:
    """For each clip its id, the run's output and the reference's, flattened, the segments of a clip joined.

    Raises:
        MeasureError: a run without outputs or with an empty one, shapes that differ (unless they may), NaN or infinity.
    """
    for name, arrays, others in _pairs(run, reference, same_shape):
        for each, made in ((run, arrays), (reference, others)):
            if not sum(array.size for array in made):  # nothing is like nothing, and says nothing
                where = f"run {each.job.run}, clip {name}"
                raise MeasureError(
                    "the model's output is empty", where=where, fix="leave the clip out, or use longer ones"
                )
        yield name, _flat(arrays), _flat(others)


def paired_frames(run: RunResult, reference: RunResult) -> Iterator[tuple[str, Vector, Vector]]:
    """The same as ``[frames, classes]``: all axes but the last are frames.

    Raises:
        MeasureError: as for `paired_outputs`; an output without axes.
    """
    for name, arrays, others in _pairs(run, reference, same_shape=True):
        if any(array.ndim == 0 for array in arrays):
            raise MeasureError("the output is one number, not scores of classes", where=f"run {run.job.run}")
        yield name, _frames(arrays), _frames(others)


def embeddings(run: RunResult) -> Vector:
    """One vector of length 1 for each clip ``[clips, size]``: the mean of those of its segments, each of length 1.

    Raises:
        MeasureError: a run without outputs, vectors of several sizes or of length nought, NaN or infinity.
    """
    rows: list[Vector] = []
    for utterance in run.utterances:
        where = f"run {run.job.run}, clip {utterance.id}"
        vectors = [array.astype(np.float64).ravel() for array in _load(run, utterance)]
        if len({len(vector) for vector in (*vectors, *rows[:1])}) != 1:
            raise MeasureError("its embeddings differ in size", where=where, fix="measure an output of one size")
        row = np.sum([_unit(vector, where) for vector in vectors], axis=0)
        rows.append(_unit(row, where))
    return np.stack(rows)


def _unit(vector: Vector, where: str) -> Vector:
    length = float(np.linalg.norm(vector))
    if length == 0:
        raise MeasureError("its embedding is nought", where=where)
    return vector / length


def _pairs(
    run: RunResult, reference: RunResult, same_shape: bool
) -> Iterator[tuple[str, list[npt.NDArray[np.generic]], list[npt.NDArray[np.generic]]]]:
    for utterance, other in zip(run.utterances, reference.utterances, strict=True):
        arrays, others = _load(run, utterance), _load(reference, other)
        where = f"run {run.job.run}, clip {utterance.id}"
        shapes, other_shapes = [a.shape for a in arrays], [a.shape for a in others]
        if same_shape and shapes != other_shapes:
            raise MeasureError(
                f"its outputs are {_say(shapes)}, those of {reference.job.run} {_say(other_shapes)}",
                where=where,
                fix="give both runs the same features and segments",
            )
        yield utterance.id, arrays, others


def _load(run: RunResult, utterance: Utterance) -> list[npt.NDArray[np.generic]]:
    where = f"run {run.job.run}, clip {utterance.id}"
    if not utterance.outputs:
        raise MeasureError("the run kept no outputs", where=where, fix="measure outputs with client onnxruntime")
    arrays = []
    for name in utterance.outputs:
        try:
            array = _read(Path(run.folder, name))
        except (OSError, ValueError, EOFError) as error:
            raise MeasureError(f"{name} is missing or damaged", where=where, fix="run it again") from error
        if array.dtype.kind not in "fiub":
            raise MeasureError(
                f"the model's output is {array.dtype}, not numbers", where=where, fix="name another output"
            )
        if not np.isfinite(array).all():
            raise MeasureError("the model's output holds NaN or infinity", where=where)
        arrays.append(array)
    return arrays


def _read(path: Path) -> npt.NDArray[np.generic]:
    """An array; audio as float32 from -1 to 1."""
    if path.suffix != ".flac":
        return np.asarray(np.load(path, allow_pickle=False))
    samples, _ = read_audio(path)
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def audio_rate(run: RunResult, reference: RunResult) -> int | None:
    """Samples per second of what both runs made, where it is audio.

    Raises:
        MeasureError: they are not of one rate.
    """
    rates = {utterance.rate for each in (run, reference) for utterance in each.utterances}
    if len(rates) > 1:
        what = f"its audio and that of {reference.job.run} have different rates: {_rates(run)} and {_rates(reference)}"
        raise MeasureError(what, where=f"run {run.job.run}", fix="compare voices of one rate")
    return rates.pop() if rates else None


def _rates(run: RunResult) -> str:
    rates = sorted({utterance.rate or 0 for utterance in run.utterances})
    return " and ".join(f"{rate} Hz" if rate else "none" for rate in rates)


def _flat(arrays: list[npt.NDArray[np.generic]]) -> Vector:
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays])


def _frames(arrays: list[npt.NDArray[np.generic]]) -> Vector:
    return np.concatenate([array.astype(np.float64).reshape(-1, array.shape[-1]) for array in arrays])


def _say(shapes: list[tuple[int, ...]]) -> str:
    return " + ".join("x".join(map(str, shape)) for shape in shapes)

"""Streaming diarization over the Sortformer interface: what a caller keeps between the chunks, in NumPy.

The model is given a chunk of features, a speaker cache and a FIFO of embeddings, and says who speaks in every frame of
the three. What goes into the cache, and what stays when it is full, is the caller's: Medennikov et al., "Streaming
Sortformer: Speaker Cache-Based Online Speaker Diarization with Arrival-Time Ordering" (2025), with the constants that
its checkpoints were trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from hubpub.errors import MeasureError

Floats = npt.NDArray[np.float32]
Predict = Callable[[Mapping[str, npt.NDArray[np.generic]]], Mapping[str, npt.NDArray[np.generic]]]
"""One call of the model: its inputs by name to its outputs by name."""

SUBSAMPLING = 8
FRAME_S = 0.08

_SILENCE_PER_SPEAKER = 3  # frames of silence that close each speaker's part of the cache
_SILENCE_BELOW = 0.2  # sum of a frame's probabilities
_SCORE_FLOOR = 0.25  # a probability below counts as this one
_LATEST_BOOST = 0.05
_STRONG_BOOST, _WEAK_BOOST, _LEAST_ALONE = 0.75, 1.5, 0.5  # shares of a speaker's part of the cache


@dataclass(frozen=True)
class Chunking:
    """How a variant cuts its input; all in frames of 80 ms. The names are those of the package's metadata."""

    chunk_len: int
    chunk_left_context: int
    chunk_right_context: int
    fifo_len: int
    spkcache_len: int
    spkcache_update_period: int

    def __post_init__(self) -> None:
        least = {"chunk_len": 1, "spkcache_update_period": 1}
        for each in fields(self):
            if getattr(self, each.name) < least.get(each.name, 0):
                raise MeasureError(f"{each.name} is {getattr(self, each.name)}", fix="correct the package's metadata")

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str], where: str) -> Chunking:
        """What a package says of itself.

        Raises:
            MeasureError: a key is missing or no whole number.
        """
        try:
            return cls(**{each.name: int(metadata[each.name]) for each in fields(cls)})
        except KeyError as error:
            what = f"its metadata does not say {error.args[0]}"
        except ValueError as error:
            what = f"its metadata holds no whole number: {error}"
        raise MeasureError(what, where=where, fix="export it with the streaming parameters as user-defined metadata")

    @property
    def feature_frames(self) -> int:
        """Frames of features, of 10 ms, that the model takes at once."""
        return SUBSAMPLING * (self.chunk_left_context + self.chunk_len + self.chunk_right_context)


@dataclass(frozen=True)
class Chunk:
    """A chunk of features ``[frames, bands]`` with its contexts, which are given in frames of 80 ms."""

    features: Floats
    left: int
    right: int


def chunks(features: Floats, chunking: Chunking) -> Iterator[Chunk]:
    """Features ``[frames, bands]`` in turn, with as much context on both sides as there is."""
    size = chunking.chunk_len * SUBSAMPLING
    for start in range(0, len(features), size):
        end = min(start + size, len(features))
        left = min(chunking.chunk_left_context * SUBSAMPLING, start)
        right = min(chunking.chunk_right_context * SUBSAMPLING, len(features) - end)
        yield Chunk(features[start - left : end + right], left // SUBSAMPLING, -(-right // SUBSAMPLING))


class Stream:
    """The state of one recording: a cache of each speaker's best frames, and a FIFO of the latest ones."""

    def __init__(self, predict: Predict, chunking: Chunking, width: int, where: str) -> None:
        self._predict, self._chunking, self._where = predict, chunking, where
        self._cache = np.zeros((0, width), np.float32)
        self._fifo = np.zeros((0, width), np.float32)
        self._cache_predictions: Floats | None = None  # from the first compression on
        self._silence = np.zeros(width, np.float32)
        self._silent_frames = 0

    def step(self, chunk: Chunk) -> Floats:
        """Probabilities ``[frames, speakers]`` of the chunk without its contexts; the state goes on.

        Raises:
            MeasureError: the model's outputs do not fit its inputs.
        """
        cached, queued = len(self._cache), len(self._fifo)
        predictions, embeddings = self._run(chunk, cached, queued)
        core = len(embeddings) - chunk.left - chunk.right
        first = cached + queued + chunk.left
        if core < 1 or len(predictions) < first + core:
            what = f"{len(embeddings)} embeddings and {len(predictions)} predictions for {len(chunk.features)} frames"
            raise MeasureError(f"the model gives {what}", where=self._where)
        found = predictions[first : first + core]
        fifo = np.concatenate([self._fifo, embeddings[chunk.left : chunk.left + core]])
        fifo_predictions = np.concatenate([predictions[cached : cached + queued], found])
        if len(fifo) > self._chunking.fifo_len:
            leaving = max(self._chunking.spkcache_update_period, len(fifo) - self._chunking.fifo_len)
            leaving = min(leaving, len(fifo))
            self._note_silence(fifo[:leaving], fifo_predictions[:leaving])
            self._remember(fifo[:leaving], fifo_predictions[:leaving], predictions[:cached])
            fifo = fifo[leaving:]
        self._fifo = fifo
        return found

    def _run(self, chunk: Chunk, cached: int, queued: int) -> tuple[Floats, Floats]:
        chunking = self._chunking
        given: dict[str, npt.NDArray[np.generic]] = {
            "chunk": _filled(chunk.features, chunking.feature_frames),
            "chunk_lengths": np.array([len(chunk.features)], np.int32),
            "spkcache": _filled(self._cache, chunking.spkcache_len),
            "spkcache_lengths": np.array([cached], np.int32),
            "fifo": _filled(self._fifo, chunking.fifo_len),
            "fifo_lengths": np.array([queued], np.int32),
        }
        outputs = self._predict(given)
        named = {name: _output(outputs, name, self._where) for name in _OUTPUTS}
        count = int(named["chunk_pre_encoder_lengths"].reshape(-1)[0])
        embeddings = named["chunk_pre_encoder_embs"].reshape(-1, named["chunk_pre_encoder_embs"].shape[-1])
        predictions = named["speaker_preds"].reshape(-1, named["speaker_preds"].shape[-1])
        return predictions.astype(np.float32), embeddings[:count].astype(np.float32)

    def _note_silence(self, embeddings: Floats, predictions: Floats) -> None:
        silent = embeddings[predictions.sum(axis=1) < _SILENCE_BELOW]
        total = self._silent_frames + len(silent)
        if len(silent):
            self._silence = (self._silence * self._silent_frames + silent.sum(axis=0)) / np.float32(total)
        self._silent_frames = total

    def _remember(self, embeddings: Floats, predictions: Floats, of_cache: Floats) -> None:
        cache = np.concatenate([self._cache, embeddings])
        # Until it is compressed for the first time, the cache is what was heard, and its predictions are the latest.
        old = of_cache if self._cache_predictions is None else self._cache_predictions
        all_predictions = np.concatenate([old, predictions])
        if len(cache) > self._chunking.spkcache_len:
            cache, self._cache_predictions = compress(
                cache, all_predictions, self._silence, self._chunking.spkcache_len
            )
        elif self._cache_predictions is not None:
            self._cache_predictions = all_predictions
        self._cache = cache


def diarize(predict: Predict, features: Floats, chunking: Chunking, width: int, where: str) -> Floats:
    """Who speaks when in a recording.

    Args:
        predict: the model.
        features: ``[frames of 10 ms, bands]``.
        chunking: how the model's variant cuts them.
        width: of an embedding.
        where: what the model is called in an error.

    Returns:
        Probabilities ``[frames of 80 ms, speakers]``.

    Raises:
        MeasureError: the model's outputs do not fit the interface, or are no numbers; there is not one frame.
    """
    stream = Stream(predict, chunking, width, where)
    parts = [stream.step(chunk) for chunk in chunks(features, chunking)]
    if not parts:
        raise MeasureError("the clip is shorter than a frame", where=where)
    said = np.concatenate(parts)
    if not np.isfinite(said).all():  # which would count as silence, and agree with another that says the same
        raise MeasureError("the model's probabilities are NaN or infinite", where=where)
    return said


def compress(embeddings: Floats, predictions: Floats, silence: Floats, size: int) -> tuple[Floats, Floats]:
    """The ``size`` frames that tell the speakers apart best, with their predictions.

    Args:
        embeddings: ``[frames, width]``, more than ``size`` frames.
        predictions: ``[frames, speakers]``.
        silence: ``[width]``, what a frame of silence looks like.
        size: frames that are kept; the parts of the speakers follow each other, each in order of time and closed by
            frames of silence.
    """
    frames, speakers = predictions.shape
    share = size // speakers - _SILENCE_PER_SPEAKER
    if share < 1:
        raise MeasureError(f"a speaker cache of {size} frames is too small for {speakers} speakers")
    scores = _scores(predictions, int(share * _LEAST_ALONE))
    scores[size:] += _LATEST_BOOST
    _boost(scores, int(share * _STRONG_BOOST), 2.0)
    _boost(scores, int(share * _WEAK_BOOST), 1.0)
    scores = np.concatenate([scores, np.full((_SILENCE_PER_SPEAKER, speakers), np.inf)])
    by_speaker = scores.T.reshape(-1)
    best = np.argsort(-by_speaker, kind="stable")[:size]
    best = np.where(np.isneginf(by_speaker[best]), by_speaker.size, best)
    best.sort()
    frame = best % len(scores)
    empty = (best == by_speaker.size) | (frame >= frames)
    frame[empty] = 0
    return (
        np.where(empty[:, None], silence, embeddings[frame]).astype(np.float32),
        np.where(empty[:, None], 0.0, predictions[frame]).astype(np.float32),
    )


def _scores(predictions: Floats, least_alone: int) -> npt.NDArray[np.float64]:
    """High where one speaker is sure to speak and speaks alone; -inf where it does not speak."""
    sure = np.log(np.maximum(predictions.astype(np.float64), _SCORE_FLOOR))
    others = np.log(np.maximum(1.0 - predictions.astype(np.float64), _SCORE_FLOOR))
    scores: npt.NDArray[np.float64] = sure - others + others.sum(axis=1, keepdims=True) - np.log(0.5)
    speaks = predictions > 0.5
    scores[~speaks] = -np.inf
    alone = scores > 0
    scores[speaks & ~alone & (alone.sum(axis=0) >= least_alone)] = -np.inf
    return scores


def _boost(scores: npt.NDArray[np.float64], count: int, factor: float) -> None:
    best = np.argsort(-scores, axis=0, kind="stable")[:count]
    np.put_along_axis(scores, best, np.take_along_axis(scores, best, axis=0) + factor * np.log(2), axis=0)


_OUTPUTS = ("speaker_preds", "chunk_pre_encoder_embs", "chunk_pre_encoder_lengths")


def _output(outputs: Mapping[str, npt.NDArray[np.generic]], name: str, where: str) -> npt.NDArray[np.generic]:
    for candidate in (name, f"{name}_out"):  # some exports carry the suffix, since names must not repeat
        if candidate in outputs:
            return outputs[candidate]
    fix = "it is not a model of the Sortformer interface"
    raise MeasureError(f"the model has no output {name} (nor {name}_out)", where=where, fix=fix)


def _filled(frames: Floats, count: int) -> Floats:
    """``[1, count, width]``, zeros behind the frames."""
    full = np.zeros((1, count, frames.shape[1]), np.float32)
    full[0, : len(frames)] = frames
    return full

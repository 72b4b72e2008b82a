"""The caller's side of streaming Sortformer, against a model that says of each frame what is written in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.errors import MeasureError
from hubpub.measure.sortformer import Chunking, chunks, compress, diarize

Floats = npt.NDArray[np.float32]
SPEAKERS = 4


class Transparent:
    """Embeddings are means over 8 frames, predictions are their first four values; it minds the interface."""

    def __init__(self, chunking: Chunking) -> None:
        self.chunking = chunking
        self.most_cached = self.most_queued = self.calls = 0

    def __call__(self, given: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        chunking = self.chunking
        parts = []
        sizes = {"spkcache": chunking.spkcache_len, "fifo": chunking.fifo_len, "chunk": chunking.feature_frames}
        for name, size in sizes.items():
            values, count = given[name], int(given[f"{name}_lengths"][0])
            assert values.shape[:2] == (1, size)
            assert values.dtype == np.float32
            assert 0 <= count <= size
            assert not values[0, count:].any()
            parts.append(values[0, :count])
        cache, fifo, features = parts
        self.most_cached, self.most_queued = max(self.most_cached, len(cache)), max(self.most_queued, len(fifo))
        self.calls += 1
        embeddings = means(features)
        packed = np.concatenate([cache, fifo, embeddings])
        full = np.zeros((1, sizes["spkcache"] + sizes["fifo"] + sizes["chunk"] // 8, SPEAKERS), np.float32)
        full[0, : len(packed)] = packed[:, :SPEAKERS]
        room = np.full((1, sizes["chunk"] // 8, embeddings.shape[1]), 7, np.float32)
        room[0, : len(embeddings)] = embeddings
        return {
            "speaker_preds": full,
            "chunk_pre_encoder_embs_out": room,
            "chunk_pre_encoder_lengths": np.array([len(embeddings)]),
        }


def means(features: Floats) -> Floats:
    return np.stack([features[at : at + 8].mean(axis=0) for at in range(0, len(features), 8)])


def features(frames: int, seed: int) -> Floats:
    """Turns of about a second, at times two speakers, at times nobody, in a space of six."""
    rng = np.random.default_rng(seed)
    values = np.zeros((frames, 6), np.float32)
    for start in range(0, frames, 96):
        for speaker in rng.choice(SPEAKERS, size=rng.integers(0, 3), replace=False):
            values[start : start + 96, speaker] = 1
    values[:, :SPEAKERS] = np.clip(values[:, :SPEAKERS] * 0.9 + rng.uniform(0, 0.1, (frames, SPEAKERS)), 0, 1)
    values[:, 4] = np.arange(frames)
    return values


chunkings = st.builds(
    Chunking,
    chunk_len=st.integers(1, 30),
    chunk_left_context=st.integers(0, 2),
    chunk_right_context=st.integers(0, 8),
    fifo_len=st.integers(0, 40),
    spkcache_len=st.integers(16, 60),
    spkcache_update_period=st.integers(1, 40),
)


@settings(deadline=None, max_examples=60)
@given(chunkings, st.integers(1, 3000), st.integers(0, 5))
def test_every_frame_is_said_once_however_it_is_cut(chunking: Chunking, frames: int, seed: int) -> None:
    given = features(frames, seed)
    model = Transparent(chunking)
    said = diarize(model, given, chunking, 6, "model")
    assert np.allclose(said, means(given)[:, :SPEAKERS], atol=1e-5)
    assert model.calls == -(-frames // (8 * chunking.chunk_len))


def test_a_long_recording_fills_cache_and_fifo_and_no_more() -> None:
    chunking = Chunking(6, 1, 7, 40, 188, 31)
    model = Transparent(chunking)
    diarize(model, features(20_000, 1), chunking, 6, "model")
    assert model.most_cached == 188
    assert model.most_queued == 40


def test_chunks_have_the_context_that_there_is() -> None:
    chunking = Chunking(6, 1, 7, 40, 188, 31)
    cut = list(chunks(features(200, 0), chunking))
    assert [(len(each.features), each.left, each.right) for each in cut] == [
        (104, 0, 7),
        (112, 1, 7),
        (112, 1, 7),
        (64, 1, 1),
        (16, 1, 0),
    ]


def slowly(embeddings: Floats, predictions: Floats, silence: Floats, size: int) -> tuple[Floats, Floats]:
    """The same choice, speaker by speaker and frame by frame."""
    frames, speakers = predictions.shape
    share = size // speakers - 3
    table: list[tuple[float, int, int]] = []
    for speaker in range(speakers):
        scores: list[float] = []
        for row in predictions.astype(np.float64):
            score = np.log(max(row[speaker], 0.25)) - np.log(max(1 - row[speaker], 0.25)) - np.log(0.5)
            score += sum(np.log(max(1 - value, 0.25)) for value in row)
            scores.append(score if row[speaker] > 0.5 else -np.inf)
        if sum(score > 0 for score in scores) >= int(share * 0.5):
            scores = [score if score > 0 else -np.inf for score in scores]
        scores = [score + 0.05 * (at >= size) for at, score in enumerate(scores)]
        for count, factor in ((int(share * 0.75), 2), (int(share * 1.5), 1)):
            for at in sorted(range(frames), key=lambda each: -scores[each])[:count]:
                scores[at] += factor * np.log(2)
        table += [(score, speaker, at) for at, score in enumerate([*scores, np.inf, np.inf, np.inf])]
    best = sorted(table, key=lambda entry: -entry[0])[:size]
    kept = sorted((speaker, at) for score, speaker, at in best if score > -np.inf)
    kept += [(speakers, frames)] * (size - len(kept))
    rows = [(embeddings[at], predictions[at]) if at < frames else (silence, np.zeros(speakers)) for _, at in kept]
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


@settings(deadline=None, max_examples=60)
@given(st.integers(16, 80), st.integers(1, 60), st.integers(0, 1000), st.sampled_from([0.2, 0.5, 0.9]))
def test_compression_keeps_what_a_slow_choice_keeps(size: int, more: int, seed: int, activity: float) -> None:
    rng = np.random.default_rng(seed)
    predictions = rng.uniform(0, 1, (size + more, SPEAKERS)).astype(np.float32)
    predictions *= rng.uniform(0, 1, predictions.shape) < activity
    embeddings = rng.normal(size=(size + more, 5)).astype(np.float32)
    silence = np.full(5, 9, np.float32)
    got, expected = compress(embeddings, predictions, silence, size), slowly(embeddings, predictions, silence, size)
    for one, other in zip(got, expected, strict=True):
        assert np.array_equal(one, other)


def test_metadata_that_says_too_little_is_named() -> None:
    with pytest.raises(MeasureError, match="does not say spkcache_update_period"):
        Chunking.of_metadata({**dict.fromkeys(list(Chunking.__annotations__)[:-1], "3")}, "a.mlpackage")
    with pytest.raises(MeasureError, match="no whole number"):
        Chunking.of_metadata(dict.fromkeys(Chunking.__annotations__, "many"), "a.mlpackage")
    with pytest.raises(MeasureError, match="chunk_len is 0"):
        Chunking.of_metadata(dict.fromkeys(Chunking.__annotations__, "0"), "a.mlpackage")


def test_a_model_of_another_interface_is_named() -> None:
    chunking = Chunking(6, 1, 7, 40, 188, 31)
    with pytest.raises(MeasureError, match="no output speaker_preds"):
        diarize(lambda _: {}, features(50, 0), chunking, 6, "model")
    with pytest.raises(MeasureError, match="shorter than a frame"):
        diarize(Transparent(chunking), features(0, 0), chunking, 6, "model")


def test_a_model_that_says_no_numbers_is_not_silent() -> None:
    chunking = Chunking(6, 1, 7, 40, 188, 31)
    given = features(200, 0)
    given[150] = np.nan
    with pytest.raises(MeasureError, match="the model's probabilities are NaN or infinite"):
        diarize(Transparent(chunking), given, chunking, 6, "model")

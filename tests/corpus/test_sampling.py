from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hubpub.corpus.corpus import Corpus, load_samples
from hubpub.corpus.prepare import prepare
from hubpub.corpus.sampling import Part, choose, window_starts
from hubpub.corpus.spec import CorpusSpec, SampleSpec, WindowSpec
from hubpub.errors import AudioError

PARTS = st.lists(st.tuples(st.floats(0.1, 60), st.sampled_from(["Ann", "Bo", "Cy"])), min_size=1, max_size=40).map(
    lambda those: [Part(i, None, seconds, f"c{i}", who) for i, (seconds, who) in enumerate(those)]
)
BALANCE = st.sampled_from([None, "speaker", "language", "seconds"])


@given(PARTS, st.integers(1, 40), st.integers(0, 5), BALANCE)
@settings(max_examples=150, deadline=None)
def test_a_count_is_kept_in_order_and_without_repeats(parts: list[Part], count: int, seed: int, balance: Any) -> None:
    spec = SampleSpec(count=count, seed=seed, balance=balance)
    if count > len(parts):
        with pytest.raises(AudioError, match=f"asks for {count} clips, and there are {len(parts)}"):
            choose(parts, spec)
        return
    chosen = choose(parts, spec)
    assert len(chosen) == count
    assert [part.clip for part in chosen] == sorted({part.clip for part in chosen})
    assert choose(parts, spec) == chosen


@given(PARTS, st.floats(0.1, 900), st.integers(0, 5), BALANCE)
@settings(max_examples=150, deadline=None)
def test_seconds_are_never_exceeded_and_used_as_far_as_they_go(
    parts: list[Part], seconds: float, seed: int, balance: Any
) -> None:
    spec = SampleSpec(seconds=seconds, seed=seed, balance=balance)
    if seconds < min(part.seconds for part in parts) - 1e-6:
        with pytest.raises(AudioError, match="the shortest clip has"):
            choose(parts, spec)
        return
    chosen = choose(parts, spec)
    used = sum(part.seconds for part in chosen)
    assert used <= seconds + 1e-6
    left = [part.seconds for part in parts if part not in chosen]
    assert not left or used + min(left) > seconds - 1e-6


@given(st.lists(st.integers(5, 30), min_size=2, max_size=5), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_speakers_get_equal_shares(sizes: list[int], seed: int) -> None:
    """With windows of one length nobody has more than one more than another, while there are any left."""
    parts = [Part(0, None, 30, f"{who}-{n}", str(who)) for who, size in enumerate(sizes) for n in range(size)]
    chosen = choose(parts, SampleSpec(count=5 * len(sizes), seed=seed, balance="speaker"))
    assert set(Counter(part.group for part in chosen).values()) == {5}


def test_shares_in_proportion_to_length() -> None:
    parts = [
        Part(0, None, 10, f"{name}{n}", name)
        for name, count in (("a", 100), ("b", 50), ("c", 10))
        for n in range(count)
    ]
    chosen = choose(parts, SampleSpec(count=32, balance="seconds"))
    assert Counter(part.group for part in chosen) == {"a": 20, "b": 10, "c": 2}


def test_another_seed_chooses_others_and_another_clip_changes_little() -> None:
    parts = [Part(i, None, 1, f"c{i}", "") for i in range(200)]
    first, second = (set(choose(parts, SampleSpec(count=50, seed=seed))) for seed in (0, 1))
    assert 2 < len(first & second) < 30
    more = set(choose([*parts, Part(200, None, 1, "new", "")], SampleSpec(count=50)))
    assert len(first & more) >= 49


def test_the_choice_is_the_same_on_every_machine() -> None:
    parts = [Part(i, None, 1, f"c{i}", "") for i in range(20)]
    assert [part.clip for part in choose(parts, SampleSpec(count=5, seed=42))] == [0, 7, 12, 13, 18]


@given(st.floats(0, 7200), st.floats(0.1, 60), st.floats(0.05, 60))
@settings(max_examples=200, deadline=None)
def test_windows_are_whole_and_as_many_as_fit(seconds: float, length: float, hop: float) -> None:
    starts = window_starts(seconds, WindowSpec(seconds=length, hop=hop))
    assert all(start + length <= seconds + 1e-5 for start in starts)
    assert list(starts) == [round(n * hop, 6) for n in range(len(starts))]
    assert len(starts) * hop + length > seconds - 1e-5


def spec(**fields: Any) -> CorpusSpec:
    defaults = {"source": "a package", "license": "CC0-1.0"}
    return CorpusSpec.model_validate({"role": "calibration", "defaults": defaults, **fields})


@pytest.fixture
def files(two_cities_wav: Path, silero_onnx_dir: Path, source_files: Path) -> dict[str, Path]:
    return {"s/two_cities.wav": two_cities_wav, "s/lecture.wav": source_files / "silero/tests/data/test.wav"}


CLIPS = [
    {"audio": "s/two_cities.wav", "crop": [2, 42], "speaker": "Ann"},
    {"audio": "s/lecture.wav", "speaker": "Bo", "id": "lecture"},
]


def test_windows_become_clips_as_if_each_had_been_cut_by_hand(files: dict[str, Path], tmp_path: Path) -> None:
    corpus = prepare(spec(clips=CLIPS, windows={"seconds": 15}), files, tmp_path / "a")
    assert [clip.id for clip in corpus.clips] == [
        *("two_cities@2-17", "two_cities@17-32"),
        *("lecture@0-15", "lecture@15-30", "lecture@30-45", "lecture@45-60"),
    ]
    crops = [
        {"audio": clip.audio, "crop": clip.crop, "id": clip.id, "speaker": clip.provenance.speaker}
        for clip in corpus.clips
    ]
    by_hand = prepare(spec(clips=crops), files, tmp_path / "b")
    assert by_hand == corpus
    for clip in corpus.clips:
        np.testing.assert_array_equal(load_samples(tmp_path / "a", clip), load_samples(tmp_path / "b", clip))


def test_windows_of_digital_silence_are_left_out(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 50_000).astype(np.float32)
    samples[8_000:32_000] = 0
    soundfile.write(tmp_path / "a.wav", samples, 8000)
    files = {"s/a.wav": tmp_path / "a.wav"}
    corpus = prepare(spec(clips=[{"audio": "s/a.wav"}], windows={"seconds": 1}), files, tmp_path / "out")
    assert [clip.id for clip in corpus.clips] == ["a@0-1", "a@4-5", "a@5-6"]


def test_the_chosen_windows_stand_in_the_index(files: dict[str, Path], tmp_path: Path) -> None:
    sample = {"count": 4, "seed": 1, "balance": "speaker"}
    corpus = prepare(spec(clips=CLIPS, windows={"seconds": 5, "hop": 2.5}, sample=sample), files, tmp_path / "a")
    assert Counter(clip.provenance.speaker for clip in corpus.clips) == {"Ann": 2, "Bo": 2}
    assert all(clip.crop is not None and clip.crop[1] - clip.crop[0] == clip.seconds == 5 for clip in corpus.clips)
    assert Corpus.load(tmp_path / "a") == corpus
    assert len(list((tmp_path / "a").glob("*.npy"))) == 4


def test_whole_clips_are_sampled_too(files: dict[str, Path], tmp_path: Path) -> None:
    corpus = prepare(spec(clips=CLIPS, sample={"seconds": 45}), files, tmp_path / "a")
    assert [clip.id for clip in corpus.clips] == ["two_cities@2-42"]


def test_no_clip_is_long_enough(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no clip is as long as a window"):
        prepare(spec(clips=CLIPS[:1], windows={"seconds": 41}), files, tmp_path / "a")


@pytest.mark.parametrize(
    ("fields", "loc", "message"),
    [
        ({"sample": {}}, ("sample",), "count or seconds"),
        ({"sample": {"count": 1, "seconds": 1}}, ("sample",), "count or seconds"),
        ({"sample": {"count": 0}}, ("sample", "count"), "greater"),
        ({"sample": {"count": 1, "balance": "language"}}, ("clips", 0, "language"), "balanced by language"),
        ({"sample": {"count": 1, "balance": "mood"}}, ("sample", "balance"), "Input should be"),
        ({"windows": {"seconds": 0}}, ("windows", "seconds"), "greater"),
        ({"windows": {"seconds": 1, "hop": float("nan")}}, ("windows", "hop"), "finite"),
        (
            {"windows": {"seconds": 1}, "clips": [CLIPS[0] | {"text": "x"}]},
            ("clips", 0, "text"),
            "nobody knows",
        ),
        ({"sealed": True}, (), "only a corpus for evaluation"),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], loc: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**{"clips": [{"audio": "s/lecture.wav"}], **fields})
    assert [error["loc"] for error in caught.value.errors()] == [loc]
    assert message in caught.value.errors()[0]["msg"]

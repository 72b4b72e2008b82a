"""Long clips made of short ones: samples, texts, turns and places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hubpub.corpus.corpus import Corpus, Turn, load_samples
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec, StitchSpec
from hubpub.corpus.stitch import stitch

RATE = 16_000


def made(folder: Path, lengths: list[float], texts: list[str | None], **fields: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    files, clips = {}, []
    for i, (seconds, text) in enumerate(zip(lengths, texts, strict=True)):
        path = folder / f"{i}.wav"
        noise = np.random.default_rng(i).normal(scale=0.1, size=round(seconds * RATE))
        soundfile.write(path, noise.astype(np.float32), RATE, subtype="FLOAT")
        files[path.name] = path
        clips.append({"audio": path.name, "speaker": f"s{i}", **({} if text is None else {"text": text})})
    defaults = {"source": "made up", "license": "CC0-1.0", "language": "en"}
    data = {"role": "evaluation", "defaults": defaults, "clips": clips, **fields}
    return prepare(CorpusSpec.model_validate(data), files, folder / "prepared")


def test_clips_are_joined_in_order_up_to_a_length(tmp_path: Path) -> None:
    texts = ["one", "two three", "", "four"]
    short = made(tmp_path / "a", [1.0, 2.0, 1.5, 4.0], texts)
    long = made(tmp_path / "b", [1.0, 2.0, 1.5, 4.0], texts, stitch={"seconds": 4.5, "gap_s": 0.25})
    first, second, third = long.clips
    assert [clip.id for clip in long.clips] == ["0+1", "2", "3"]
    assert first.text == "one two three"
    assert first.spoken is not None
    assert [(each.start, each.end, each.text) for each in first.spoken] == [(0, 1, "one"), (1.25, 3.25, "two three")]
    assert [clip.seconds for clip in long.clips] == [3.25, 1.5, 4.0]
    assert second.text == ""
    assert (first.provenance.speaker, first.provenance.language) == (None, "en")
    assert (third.provenance.speaker, third.provenance.source) == ("s3", "made up")
    samples = load_samples(tmp_path / "b" / "prepared", first)
    parts = [load_samples(tmp_path / "a" / "prepared", clip) for clip in short.clips[:2]]
    np.testing.assert_array_equal(samples, np.concatenate([parts[0], np.zeros(RATE // 4, np.float32), parts[1]]))
    assert sorted(path.name for path in (tmp_path / "b" / "prepared").iterdir()) == [
        *("corpus.json", "long00000.npy", "long00001.npy", "long00002.npy")
    ]
    assert Corpus.load(tmp_path / "b" / "prepared") == long
    assert "spoken" not in short.clips[0].model_dump()
    again = made(tmp_path / "c", [1.0, 2.0, 1.5, 4.0], texts, stitch={"seconds": 4.5, "gap_s": 0.25})
    assert again == long


def test_what_nobody_wrote_down_leaves_the_long_clip_without_text(tmp_path: Path) -> None:
    (clip,) = made(tmp_path, [1.0, 1.0], ["one", None], stitch={"seconds": 60}).clips
    assert (clip.text, clip.spoken, clip.turns) == (None, None, None)
    assert clip.seconds == 2.5


def test_turns_and_scored_parts_move_along(tmp_path: Path) -> None:
    corpus = made(tmp_path, [2.0, 3.0], [None, None])
    clips = [
        corpus.clips[0].model_copy(update={"turns": (Turn(start=0.5, end=1.5, speaker="a"),)}),
        corpus.clips[1].model_copy(
            update={"turns": (Turn(start=0, end=3, speaker="b"),), "scored": ((0.5, 1.0), (2.0, 3.0))}
        ),
    ]
    (clip,) = stitch(clips, tmp_path / "prepared", StitchSpec(seconds=10, gap_s=1))
    assert clip.turns == (Turn(start=0.5, end=1.5, speaker="a"), Turn(start=3, end=6, speaker="b"))
    assert clip.scored == ((0, 2), (3.5, 4.0), (5.0, 6.0))


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"seconds": 10, "gap_s": -1}, {}])
def test_nonsense_is_refused(tmp_path: Path, bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="stitch"):
        made(tmp_path, [1.0], ["a"], stitch=bad)

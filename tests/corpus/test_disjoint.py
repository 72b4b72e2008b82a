from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from hubpub.corpus.audio import decode, resample
from hubpub.corpus.corpus import Corpus
from hubpub.corpus.disjoint import Proof, check_disjoint, overlaps
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec, Role
from hubpub.errors import OverlapError

Make = Callable[..., Corpus]

FOLDERS: dict[int, Path] = {}
"""Where the corpora of a test were prepared, by their identity."""


def check(corpora: dict[str, Corpus]) -> Proof:
    return check_disjoint(corpora, {name: FOLDERS[id(corpus)] for name, corpus in corpora.items()})


@pytest.fixture
def make(two_cities_wav: Path, tmp_path: Path) -> Make:
    """A prepared corpus of clips, each a dict with ``audio`` among the files below."""
    whole = decode(two_cities_wav)
    files = {"a.wav": two_cities_wav}
    for name, subtype in [("b.wav", "PCM_24"), ("c.wav", "FLOAT"), ("d.flac", "PCM_16")]:
        files[name] = tmp_path / name
        soundfile.write(files[name], whole.samples, whole.rate, subtype=subtype)
    loud = resample(whole.samples, whole.rate, 22_050) * 1.4
    for name, subtype in [("e.mp3", "MPEG_LAYER_III"), ("f.ogg", "VORBIS")]:
        files[name] = tmp_path / name
        soundfile.write(files[name], loud, 22_050, subtype=subtype, compression_level=0.9)
    part = decode(two_cities_wav, (5, 7))
    files["part.wav"] = tmp_path / "part.wav"
    soundfile.write(files["part.wav"], part.samples, part.rate, subtype="FLOAT")

    def prepared(role: Role, *clips: dict[str, Any]) -> Corpus:
        numbered = [clip | {"id": f"{role[0]}{i}"} for i, clip in enumerate(clips)]
        defaults = {"source": "s", "license": "CC0-1.0"}
        spec = CorpusSpec.model_validate({"role": role, "defaults": defaults, "clips": numbered})
        prepared.count += 1  # type: ignore[attr-defined]
        folder = tmp_path / f"corpus{prepared.count}"  # type: ignore[attr-defined]
        corpus = prepare(spec, files, folder)
        FOLDERS[id(corpus)] = folder
        return corpus

    prepared.count = 0  # type: ignore[attr-defined]
    return prepared


LEAKS = {
    "same file": ({"audio": "a.wav"}, {"audio": "a.wav"}, "same samples"),
    "24-bit copy": ({"audio": "a.wav"}, {"audio": "b.wav"}, "same samples"),
    "float copy": ({"audio": "c.wav"}, {"audio": "a.wav"}, "same samples"),
    "FLAC copy": ({"audio": "b.wav"}, {"audio": "d.flac"}, "same samples"),
    "same crop": ({"audio": "a.wav", "crop": [1, 2]}, {"audio": "a.wav", "crop": [1, 2]}, "same samples"),
    "same crop of a copy": ({"audio": "a.wav", "crop": [1, 2]}, {"audio": "d.flac", "crop": [1, 2]}, "same samples"),
    "crop within": ({"audio": "a.wav"}, {"audio": "a.wav", "crop": [1, 2]}, "share 1-2 s"),
    "crops that overlap": ({"audio": "a.wav", "crop": [1, 3]}, {"audio": "b.wav", "crop": [2.5, 4]}, "share 2.5-3 s"),
    "one frame": (
        {"audio": "a.wav", "crop": [1, 3]},
        {"audio": "a.wav", "crop": [3 - 1 / 48_000, 4]},
        "share 2.99998-3 s",
    ),
    "louder MP3 at another rate": ({"audio": "a.wav", "crop": [3, 8]}, {"audio": "e.mp3"}, "sound alike: "),
    "crop of a Vorbis copy": (
        {"audio": "f.ogg", "crop": [20.25, 23]},
        {"audio": "a.wav"},
        "sound alike: 0.0-2.8 s of the one is 20.2-23.0 s of the other (correlation 0.9",
    ),
    "two codecs": ({"audio": "e.mp3", "crop": [1, 9]}, {"audio": "f.ogg", "crop": [6, 20]}, "sound alike: "),
    "a crop saved as a file": ({"audio": "part.wav"}, {"audio": "a.wav", "crop": [5, 7]}, "same samples"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_planted_leaks_are_found_with_both_names(make: Make, leak: str) -> None:
    calibration, evaluation, how = LEAKS[leak]
    corpora = {"cal": make("calibration", calibration), "test": make("evaluation", evaluation)}
    with pytest.raises(OverlapError) as caught:
        check(corpora)
    for part in ("clip c0 of cal", "clip e0 of test", how):
        assert part in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_neighbouring_crops_and_other_audio_are_disjoint(make: Make) -> None:
    corpora = {
        "cal": make("calibration", {"audio": "a.wav", "crop": [1, 3]}, {"audio": "part.wav"}),
        "test": make("evaluation", {"audio": "d.flac", "crop": [3, 5]}, {"audio": "a.wav", "crop": [0, 1]}),
    }
    proof = check(corpora)
    assert proof == Proof(2, 4.0, 2, 3.0, by_digest_only=0)
    assert overlaps(corpora) == ()


def test_corpora_of_one_role_may_share_audio(make: Make) -> None:
    clip = {"audio": "a.wav", "crop": [1, 3]}
    check({"x": make("evaluation", clip), "y": make("evaluation", clip)})
    check({"x": make("calibration", clip), "y": make("calibration", clip)})


def test_all_violations_are_told_at_once(make: Make) -> None:
    clips = [{"audio": "a.wav", "crop": [start, start + 2]} for start in (0, 10, 20)]
    corpora = {
        "cal": make("calibration", *clips),
        "x": make("evaluation", clips[0], {"audio": "c.wav", "crop": [11, 13]}),
        "y": make("evaluation", clips[2]),
    }
    found = overlaps(corpora)
    assert [(o.calibration_clip, o.evaluation, o.evaluation_clip) for o in found] == [
        ("c0", "x", "e0"),
        ("c1", "x", "e1"),
        ("c2", "y", "e0"),
    ]
    with pytest.raises(OverlapError) as caught:
        check(corpora)
    assert str(caught.value).count("\n") == 2

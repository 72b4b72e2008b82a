from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soxr
import speech

from hubpub.corpus.audio import Samples
from hubpub.corpus.fingerprint import FRAMES_PER_SECOND, fingerprint, mapped
from hubpub.corpus.similar import Shared, shared_audio

RATE = 16_000


@pytest.fixture(scope="module")
def recordings(source_files: Path) -> dict[str, Samples]:
    return speech.recordings(source_files)


@pytest.fixture(scope="module")
def two_cities(recordings: dict[str, Samples]) -> Samples:
    return recordings["two_cities"]


def cut(samples: Samples, start: float, stop: float) -> Samples:
    return samples[round(start * RATE) : round(stop * RATE)]


def joined(*parts: Samples) -> Samples:
    return np.concatenate(parts)


def compare(one: Samples, other: Samples) -> list[Shared]:
    return shared_audio([fingerprint(one)], [fingerprint(other)])


CHANGES: dict[str, speech.Change] = {
    "as it is": lambda x: x,
    "MP3, strongest compression": speech.coded("MP3", "MPEG_LAYER_III", level=0.99),
    "MP3 at 8 kHz, strongest compression": speech.coded("MP3", "MPEG_LAYER_III", 8000, level=0.99),
    "MP3 at 44.1 kHz": speech.coded("MP3", "MPEG_LAYER_III", 44_100),
    "Vorbis, lowest quality": speech.coded("OGG", "VORBIS", level=1.0),
    "Opus, lowest bit rate": speech.coded("OGG", "OPUS", level=1.0),
    "Opus at 48 kHz": speech.coded("OGG", "OPUS", 48_000),
    "FLAC": speech.coded("FLAC", "PCM_16"),
    "8 bits": speech.coded("WAV", "PCM_U8"),
    "8 kHz": speech.coded("WAV", "PCM_16", 8000),
    "11.025 kHz": speech.coded("WAV", "PCM_16", 11_025),
    "44.1 kHz": speech.coded("WAV", "PCM_16", 44_100),
    "mu-law telephone": speech.coded("WAV", "ULAW", 8000),
    "A-law telephone": speech.coded("WAV", "ALAW", 8000),
    "GSM telephone": speech.coded("WAV", "GSM610", 8000),
    "IMA ADPCM": speech.coded("WAV", "IMA_ADPCM"),
    "300 to 3400 Hz": speech.telephone,
    "40 dB quieter": lambda x: x / 100,
    "polarity turned": lambda x: -x,
    "clipped": speech.clipped,
    "limiter": speech.compressed,
    "noise at 20 dB": speech.noise(20),
    "noise at 10 dB": speech.noise(10),
    "noise at 5 dB": speech.noise(5),
    "music at 10 dB": speech.music(10),
    "music at 5 dB": speech.music(5),
    "echo": speech.echo,
    "hall of 0.8 s": speech.hall(0.8),
    "hum": lambda x: x + 0.1 * np.sin(2 * np.pi * 50 / RATE * np.arange(len(x)), dtype=np.float32),
    "offset": lambda x: x + np.float32(0.2),
    "1 % faster": speech.faster(1.01),
    "3 % slower": speech.faster(0.97),
    "5 % faster": speech.faster(1.05),
    "moved by 3.7 ms": lambda x: np.pad(x, (59, 0)),
    "two microphones mixed": lambda x: (x + np.pad(x, (5, 0))[: len(x)]) / 2,
    "twice coded": lambda x: speech.coded("OGG", "VORBIS", 22_050, 1.0)(
        speech.coded("MP3", "MPEG_LAYER_III", 24_000, 0.99)(x)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_inside_a_longer_recording_is_found_where_it_is(two_cities: Samples, change: str) -> None:
    copy = CHANGES[change](cut(two_cities, 12.34, 17.34))
    (found,) = compare(two_cities, copy)
    assert (found.first, found.second) == (0, 0)
    start, stop = found.first_s  # what is faint, some changes bury
    assert 12 < start < stop < 17.7
    assert stop - start > 1.4
    assert found.first_s[0] - found.second_s[0] == pytest.approx(12.34, abs=0.3)


@pytest.mark.parametrize("change", CHANGES)
def test_and_also_where_it_is_surrounded_by_other_speech(recordings: dict[str, Samples], change: str) -> None:
    other = recordings["test"]
    whole = CHANGES[change](joined(cut(other, 3, 7), cut(recordings["aepyx"], 20.2, 24.2), cut(other, 9, 14)))
    (found,) = compare(whole, recordings["aepyx"])
    assert found.second_s[0] == pytest.approx(20.2, abs=0.8)
    assert found.first_s[0] == pytest.approx(4, abs=0.8)


@pytest.mark.parametrize(
    ("change", "least"),
    [(speech.faster(1.05), 11), (speech.music(0), 12), (speech.noise(0), 12)],
    ids=["5 % faster", "music at 0 dB", "noise at 0 dB"],
)
def test_what_is_only_faintly_alike_is_found_because_it_lasts(
    two_cities: Samples, change: speech.Change, least: int
) -> None:
    starts = range(1, 40, 3)  # 13 stretches of four seconds
    found = [compare(change(cut(two_cities, start, start + 4)), two_cities) for start in starts]
    assert sum(len(each) for each in found) >= least


@pytest.mark.parametrize(("start", "length"), [(3.1, 0.5), (20.0, 0.7), (8.2, 0.9), (30.5, 1.2), (24.0, 2.0)])
def test_short_clips_are_found_from_either_side(two_cities: Samples, start: float, length: float) -> None:
    clip = speech.coded("MP3", "MPEG_LAYER_III")(cut(two_cities, start, start + length))
    (found,) = compare(clip, two_cities)
    assert found.second_s[0] == pytest.approx(start, abs=0.3)
    (found,) = compare(two_cities, clip)
    assert found.first_s[0] == pytest.approx(start, abs=0.3)


def test_clips_that_overlap_at_their_ends_only(two_cities: Samples) -> None:
    (found,) = compare(cut(two_cities, 5, 15), speech.coded("OGG", "OPUS")(cut(two_cities, 12, 25)))
    assert found.first_s == pytest.approx((7, 10), abs=0.8)
    assert found.second_s == pytest.approx((0, 3), abs=0.8)


def test_recordings_of_the_package_that_are_joined_in_another_one(mfa_data: Path) -> None:
    """Nobody planted this: a file of the aligner's test data is several others, one after the other."""
    from hubpub.corpus.audio import decode, resample

    heard = []
    for name in ("michaelandsickmichael", "acoustic_corpus", "cold_corpus"):
        decoded = decode(mfa_data / f"wav/{name}.wav")
        heard.append(fingerprint(resample(decoded.samples, decoded.rate)))
    assert [(each.first, each.second) for each in shared_audio(heard[:1], heard[1:])] == [(0, 0), (0, 1)]


def test_thousands_of_pairs_without_common_audio_raise_no_alarm(recordings: dict[str, Samples]) -> None:
    names = sorted(recordings)
    heard = [fingerprint(recordings[name]) for name in names]
    pairs = list(combinations(range(len(names)), 2))
    assert len(pairs) > 2500
    found = shared_audio(heard, heard)
    assert {(names[each.first], names[each.second]) for each in found if each.first != each.second} == set()
    assert {each.first for each in found} >= {
        index for index, name in enumerate(names) if len(recordings[name]) > 80_000
    }


def test_parts_of_one_recording_that_follow_each_other_raise_no_alarm(recordings: dict[str, Samples]) -> None:
    whole = recordings["aepyx"]
    parts = [fingerprint(cut(whole, start, start + 4)) for start in range(0, 160, 4)]
    assert shared_audio(parts[::2], parts[1::2]) == []


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        np.zeros(5 * RATE, np.float32),
        np.full(5 * RATE, 0.5, np.float32),
        np.eye(1, 5 * RATE, 2 * RATE, dtype=np.float32)[0],
        (0.3 * np.sin(np.arange(5 * RATE) * 0.2)).astype(np.float32),
    ],
    ids=["empty", "one sample", "silence", "constant", "click", "tone"],
)
def test_what_is_no_speech_is_not_alike(samples: Samples, two_cities: Samples) -> None:
    frames = fingerprint(samples)
    assert frames.shape == (1 + len(samples) // 160, 32)
    assert np.isfinite(frames).all()
    assert compare(samples, two_cities) == compare(two_cities, samples) == []
    assert compare(samples, np.roll(samples, 1000)) == []


def test_the_dialling_tone_before_two_calls_is_not_alike(recordings: dict[str, Samples]) -> None:
    time = np.arange(4 * RATE) / RATE
    tone = 0.1 * (np.sin(2 * np.pi * 350 * time) + np.sin(2 * np.pi * 440 * time)) * (time % 1 < 0.5)
    line = np.random.default_rng(3).standard_normal((2, len(time))) * 1e-3
    calls = [
        joined((tone + line[number]).astype(np.float32), cut(recordings[name], 5, 15))
        for number, name in enumerate(("two_cities", "aepyx"))
    ]
    assert compare(*calls) == []


def test_different_noises_are_not_alike() -> None:
    rng = np.random.default_rng(0)
    heard = [fingerprint(rng.standard_normal(20 * RATE).astype(np.float32)) for _ in range(8)]
    assert shared_audio(heard[:4], heard[4:]) == []


def test_a_fingerprint_does_not_depend_on_the_blocks(two_cities: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fingerprint(two_cities[: 10 * RATE])
    monkeypatch.setattr("hubpub.corpus.fingerprint._BLOCK", 137)
    np.testing.assert_allclose(fingerprint(two_cities[: 10 * RATE]), whole, atol=1e-5)
    assert len(whole) == 10 * FRAMES_PER_SECOND + 1


def test_the_blocks_of_the_search_change_nothing(two_cities: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = np.asarray(soxr.resample(cut(two_cities, 8, 30), RATE, 8000), dtype=np.float32)
    one, other = [fingerprint(two_cities)], [fingerprint(soxr.resample(copy, 8000, RATE).astype(np.float32))]
    whole = shared_audio(one, other)
    monkeypatch.setattr("hubpub.corpus.similar._CHUNK", 50)
    assert shared_audio(one, other) == whole


def test_mapped_fingerprints_are_the_same(two_cities: Samples) -> None:
    prints = [fingerprint(two_cities[:20_000]), np.zeros((0, 32), np.float32), fingerprint(two_cities[:1])]
    for mine, theirs in zip(mapped(iter(prints)), prints, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert [len(each) for each in mapped([np.zeros((0, 32), np.float32)])] == [0]
    assert mapped([]) == []

"""Distances between what voices made: shifts in time, rates, and the files that the audio is kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from measure_fakes import fake_corpus, fake_run

from hubpub.errors import MeasureError
from hubpub.measure.audio import read_audio, write_audio
from hubpub.measure.metrics.log_mel_distance import LogMelDistance
from hubpub.measure.metrics.rtf import Rtf
from hubpub.measure.result import OUTPUTS, RunResult
from hubpub.measure.warp import warped_distance


def plain_warped_distance(a: np.ndarray, b: np.ndarray, band: int) -> float:
    """The textbook's recursion, cell by cell."""
    n = len(a)
    best = np.full((n, n), np.inf)
    for i in range(n):
        for j in range(max(0, i - band), min(n, i + band + 1)):
            cost = float(np.abs(a[i] - b[j]).mean())
            ways = [best[i - 1, j] + cost if i else np.inf, best[i, j - 1] + cost if j else np.inf]
            ways.append(best[i - 1, j - 1] + 2 * cost if i and j else np.inf if i or j else 2 * cost)
            best[i, j] = min(ways)
    return float(best[-1, -1] / (2 * n))


@pytest.mark.parametrize("seed", range(30))
def test_warping_is_that_of_the_textbook(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, band = int(rng.integers(1, 25)), int(rng.integers(0, 30))
    a, b = rng.normal(size=(2, frames, 3)) * 20
    assert warped_distance(a, b, band) == pytest.approx(plain_warped_distance(a, b, band), abs=1e-9)
    assert warped_distance(a, b, 0) == pytest.approx(np.abs(a - b).mean(), abs=1e-9)
    assert warped_distance(a, b, band) <= warped_distance(a, b, 0) + 1e-9


def spoken(folder: Path, *clips: np.ndarray, rate: int = 22_050, name: str = "int8") -> RunResult:
    """A finished run whose outputs are audio, int16."""
    run = fake_run(fake_corpus(["one two"] * len(clips)), name=name, folder=folder)
    (folder / OUTPUTS).mkdir(parents=True, exist_ok=True)
    utterances = []
    for number, (samples, utterance) in enumerate(zip(clips, run.utterances, strict=True)):
        path = f"{OUTPUTS}/{number:05}.000.flac"
        with (folder / path).open("wb") as file:
            write_audio(file, samples, rate)
        made = {"outputs": (path,), "rate": rate, "audio_s": len(samples) / rate}
        utterances.append(utterance.model_copy(update=made))
    return run.model_copy(update={"utterances": tuple(utterances)})


def babble(seconds: float, rate: int = 22_050) -> np.ndarray:
    """Syllables of noise, each with a loudness and a colour of its own."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(round(seconds / 0.1)):
        noise = rng.normal(size=round(0.1 * rate))
        coloured = np.convolve(noise, rng.normal(size=8), mode="same")
        parts.append(coloured * 10 ** rng.uniform(1, 3.5))
    return np.concatenate(parts).clip(-32768, 32767).astype(np.int16)


def distance(run: RunResult, other: RunResult, **options: object) -> float:
    metric = LogMelDistance.model_validate({"metric": "log_mel_distance"} | options)
    (figure,) = metric.measure(run, fake_corpus(["one two"]), other)
    return figure.value


def test_what_is_said_a_little_later_is_not_another_sound(tmp_path: Path) -> None:
    samples = babble(2.0)
    late = np.concatenate([samples[:22_050], np.zeros(2205, dtype=np.int16), samples[22_050:]])
    fp32, slow = spoken(tmp_path / "a", samples, name="fp32"), spoken(tmp_path / "b", late)
    stiff, warped = distance(slow, fp32), distance(slow, fp32, shift_s=0.5)
    assert distance(fp32, fp32, shift_s=0.5) == 0
    assert stiff > 5
    assert warped < stiff / 4
    loud = spoken(tmp_path / "c", (samples // 2).astype(np.int16))
    assert distance(loud, fp32, shift_s=0.5) == pytest.approx(distance(loud, fp32), rel=0.5), "gain is still heard"


def test_speech_that_breaks_off_counts_all_the_same(tmp_path: Path) -> None:
    fp32 = spoken(tmp_path / "a", babble(3.0), name="fp32")
    assert distance(spoken(tmp_path / "b", babble(1.5)), fp32, shift_s=0.3) > 3


def test_rates_are_those_of_the_audio(tmp_path: Path) -> None:
    fp32 = spoken(tmp_path / "a", babble(1.0), name="fp32")
    low = spoken(tmp_path / "b", babble(1.0, 16_000), rate=16_000)
    with pytest.raises(MeasureError, match="different rates: 16000 Hz and 22050 Hz"):
        distance(low, fp32)
    with pytest.raises(MeasureError, match="asked for at 16000 Hz, and the audio has 22050 Hz"):
        distance(fp32, fp32, rate=16_000)
    assert distance(fp32, fp32, rate=22_050) == 0


def test_audio_is_kept_without_loss_and_as_the_same_bytes(tmp_path: Path) -> None:
    samples = np.array([-32768, 32767, 0, 1, -1, 12345] * 2000, dtype=np.int16)
    for name in "ab":
        with (tmp_path / name).open("wb") as file:
            write_audio(file, samples, 22_050)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back, rate = read_audio(tmp_path / "a")
    assert rate == 22_050
    np.testing.assert_array_equal(back, samples)
    (tmp_path / "a").write_bytes(b"fLaC and nothing more")
    with pytest.raises(ValueError, match=r"."):
        read_audio(tmp_path / "a")


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    fp32, run = spoken(tmp_path / "a", babble(1.0), name="fp32"), spoken(tmp_path / "b", babble(1.0))
    (tmp_path / "b" / run.utterances[0].outputs[0]).write_bytes(b"RIFF")
    with pytest.raises(MeasureError, match=r"00000\.000\.flac is missing or damaged"):
        distance(run, fp32)


def test_a_voice_that_speaks_faster_is_not_taken_for_a_slower_one(tmp_path: Path) -> None:
    fp32, run = spoken(tmp_path / "a", babble(2.0), name="fp32"), spoken(tmp_path / "b", babble(1.0))
    figures = Rtf(metric="rtf").measure(run, fake_corpus(["one two"]), fp32)  # both took half a second
    values = {(each.metric, each.against): each.value for each in figures}
    assert values["rtf", None] == pytest.approx(0.5)
    assert values["rtf", "fp32/rtf"] == pytest.approx(0.25)

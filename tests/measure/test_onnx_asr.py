"""The real client on the real Whisper tiny.en and real speech."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import onnx_asr.loader
import pytest
from measure_fakes import digests
from pydantic import ValidationError

from hubpub.corpus.corpus import Corpus
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec
from hubpub.errors import MeasureError
from hubpub.measure.clients.onnx_asr import ModelType, OnnxAsr, _words
from hubpub.measure.measurement import Measurement
from hubpub.measure.metrics.disagreement import Disagreement
from hubpub.measure.metrics.wer import Wer
from hubpub.measure.result import RunResult
from hubpub.measure.run import check_folder, run_client

TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing "
    "before us, we were all going direct to Heaven, we were all going direct the other way--in short, the period was "
    "so far like the present period, that some of its noisiest authorities insisted on its being received, for good "
    "or for evil, in the superlative degree of comparison only."
)


@pytest.fixture(scope="module")
def two_cities(two_cities_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    clip = {"audio": "s/two_cities.wav", "text": TEXT}
    spec = CorpusSpec.model_validate(
        {"role": "evaluation", "defaults": {"source": "LibriVox", "license": "CC0-1.0"}, "clips": [clip]}
    )
    folder = tmp_path_factory.mktemp("two_cities")
    return folder, prepare(spec, {"s/two_cities.wav": two_cities_wav}, folder)


def client(**fields: Any) -> OnnxAsr:
    return OnnxAsr.model_validate({"client": "onnx-asr", "model": "whisper"} | fields)


def transcribe(
    spec: OnnxAsr, folder: Path, corpus: tuple[Path, Corpus], out: Path, files: dict[str, Path] | None = None
) -> tuple[RunResult, float]:
    result = run_client(
        spec, folder, corpus[0], out, lambda _: None, run="fp32", artifacts=digests(folder), files=files or {}
    )
    return result, Wer(metric="wer").measure(result, corpus[1])[0].value


def test_windows_cut_at_silences(whisper_tiny_en: Path, two_cities: tuple[Path, Corpus], tmp_path: Path) -> None:
    result, wer = transcribe(client(segment={"by": "silence"}), whisper_tiny_en, two_cities, tmp_path)
    assert wer <= 0.01
    assert result.utterances[0].segments == 3
    assert result.timings[0].wall_s < 15
    assert result.observed.peak_rss_bytes < 1_500_000_000
    assert "windows of at most 20 s" in result.job.client


def test_with_vad(
    whisper_tiny_en: Path, silero_onnx_dir: Path, two_cities: tuple[Path, Corpus], tmp_path: Path
) -> None:
    spec = client(segment={"by": "vad", "model": "s/any_name.onnx"})
    assert spec.references() == ("s/any_name.onnx",)
    result, wer = transcribe(
        spec, whisper_tiny_en, two_cities, tmp_path, {"s/any_name.onnx": silero_onnx_dir / "silero_vad.onnx"}
    )
    assert wer <= 0.1  # short segments cost tiny.en some words
    assert result.utterances[0].segments > 1
    assert result.job.files.keys() == {"s/any_name.onnx"}
    assert str(silero_onnx_dir) not in (tmp_path / "job.json").read_text()


def test_long_audio_is_scored_by_section(
    whisper_tiny_en: Path, silero_onnx_dir: Path, two_cities: tuple[Path, Corpus], tmp_path: Path
) -> None:
    """Nobody told when each word is spoken: the segments of the reference run do."""
    cut, _ = transcribe(client(segment={"by": "silence"}), whisper_tiny_en, two_cities, tmp_path / "cut")
    vad = client(segment={"by": "vad", "model": "s/vad.onnx"})
    files = {"s/vad.onnx": silero_onnx_dir / "silero_vad.onnx"}
    by_vad, _ = transcribe(vad, whisper_tiny_en, two_cities, tmp_path / "vad", files)
    short, _ = transcribe(client(language="en"), whisper_tiny_en, two_cities, tmp_path / "short")
    for result in (cut, by_vad):
        assert result.utterances[0].pieces
        assert len(result.utterances[0].pieces) == result.utterances[0].segments
        assert result.utterances[0].pieces[-1].end == pytest.approx(44.4, abs=3)
    assert short.utterances[0].pieces is None

    def rates(result: RunResult, metric: Wer | Disagreement) -> dict[str | None, Measurement]:
        return {each.subset: each for each in metric.measure(result, two_cities[1], cut) if each.against is None}

    strata = {"strata": ["section"], "section_s": 15, "per_clip": False}
    names = [None, "section:0-15 s", "section:15-30 s", "section:30-45 s"]
    for metric in (
        Wer.model_validate({"metric": "wer"} | strata),
        Disagreement.model_validate({"metric": "disagreement"} | strata),
    ):
        found = rates(short, metric)
        assert list(found) == names
        assert sum(found[name].n for name in names[1:]) == found[None].n
        assert found["section:0-15 s"].value < 0.1
        assert found["section:30-45 s"].value > 0.9  # the loader cuts off what comes after 30 s
        good = rates(by_vad, metric)
        assert max(good[name].value for name in names) < 0.25


def test_one_pass_loses_what_comes_after_30_s(
    whisper_tiny_en: Path, two_cities: tuple[Path, Corpus], tmp_path: Path
) -> None:
    result, wer = transcribe(client(language="en"), whisper_tiny_en, two_cities, tmp_path)
    assert "comparison" not in (result.utterances[0].text or "")
    assert wer > 0.2
    assert "language en" in result.job.client


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_a_release_that_confuses_the_loader_is_refused(whisper_tiny_en: Path, tmp_path: Path) -> None:
    release = copied(whisper_tiny_en, tmp_path / "release")
    check_folder(client(), release, run="fp32")
    (release / "sharded").mkdir()
    shutil.copy(release / "encoder_model.onnx", release / "sharded" / "encoder_model.onnx")
    with pytest.raises(MeasureError, match=r"^run fp32: MoreThanOneModelFileFoundError: .*encoder_model\.onnx"):
        check_folder(client(), release, run="fp32")


def test_both_spellings_of_a_quantization_are_refused(whisper_tiny_en: Path, tmp_path: Path) -> None:
    release = copied(whisper_tiny_en, tmp_path / "release")
    for name in ("encoder_model", "decoder_model_merged"):
        shutil.move(release / f"{name}.onnx", release / f"{name}_int8.onnx")
    check_folder(client(quantization="int8"), release, run="int8")
    shutil.copy(release / "encoder_model_int8.onnx", release / "encoder_model.int8.onnx")
    with pytest.raises(MeasureError, match="MoreThanOneModelFileFound"):
        check_folder(client(quantization="int8"), release, run="int8")


@pytest.mark.parametrize("name", ["vocab.json", "encoder_model.onnx", "decoder_model_merged.onnx"])
def test_a_missing_or_damaged_file_is_named(whisper_tiny_en: Path, tmp_path: Path, name: str) -> None:
    release = copied(whisper_tiny_en, tmp_path / "release")
    (release / name).write_bytes(b"{")
    with pytest.raises(MeasureError, match=r"^run fp32: \w+: ") as caught:
        check_folder(client(), release, run="fp32")
    assert "\n" not in str(caught.value)
    (release / name).unlink()
    with pytest.raises(MeasureError, match=rf"^run fp32: ModelFileNotFoundError: .*{name}"):
        check_folder(client(), release, run="fp32")


def test_a_vad_that_no_source_holds(whisper_tiny_en: Path, two_cities: tuple[Path, Corpus], tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"^run fp32: no source holds s/vad\.onnx"):
        transcribe(client(segment={"by": "vad", "model": "s/vad.onnx"}), whisper_tiny_en, two_cities, tmp_path)
    with pytest.raises(MeasureError, match=r"^run fp32: no source holds s/vad\.onnx"):
        check_folder(client(segment={"by": "vad", "model": "s/vad.onnx"}), whisper_tiny_en, run="fp32")


def test_the_model_types_are_those_that_onnx_asr_loads_from_a_folder() -> None:
    known = [*get_args(onnx_asr.loader.AsrTypeNames), *get_args(onnx_asr.loader.AsrNames)]
    ours = get_args(ModelType)
    assert set(ours) <= set(known)
    # Left out: names of single repos whose type is in the list too.
    assert all(name.startswith(("nemo-", "alphacep/", "t-tech/", "whisper-base")) for name in set(known) - set(ours))


@pytest.mark.parametrize(
    "bad", [{"model": "whisper-large"}, {"quantization": "../x"}, {"language": "English"}, {"x": 1}]
)
def test_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        client(**bad)


@pytest.mark.parametrize(
    ("text", "tokens", "times", "expected"),
    [
        ("one two", [" one", " t", "wo"], [0.1, 0.5, 0.7], [("one", 5.1, 5.5), ("two", 5.5, 9)]),
        ("one two", [" one t", "wo"], [0.1, 0.7], [("one", 5.1, 5.1), ("two", 5.1, 9)]),
        ("one", [" one"], [99.0], [("one", 9, 9)]),  # a time beyond the window
        ("one two", [" one", " three"], [0.1, 0.5], [("one two", 5, 9)]),  # tokens that spell something else
        ("one two", None, None, [("one two", 5, 9)]),  # a model without times
        ("", [], [], []),
    ],
)
def test_words_have_the_times_of_their_tokens(
    text: str, tokens: list[str] | None, times: list[float] | None, expected: list[tuple[str, float, float]]
) -> None:
    found = _words(text, tokens, times, 5.0, 9.0)
    assert [(each.text, each.start, each.end) for each in found] == expected


def test_times_of_words_are_not_asked_of_a_vad() -> None:
    with pytest.raises(ValidationError, match="leave out word_times"):
        OnnxAsr.model_validate(
            {
                "client": "onnx-asr",
                "model": "whisper",
                "word_times": True,
                "segment": {"by": "vad", "model": "s/m.onnx"},
            }
        )
    plain = OnnxAsr.model_validate({"client": "onnx-asr", "model": "whisper"})
    assert "word_times" not in plain.model_dump(mode="json"), "runs that do not ask keep their keys"

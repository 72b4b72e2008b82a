"""A real voice through the real loader."""

from __future__ import annotations

import json
import os
import re
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measure_fakes import digests, fake_corpus

from hubpub.corpus.corpus import Corpus
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec
from hubpub.errors import MeasureError
from hubpub.measure.audio import read_audio
from hubpub.measure.clients.piper import Piper
from hubpub.measure.clients.round_trip import RoundTrip
from hubpub.measure.metrics.log_mel_distance import LogMelDistance
from hubpub.measure.metrics.rtf import Rtf
from hubpub.measure.run import library_versions, run_client
from hubpub.recipe import load_recipe, read_lock
from hubpub.source import SourceContext
from hubpub.store import Store

pytest.importorskip("piper", reason="the extra tts is not installed")

RECIPE = Path(__file__).parents[2] / "recipes" / "piper-joe.yaml"
TEXTS = ("Good morning.", "Turn left at the bridge.")


@pytest.fixture(scope="module")
def voice(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``joe.onnx`` and ``joe.onnx.json``."""
    loaded, lock = load_recipe(RECIPE), read_lock(RECIPE)
    assert lock is not None
    folder, locked = tmp_path_factory.mktemp("voice"), lock.sources["voice"]
    context = SourceContext(shared_store, loaded.folder)
    loaded.recipe.sources["voice"].fetch(locked, list(locked.files), context, lambda _: None)
    for path, pin in locked.files.items():
        if ".onnx" in path:
            name = Path(path).name.replace("en_US-joe-medium", "joe")
            (folder / name).symlink_to(shared_store.path(pin.sha256))
    return folder


def prompts(folder: Path, texts: Sequence[str] = TEXTS) -> Path:
    spec = CorpusSpec.model_validate(
        {
            "role": "evaluation",
            "defaults": {"source": "tests", "license": "CC0-1.0"},
            "prompts": [{"text": text} for text in texts],
        }
    )
    prepare(spec, {}, folder)
    return folder


def piper(**fields: Any) -> Piper:
    return Piper.model_validate({"client": "piper", "model": "joe.onnx"} | fields)


def test_a_run_says_the_same_as_piper_itself_and_the_same_every_time(voice: Path, tmp_path: Path) -> None:
    from piper import PiperVoice, SynthesisConfig

    corpus = prompts(tmp_path / "corpus")
    heard: list[float] = []
    artifacts = digests(voice)
    first = run_client(piper(), voice, corpus, tmp_path / "a", heard.append, run="a", artifacts=artifacts)
    shared, alone = (
        run_client(
            piper(), voice, corpus, tmp_path / str(jobs), id, run="a", artifacts=artifacts, timed=False, jobs=jobs
        )
        for jobs in (2, 1)
    )
    assert shared.utterances == alone.utterances
    assert heard == [0, len(TEXTS[0]), len(TEXTS[1])]
    theirs = PiperVoice.load(voice / "joe.onnx")
    for text, utterance in zip(TEXTS, first.utterances, strict=True):
        (name,) = utterance.outputs
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
        samples, rate = read_audio(tmp_path / "a" / name)
        with wave.open(str(tmp_path / "theirs.wav"), "wb") as file:
            theirs.synthesize_wav(text, file, SynthesisConfig(noise_scale=0, noise_w_scale=0))
        with wave.open(str(tmp_path / "theirs.wav")) as file:
            expected = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
        assert rate == utterance.rate == 22_050
        assert utterance.audio_s == pytest.approx(len(samples) / rate)
        assert len(samples) == len(expected)
        assert np.abs(samples.astype(int) - expected).max() <= 8, "other threads round otherwise"
    loaded = Corpus.load(corpus)
    assert [each.metric for each in Rtf(metric="rtf").measure(first, loaded)] == ["rtf", "rtfx"]
    (figure,) = LogMelDistance(metric="log_mel_distance", shift_s=0.5).measure(first, loaded, alone)
    assert figure.value < 0.1
    assert figure.n == 2
    assert "without noise" in figure.client


def test_noise_depends_on_the_seed_and_on_nothing_that_was_said_before(voice: Path) -> None:
    def say(seed: int, *texts: str) -> list[np.ndarray]:
        loaded = piper(noise="voice", seed=seed).load(voice, {})
        return [np.asarray(loaded.run(text).arrays[0]) for text in texts]

    _, second = say(1, *TEXTS)
    (alone,) = say(1, TEXTS[1])
    (other,) = say(2, TEXTS[1])
    np.testing.assert_array_equal(second, alone)
    assert not np.array_equal(other, second)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, r"joe\.onnx is without its configuration joe\.onnx\.json; publish the voice's"),
        ("{", r"joe\.onnx\.json is no JSON"),
        ("[]", r"joe\.onnx\.json is no configuration of a Piper voice"),
        ({"audio": {}}, r"'sample_rate' is missing"),
        ({"num_speakers": None}, r"'num_speakers' is missing"),
        ({"audio": {"sample_rate": 100}}, r"says 100 samples per second; a voice has 8000 to 192000"),
        ({"audio": {"sample_rate": "22050"}}, r"says '22050' samples per second"),
    ],
)
def test_a_bad_configuration_is_one_line(voice: Path, tmp_path: Path, config: Any, said: str) -> None:
    os.link((voice / "joe.onnx").resolve(), tmp_path / "joe.onnx")
    if isinstance(config, str):
        (tmp_path / "joe.onnx.json").write_text(config)
    elif config is not None:
        whole = json.loads((voice / "joe.onnx.json").read_text()) | config
        whole = {key: value for key, value in whole.items() if value is not None}
        (tmp_path / "joe.onnx.json").write_text(json.dumps(whole))
    with pytest.raises(MeasureError) as caught:
        piper().load(tmp_path, {})
    assert re.search(said, str(caught.value))


def test_a_voice_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"there is no joe\.onnx"):
        piper().load(tmp_path, {})


def test_who_listens_to_prompts_and_who_speaks_without_text_is_told(
    voice: Path, tmp_path: Path, speech: tuple[Path, Corpus], mel_model: Callable[..., Path]
) -> None:
    from hubpub.measure.clients.ort import OnnxRuntime

    ear = OnnxRuntime(client="onnxruntime", model="model.onnx", features="nemo80")
    with pytest.raises(MeasureError, match="clip 001: there is no audio to listen to; give the run a corpus of audio"):
        run_client(ear, mel_model(), prompts(tmp_path / "c"), tmp_path / "out", lambda _: None, run="ear", artifacts={})
    with pytest.raises(MeasureError, match="clip clip0: there is no text to say"):
        run_client(piper(), voice, speech[0], tmp_path / "out2", lambda _: None, run="joe", artifacts={})


def test_a_library_that_is_not_installed_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata
    from email.message import Message

    extras = Message()
    extras["Provides-Extra"] = "asr"
    extras["Provides-Extra"] = "tts"
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=2", 'Piper_TTS>=1.8; extra == "tts"'])
    monkeypatch.setattr(metadata, "metadata", lambda _: extras)

    def gone(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", gone)
    with pytest.raises(MeasureError) as caught:
        library_versions("piper-tts")
    assert str(caught.value) == "piper-tts is not installed; pip install 'hubpub[tts]'"
    with pytest.raises(MeasureError, match="other is not installed; pip install other"):
        library_versions("other")


def test_a_round_trip_says_who_listens_and_what_it_reads() -> None:
    trip = RoundTrip.model_validate(
        {
            "client": "round-trip",
            "voice": {"client": "piper", "model": "joe.onnx"},
            "ear": {"client": "onnx-asr", "model": "whisper"},
            "ear_files": {"encoder_model.onnx": "whisper/e.onnx", "vocab.json": "whisper/v.json"},
            "threads": 3,
        }
    )
    assert trip.opens() == ("joe.onnx", "joe.onnx.json")
    assert trip.references() == ("whisper/e.onnx", "whisper/v.json")
    assert trip.describe() == (
        "Piper joe.onnx, without noise, heard by onnx-asr whisper, no suffix, greedy, clips in one pass (files of "
        "whisper), 3 threads"
    )
    with pytest.raises(ValueError, match="inside"):
        RoundTrip.model_validate(trip.model_dump() | {"ear_files": {"../x": "whisper/e.onnx"}})


def test_prompts_have_a_digest_of_their_own(tmp_path: Path) -> None:
    texts = (["a b"], ["a c"], ["a b", "a c"])
    corpora = [Corpus.load(prompts(tmp_path / str(number), each)) for number, each in enumerate(texts)]
    assert len({corpus.digest for corpus in (*corpora, fake_corpus(["a b"]))}) == 4
    assert [clip.id for clip in corpora[2].clips] == ["001", "002"]
    assert corpora[2].recorded == ()

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.corpus.audio import Samples, decode, resample
from hubpub.corpus.features import Fbank, Features, nemo_log_mel, whisper_log_mel

LENGTHS = (399, 400, 559, 560, 16_000, 16_079, 16_080, 99_999)


@pytest.fixture(scope="module")
def speech(two_cities_wav: Path) -> Samples:
    decoded = decode(two_cities_wav)
    return resample(decoded.samples, decoded.rate)


def reference(fbank: Fbank, samples: Samples) -> Features:
    """kaldi-native-fbank's."""
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = fbank.window
    options.frame_opts.snip_edges = fbank.snip_edges
    options.frame_opts.preemph_coeff = fbank.preemphasis
    options.frame_opts.samp_freq = 16_000
    options.mel_opts.num_bins = fbank.mels
    options.mel_opts.low_freq = fbank.low_hz
    options.mel_opts.high_freq = fbank.high_hz
    options.energy_floor = 0
    computed = knf.OnlineFbank(options)
    computed.accept_waveform(16_000, (samples * fbank.scale).tolist())
    computed.input_finished()
    frames = [computed.get_frame(number) for number in range(computed.num_frames_ready)]
    return np.array(frames, dtype=np.float32).reshape(len(frames), fbank.mels)


FBANKS = [
    Fbank(),
    Fbank(scale=32768),
    Fbank(snip_edges=False),
    Fbank(window="hamming", scale=32768),
    Fbank(window="hanning", mels=40, low_hz=60, high_hz=-400, preemphasis=0.9),
    Fbank(mels=23, low_hz=100, high_hz=7600, snip_edges=False),
]


@pytest.mark.parametrize("fbank", FBANKS, ids=str)
def test_filter_banks_are_kaldis(fbank: Fbank, speech: Samples) -> None:
    for length in LENGTHS:
        samples = speech[200_000 : 200_000 + length]
        mine, theirs = fbank(samples), reference(fbank, samples)
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=2e-3, rtol=0)  # they compute in float32
        if mine.size:
            assert np.abs(mine - theirs).mean() < 1e-5


def test_filter_banks_of_silence_are_kaldis() -> None:
    silence = np.zeros(8000, np.float32)
    np.testing.assert_allclose(Fbank()(silence), reference(Fbank(), silence), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "fbank"), [("wespeaker", FBANKS[3]), ("kaldi", Fbank(high_hz=-400, snip_edges=False))]
)
def test_filter_banks_are_those_of_onnx_asr(name: str, fbank: Fbank, speech: Samples) -> None:
    from onnx_asr.preprocessors.numpy_preprocessor import KaldiPreprocessorNumpy

    samples = speech[200_000:232_345]
    scaled = samples * np.float32(fbank.scale)
    theirs, lengths = KaldiPreprocessorNumpy(name)(scaled[None], np.array([len(samples)]))
    mine = fbank(samples)
    assert mine.shape == theirs[0].shape
    assert lengths[0] == len(mine)
    np.testing.assert_allclose(mine, theirs[0], atol=2e-3)


def test_the_mean_is_taken_off_over_the_frames(speech: Samples) -> None:
    plain, centred = Fbank()(speech[:50_000]), Fbank(mean=True)(speech[:50_000])
    np.testing.assert_allclose(centred, plain - plain.mean(axis=0), atol=1e-4)
    assert Fbank(mean=True)(speech[:100]).shape == (0, 80)


def onnx_asr_features(kind: Any, name: str, samples: Samples) -> Features:
    features, lengths = kind(name)(samples[None], np.array([len(samples)]))
    cut: Features = features[0][:, : lengths[0]]
    return cut


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("length", [1600, 16_000, 16_161, 99_999])
def test_nemos_features_are_those_of_onnx_asr(mels: int, length: int, speech: Samples) -> None:
    from onnx_asr.preprocessors.numpy_preprocessor import NemoPreprocessorNumpy

    samples = speech[200_000 : 200_000 + length]
    theirs = onnx_asr_features(NemoPreprocessorNumpy, f"nemo{mels}", samples)
    mine = nemo_log_mel(samples, mels)
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, atol=2e-3)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("length", [1, 16_000, 480_000, 700_000])
def test_whispers_features_are_those_of_onnx_asr(mels: int, length: int, speech: Samples) -> None:
    from onnx_asr.preprocessors.numpy_preprocessor import WhisperPreprocessorNumpy

    samples = speech[:length]
    theirs = onnx_asr_features(WhisperPreprocessorNumpy, f"whisper{mels}", samples)
    mine = whisper_log_mel(samples, mels)
    assert mine.shape == theirs.shape == (mels, 3000)
    np.testing.assert_allclose(mine, theirs, atol=2e-3)


def test_blocks_change_nothing(speech: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = speech[:160_000]
    whole = Fbank()(samples), nemo_log_mel(samples), whisper_log_mel(samples)
    monkeypatch.setattr("hubpub.corpus.features._BLOCK", 61)
    for mine, theirs in zip((Fbank()(samples), nemo_log_mel(samples), whisper_log_mel(samples)), whole, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_a_wrong_front_end_is_far_off(speech: Samples) -> None:
    """The tolerances above tell a front end from its neighbours."""
    samples = speech[200_000:260_000]
    right = Fbank()(samples)
    for wrong in (Fbank(window="hamming"), Fbank(preemphasis=0), Fbank(high_hz=-400), Fbank(low_hz=0), Fbank(scale=2)):
        assert np.abs(wrong(samples) - right).max() > 0.1


REFERENCE = Path(__file__).parents[1] / "data" / "reference_outputs.npz"


@pytest.mark.registry
def test_the_front_end_of_campplus_is_the_one_that_its_weights_were_run_with(pyannote: Path) -> None:
    """Features that PyTorch's Kaldi gave for seconds 7 to 10, from which the reference embedding was computed."""
    decoded = decode(pyannote / "sample.wav", (7, 10))
    with np.load(REFERENCE) as reference:
        np.testing.assert_allclose(
            Fbank(mean=True)(decoded.samples), reference["campplus_sample_7_10s_fbank"], atol=2e-3
        )

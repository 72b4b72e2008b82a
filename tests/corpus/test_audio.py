from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hubpub.corpus.audio import SampleDigest, Samples, decode, resample, samples_sha256
from hubpub.errors import AudioError

RATE = 8000


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray[tuple[int, ...], np.dtype[np.float32]], subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, RATE, subtype=subtype)
    return path


def test_a_real_recording(two_cities_wav: Path) -> None:
    decoded = decode(two_cities_wav)
    assert (decoded.rate, decoded.start, decoded.stop) == (48_000, 0, 2_129_958)
    assert decoded.samples.dtype == np.float32
    assert len(resample(decoded.samples, 48_000)) == 709_986
    assert decoded.samples_sha256 == decoded.file_samples_sha256


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_24"), ("a.wav", "PCM_32"), ("a.wav", "FLOAT"), ("a.wav", "DOUBLE"),
                          ("a.flac", "PCM_16"), ("a.flac", "PCM_24"), ("a.aiff", "PCM_16")],
)  # fmt: skip
def test_reencodings_have_one_digest(two_cities_wav: Path, tmp_path: Path, name: str, subtype: str) -> None:
    crop = (3.0, 5.0)
    original = decode(two_cities_wav, crop)
    soundfile.write(tmp_path / name, original.samples, original.rate, subtype=subtype)
    copy = decode(tmp_path / name)
    assert copy.samples_sha256 == original.samples_sha256
    assert copy.file_samples_sha256 != original.file_samples_sha256


def test_a_changed_sample_or_rate_changes_the_digest() -> None:
    samples = tone()
    louder = samples.copy()
    louder[17] += 1 / 32768
    assert len({samples_sha256(samples, RATE), samples_sha256(louder, RATE), samples_sha256(samples, 16_000)}) == 3


@given(hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(-2, 2, width=32)), st.data())
@settings(max_examples=50, deadline=None)
def test_the_digest_does_not_depend_on_blocks(samples: Samples, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(samples)))
    digest = SampleDigest(RATE)
    digest.update(samples[:cut])
    digest.update(samples[cut:])
    assert digest.hexdigest() == samples_sha256(samples, RATE)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(), tone(hertz=100)
    decoded = decode(write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), "FLOAT"))
    np.testing.assert_allclose(decoded.samples, (left + right) / 2, atol=1e-7)


def test_two_equal_channels_are_the_mono_recording(tmp_path: Path) -> None:
    mono, stereo = tone(), np.stack([tone(), tone()], axis=1)
    digests = {decode(write(tmp_path / f"{i}.wav", x)).samples_sha256 for i, x in enumerate([mono, stereo])}
    assert len(digests) == 1


def test_crops_are_taken_at_the_native_rate_and_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", tone(3.0), "FLOAT")
    whole = decode(path)
    monkeypatch.setattr("hubpub.corpus.audio._BLOCK", 1000)
    part = decode(path, (0.5, 2.25))
    np.testing.assert_array_equal(part.samples, whole.samples[4000:18_000])
    assert (part.start, part.stop) == (4000, 18_000)
    assert part.file_samples_sha256 == whole.samples_sha256


@pytest.mark.parametrize(("name", "subtype"), [("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III"), ("a.opus", "OPUS")])
def test_lossy_formats_are_read(tmp_path: Path, name: str, subtype: str) -> None:
    soundfile.write(tmp_path / name, tone(), RATE, format=None if name != "a.opus" else "OGG", subtype=subtype)
    decoded = decode(tmp_path / name)
    assert abs(len(decoded.samples) / decoded.rate - 1.0) < 0.2
    assert 0.3 < np.abs(decoded.samples).max() < 0.7


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 48_000])
def test_resampling_keeps_a_tone_and_drops_what_16_khz_cannot_hold(rate: int) -> None:
    kept = resample(tone(1.0, rate, 1000.0), rate)
    middle = slice(1000, -1000)
    np.testing.assert_allclose(kept[middle], tone(1.0, 16_000, 1000.0)[: len(kept)][middle], atol=1e-3)
    if rate > 40_000:
        assert np.abs(resample(tone(1.0, rate, 12_000.0), rate)[middle]).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "FLOAT"), ("a.wav", "ULAW"), ("a.flac", "PCM_16"),
     ("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III"), ("a.aiff", "PCM_16"), ("a.w64", "PCM_16"),
     ("a.rf64", "PCM_16"), ("a.au", "PCM_16"), ("a.nist", "PCM_16")],
)  # fmt: skip
def test_truncated_files_are_refused(tmp_path: Path, name: str, subtype: str) -> None:
    path = tmp_path / name
    soundfile.write(path, tone(4.0) + np.random.default_rng(0).normal(0, 0.05, 32_000), RATE, subtype=subtype)
    decode(path)
    data = path.read_bytes()
    # An MP3 cannot tell a lost end of some hundredths of a second from the padding that its decoder drops.
    for part in (0.6, 0.85 if name == "a.mp3" else 0.98):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(AudioError, match=r"a\.\w+: it (is truncated|cannot be decoded)"):
            decode(path)


def test_an_mp3_may_announce_the_padding_that_its_decoder_drops(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(4.0), RATE)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.97)])
    with soundfile.SoundFile(path) as file:
        announced = file.frames
    decoded = decode(path)
    assert announced - 1152 < len(decoded.samples) < announced
    assert decoded.stop == len(decoded.samples)


def without_the_first_frame(path: Path) -> None:
    """Of an MP3: what announces its length is in it."""
    data = path.read_bytes()
    path.write_bytes(data[data.index(data[:2], 2) :])


@pytest.mark.parametrize("loud_first", [False, True])
def test_an_mp3_of_many_bit_rates_without_a_header_is_read_whole_or_refused(tmp_path: Path, loud_first: bool) -> None:
    quiet, loud = np.zeros(6 * RATE), np.random.default_rng(0).uniform(-0.8, 0.8, 6 * RATE)
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.concatenate([loud, quiet] if loud_first else [quiet, loud]), RATE, bitrate_mode="VARIABLE")
    without_the_first_frame(path)
    with soundfile.SoundFile(path) as file:
        assert abs(file.frames / RATE - 12) > 2  # a guess by the first frames
    if loud_first:
        with pytest.raises(AudioError, match=r"it holds \d\.\d s more than it announces"):
            decode(path)
    else:
        assert len(decode(path).samples) / RATE == pytest.approx(12, abs=0.4)
        with pytest.raises(AudioError, match="the crop ends at 14 s, the recording at 12"):
            decode(path, (1, 14))


def test_an_mp3_that_goes_on_after_its_announced_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(4.0), RATE)
    tagged = b"ID3\x03\0\0\0\0\1\0" + bytes(128) + path.read_bytes() + b"TAG" + bytes(125)
    path.write_bytes(tagged)
    assert len(decode(path).samples) == 4 * RATE
    path.write_bytes(tagged * 2)
    with pytest.raises(AudioError, match=r"it holds 4\.\d s more than it announces"):
        decode(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_is_known_by_its_content(tmp_path: Path, subtype: str) -> None:
    """Rows of datasets and files of a store may have no suffix, or that of another format."""
    path = tmp_path / "blob"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)
    soundfile.write(path, noise, RATE, format="OGG", subtype=subtype)
    data = path.read_bytes()
    assert len(decode(path).samples) == 4 * RATE
    path.write_bytes(data[: int(len(data) * 0.8)])
    with pytest.raises(AudioError, match="it is truncated"):
        decode(path)
    path.write_bytes(data * 2)
    with pytest.raises(AudioError, match="another stream after the first, which is not read"):
        decode(path)
    assert len(decode(write(tmp_path / "a.wav", tone()).rename(tmp_path / "a.ogg")).samples) == RATE


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_streamed_wav_that_does_not_know_its_length_is_read(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "a.wav", tone())
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", length)
    path.write_bytes(data)
    assert len(decode(path).samples) == RATE


def test_a_streamed_flac_that_does_not_tell_its_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(40.0), RATE)
    whole = decode(path)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the length has 36 bits, and a digest follows
    data[22:42] = bytes(20)
    path.write_bytes(data)
    assert decode(path).samples_sha256 == whole.samples_sha256
    assert len(decode(path, (1, 39.5)).samples) == 38.5 * RATE
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="it cannot be decoded"):
        decode(path)


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"", "a.wav"), (b"RIFF", "a.wav"), (b"<html>404</html>", "a.wav"), (b"\0" * 500, "a.raw"), (b"\0" * 99, "a.mp3")],
)
def test_what_is_not_audio_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match="it cannot be decoded") as caught:
        decode(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError):
        decode(tmp_path / "none.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    samples = tone()
    samples[100] = bad
    with pytest.raises(AudioError, match="NaN or infinite"):
        decode(write(tmp_path / "a.wav", samples, "FLOAT"))


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no audio"):
        decode(write(tmp_path / "a.wav", tone(0)))


def test_crops_outside_the_recording_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    assert len(decode(path, (0.5, 1.0)).samples) == RATE // 2
    with pytest.raises(AudioError, match=r"ends at 1\.1 s, the recording at 1 s"):
        decode(path, (0.5, 1.1))
    with pytest.raises(AudioError, match="shorter than one sample"):
        decode(path, (0.5, 0.50001))


def test_lengths_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", tone())
    monkeypatch.setattr("hubpub.corpus.audio.MAX_CLIP_SECONDS", 0.5)
    decode(path, (0, 0.4))
    with pytest.raises(AudioError, match="clip is longer"):
        decode(path)
    monkeypatch.setattr("hubpub.corpus.audio.MAX_FILE_SECONDS", 0.9)
    with pytest.raises(AudioError, match="longer than"):
        decode(path, (0, 0.4))


def test_names_beyond_ascii(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone())
    shutil.move(tmp_path / "a.wav", tmp_path / "trñ00 語.wav")
    assert len(decode(tmp_path / "trñ00 語.wav").samples) == RATE


@given(st.binary(max_size=300), st.sampled_from(["wav", "flac", "ogg", "mp3", "aiff", "caf", "au"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_random_bytes_give_samples_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, header: bool
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a.{suffix}"
    if header:
        soundfile.write(path, tone(0.2), RATE)
        whole = bytearray(path.read_bytes())
        whole[4 : 4 + len(data) // 4] = data[: len(data) // 4]
        data = bytes(whole)
    path.write_bytes(data)
    refusal = ""
    try:
        samples = decode(path).samples
    except AudioError as error:
        refusal = str(error)
    assert refusal or (len(samples) > 0 and np.isfinite(samples).all())
    assert "\n" not in refusal

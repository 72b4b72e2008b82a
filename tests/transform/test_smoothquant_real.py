"""SmoothQuant on the real Whisper tiny.en encoder and real speech, beside what users would pick instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from transform.fp16_graphs import session, snr
from transform.int8_graphs import Array

from hubpub.corpus.audio import decode, resample
from hubpub.transform.smoothquant_int8 import SmoothQuantInt8

_SECONDS = (10, 6, 15, 4)  # speech is not always half a minute, and silence after it looks different


class Speech:
    """Features of recordings: windows of 30 s, and shorter ones padded with silence."""

    def __init__(self, recordings: list[Path], *, pieces: bool) -> None:
        from onnx_asr.preprocessors.numpy_preprocessor import WhisperPreprocessorNumpy

        features = WhisperPreprocessorNumpy("whisper80")
        self.windows: list[Array] = []
        for path in recordings:
            decoded = decode(path)
            samples = resample(decoded.samples, decoded.rate)
            for lengths in ((30,), _SECONDS) if pieces else ((30,),):
                start = number = 0
                while len(samples) - start > 32_000:
                    part = samples[start : start + lengths[number % len(lengths)] * 16_000]
                    start, number = start + len(part), number + 1
                    self.windows.append(features(part[None], np.array([len(part)]))[0].astype(np.float32))

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return ({"input_features": window} for window in self.windows)


@pytest.mark.registry
@pytest.mark.slow
def test_it_is_5_db_better_than_dynamic_at_28_percent_of_the_bytes(
    whisper_tiny_en: Path, source_files: Path, two_cities_wav: Path, tmp_path: Path
) -> None:
    from onnxruntime.quantization import quantize_dynamic

    source, target = whisper_tiny_en / "encoder_model.onnx", tmp_path / "out" / "encoder_model_int8.onnx"
    target.parent.mkdir()
    silero = source_files / "silero"
    calibration = Speech([silero / "examples/c++/aepyx.wav", silero / "tests/data/test.wav"], pieces=True)
    step = SmoothQuantInt8(store_fp16=("conv*.weight",))
    facts = step.apply_calibrated(source, target, calibration, None, lambda _: None)
    assert facts["fused"] == {"ops": {"MatMulIntegerToFloat": 24}, "layers": 24, "not_fused": []}
    assert target.stat().st_size <= 0.28 * source.stat().st_size
    peer = tmp_path / "dynamic.onnx"
    quantize_dynamic(str(source), str(peer), per_channel=True, op_types_to_quantize=["MatMul"])
    unheard = Speech([two_cities_wav, source_files / "whisper-cpp/whisper.cpp/samples/jfk.wav"], pieces=False)
    found = []
    for window in unheard:
        expected, ours, theirs = (session(model).run(None, dict(window))[0] for model in (source, target, peer))
        found.append((snr(np.asarray(expected), np.asarray(ours)), snr(np.asarray(expected), np.asarray(theirs))))
    ours_mean, theirs_mean = np.mean(found, axis=0)
    assert ours_mean >= theirs_mean + 5

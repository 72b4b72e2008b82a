"""The real Whisper tiny.en encoder in int8 beside onnxruntime's quantizers at their best, on speech none was shown.

Ours are the candidates of the recipe. quantize_static at its best: unsigned inputs only, weights per channel, products
with weights alone; quantize_dynamic per channel. Calibrated on the same windows; tested on other recordings by other
speakers. What is compared is the encoder's output against float32, and the bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, model_bytes
from int8 import quantize_static

RECIPE = ROOT / "recipes" / "whisper-tiny.en.yaml"
PUBLISHED = "encoder_model_int8.onnx"
OURS = ("float-inputs", "smoothquant")
RATE = 16_000
UNHEARD = ("speech",)
"""Corpora of the recipe that the models are tested on: nothing was calibrated or chosen on them."""


class Speech:
    """Windows of the clips of some corpora of the recipe as features, cut as its calibration is; the same for all."""

    def __init__(self, corpora: Sequence[str], folder: Path) -> None:
        from onnx_asr.preprocessors.numpy_preprocessor import WhisperPreprocessorNumpy

        from hubpub.corpus.audio import decode, resample

        features = WhisperPreprocessorNumpy("whisper80")
        self._windows = []
        for path in recordings(corpora, folder):
            decoded = decode(path)
            samples = resample(decoded.samples, decoded.rate)
            for part in step(OURS[0]).calibrate.segment.windows(samples, RATE):
                self._windows.append(features(part[None], np.array([len(part)]))[0].astype(np.float32))

    def __len__(self) -> int:
        return len(self._windows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"input_features": window} for window in self._windows)


def step(candidate: str) -> Any:
    """The step that makes the recipe's int8 encoder."""
    from hubpub.recipe import load_recipe

    return load_recipe(RECIPE).recipe.rule(PUBLISHED, candidate).chain[-1]


def recordings(corpora: Sequence[str], folder: Path) -> Iterator[Path]:
    """The recipe's locked audio, from the user's store or fetched into it."""
    from hubpub.recipe import load_recipe, read_lock
    from hubpub.source import SourceContext
    from hubpub.store import Store, default_root

    loaded, lock = load_recipe(RECIPE), read_lock(RECIPE)
    assert lock is not None
    names = [clip.audio for corpus in corpora for clip in loaded.recipe.corpora[corpus].clips]
    with Store(default_root()) as store:
        for name in names:
            source, _, path = name.partition("/")
            locked = lock.sources[source]
            context = SourceContext(store, loaded.folder)
            loaded.recipe.sources[source].fetch(locked, [path], context, lambda _: None)
            link = folder / name.replace("/", "-")
            link.symlink_to(store.path(locked.files[path].sha256))
            yield link


def make(peer: str, model: Path, target: Path, windows: Speech) -> None:
    """Quantize with one of the peers."""
    from onnxruntime.quantization import quantize_dynamic

    if peer in OURS:
        step(peer).apply_calibrated(model, target, windows, None, lambda _: None)
    elif peer == "quantize_dynamic":
        quantize_dynamic(str(model), str(target), per_channel=True, op_types_to_quantize=["MatMul"])
    else:
        quantize_static(model, target, windows)


def snr(model: Path, made: Path, windows: Speech) -> list[float]:
    """Of the output of each window, dB."""
    import onnxruntime

    before, after = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (model, made))
    found = []
    for window in windows:
        expected, got = (np.asarray(session.run(None, window)[0], np.float64) for session in (before, after))
        found.append(float(10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum())))
    return found


def main() -> None:
    """Compare, print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "dist" / "whisper-tiny.en" / "encoder_model.onnx"
    parser.add_argument("--encoder", type=Path, default=default, help="default: that of the built recipe")
    options = parser.parse_args()
    if not options.encoder.exists():
        parser.error(f"{options.encoder} is not there: run `hubpub build {RECIPE.name}`, or give --encoder")
    peers = (*OURS, "quantize_static", "quantize_dynamic")
    results: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration, unheard = Speech((step(OURS[0]).calibrate.corpus,), folder), Speech(UNHEARD, folder)
        for peer in peers:
            target = folder / peer / "m.onnx"
            target.parent.mkdir()
            make(peer, options.encoder, target, calibration)
            results[peer], sizes[peer] = snr(options.encoder, target, unheard), model_bytes(target)
    whole = model_bytes(options.encoder)
    mean = {peer: round(float(np.mean(found)), 2) for peer, found in results.items()}
    for peer in peers:
        worst = min(results[peer])
        print(f"{peer:18} {mean[peer]:6.2f} dB (least {worst:.2f})   {sizes[peer] / whole:.3f} of the bytes")
    best = max(mean["quantize_static"], mean["quantize_dynamic"])
    line = {
        "name": "int8 quality",
        "ours": {peer: mean[peer] for peer in OURS},
        "peer": {peer: mean[peer] for peer in peers if peer not in OURS},
        "ratio": {"db_over_better_peer": {peer: round(mean[peer] - best, 2) for peer in OURS}},
        "units": "dB, SNR of the encoder's output against float32, mean over windows of recordings nobody was shown",
        "sizes": {
            "share_of_model": {peer: round(size / whole, 3) for peer, size in sizes.items()},
            "calibration_windows": len(calibration),
            "test_windows": len(unheard),
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()

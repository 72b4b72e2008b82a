"""What comes from random weights is marked all the way: artifact, measurement, manifest, first line of the card."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hubpub.build import build
from hubpub.onnxfile.marks import is_synthetic
from hubpub.report import Silent
from hubpub.store import Store

ROOT = Path(__file__).parents[2]

RECIPE = """
version: 1
name: parakeet-stand-in
sources:
  upstream: {path: upstream, include: ["*.onnx", "*.onnx.data", "*.txt", "*.json"]}
  audio: {path: audio}
files:
  encoder-model.onnx: upstream/encoder-model.onnx
  encoder-model.onnx.data: upstream/encoder-model.onnx.data
  encoder-model.fp16.onnx: {from: upstream/encoder-model.onnx, chain: [{transform: fp16}]}
  decoder_joint-model.onnx: upstream/decoder_joint-model.onnx
  decoder_joint-model.fp16.onnx: {from: upstream/decoder_joint-model.onnx, chain: [{transform: fp16}]}
  nemo128.onnx: upstream/nemo128.onnx
  vocab.txt: upstream/vocab.txt
  config.json: upstream/config.json
  sharded/encoder-model.onnx:
    from: upstream/encoder-model.onnx
    chain: [{transform: shard, max_bytes: 2 MB}]
corpora:
  speech:
    role: evaluation
    clips: [{audio: audio/two_cities.wav, crop: [0, 15], source: LibriVox, license: public domain}]
measure:
  fp32:
    files: ["*-model.onnx", encoder-model.onnx.data, vocab.txt, config.json]
    via: {client: onnx-asr, model: nemo-conformer-tdt}
    corpus: speech
    metrics: [rtf]
  fp16:
    files: ["*.fp16.onnx", vocab.txt, config.json]
    via: {client: onnx-asr, model: nemo-conformer-tdt, quantization: fp16}
    corpus: speech
    metrics: [disagreement]
    reference: fp32
card: {template: speech, title: Stand-in, summary: A test., license: cc-by-4.0, language: [en]}
"""


@pytest.mark.slow
def test_a_stand_in_passes_for_nothing_else(two_cities_wav: Path, tmp_path: Path) -> None:
    project = tmp_path / "project" / "recipes"
    (project / "audio").mkdir(parents=True)
    shutil.copyfile(two_cities_wav, project / "audio" / "two_cities.wav")
    shutil.copytree(ROOT / "templates", project / "templates")
    script = ROOT / "tests" / "standins" / "parakeet.py"
    command = [sys.executable, str(script), "--out", str(project / "upstream"), "--scale", "tiny", "--no-int8"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (project / "stand-in.yaml").write_text(RECIPE)
    with Store(tmp_path / "store") as store:
        built = build(project / "stand-in.yaml", store, Silent(), output=tmp_path / "dist")
    assert built.manifest.synthetic
    assert built.manifest.all_measurements()
    assert all(each.synthetic for each in built.manifest.all_measurements())
    models = [path for path in built.manifest.files if path.endswith(".onnx")]
    assert len(models) == 6
    assert all(is_synthetic(built.folder / path) for path in models)
    _, front, body = (built.folder / "README.md").read_text("utf-8").split("---\n", 2)
    assert "- synthetic" in front
    assert body.strip().startswith("> **Synthetic.**")

"""A small recipe that uses everything, and what is wrong with it after a change."""

from __future__ import annotations

from pathlib import Path

from hubpub.errors import RecipeError
from hubpub.recipe import load_recipe

BASE = """\
version: 1
name: demo
sources:
  weights: {path: data, include: [model.bin, "*.wav"]}
  package:
    pypi: some-package
    version: "1.0"
    include: [a/*]
steps:
  convert:
    script: convert.py
    inputs:
      model.bin: weights/model.bin
    args: [--bits, "8"]
    outputs: [model.onnx, vocab.json]
files:
  model.onnx: convert/model.onnx
  vocab.json: convert/vocab.json
  sharded/model.onnx:
    from: convert/model.onnx
    with: [package/a/side.bin]
    chain:
      - {transform: shard, max_bytes: 16 MB, naming: single}
corpora:
  speech:
    role: evaluation
    defaults: {source: tests, license: MIT}
    clips:
      - {audio: weights/a.wav, text: one two three four}
      - {audio: weights/b.wav, text_from: package/a/b.txt}
  written:
    role: evaluation
    defaults: {source: tests, license: MIT}
    clips:
      - {audio: weights/c.wav, text: one two three four five}
  silent:
    role: evaluation
    defaults: {source: tests, license: MIT}
    clips:
      - {audio: weights/d.wav}
  tuning:
    role: calibration
    defaults: {source: tests, license: MIT}
    clips:
      - {audio: weights/e.wav}
measure:
  fp32:
    files: [model.onnx, "*.json"]
    via: {client: onnx-asr, model: whisper, language: en, segment: {by: silence, max_s: 28}}
    corpus: speech
    metrics: [wer, rtf]
  sharded:
    files: [sharded/*]
    via: {client: onnx-asr, model: whisper}
    corpus: speech
    metrics: [{metric: wer, normalizer: none}, disagreement]
    reference: fp32
  encoder:
    files: ["model.*"]
    via: {client: onnxruntime, model: model.onnx, features: whisper80}
    corpus: speech
    metrics: [latency]
  small:
    files: [model.onnx]
    via: {client: onnx-asr, model: whisper}
    corpus: written
    metrics: [cer, wer]
gates:
  - {measure: fp32/wer, max: 0.5, min_n: 4}
  - {measure: sharded/wer, against: fp32/wer, max: 0.9}
  - {measure: small/wer, max: 0.5}
card:
  template: plain
  title: Demo
  summary: A demo.
  license: mit
  language: [en]
"""


def write_recipe(folder: Path, text: str | bytes) -> Path:
    """A folder with what `BASE` refers to, and ``text`` as its recipe."""
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    (folder / "templates" / "plain.md.j2").write_text("card")
    (folder / "convert.py").write_text("script")
    (folder / "convert.requirements.txt").write_text("requirements")
    path = folder / "demo.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(folder: Path, text: str | bytes) -> list[str]:
    """Every line that the user reads, without the name of the file; none if the recipe is accepted."""
    path = write_recipe(folder, text)
    try:
        load_recipe(path)
    except RecipeError as error:
        return lines_of(error, path)
    return []


def lines_of(error: RecipeError, path: Path) -> list[str]:
    """The lines of ``error`` without the name of the file, after a look at whether they are readable."""
    lines = str(error).split("\n")
    assert lines == [str(problem) for problem in error.problems]
    assert all(line.startswith(f"{path}:") and line.isprintable() for line in lines)
    return [line.removeprefix(f"{path}:").lstrip() for line in lines]


def changed(old: str, new: str, text: str = BASE) -> str:
    """`BASE` with its only ``old`` replaced."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the recipe"
    return text.replace(old, new)

# ruff: noqa: E501 (a mistake and its line are read side by side)
"""Runs that speak: what a recipe gets told when their corpus, files or gates cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_tools import BASE, changed, problems

VOICED = changed(
    "measure:\n",
    """\
  said:
    role: evaluation
    defaults: {source: tests, license: MIT}
    prompts:
      - {text: One two three.}
      - {text: Four five six., id: last}
measure:
  voice:
    files: [model.onnx, model.onnx.json]
    via:
      client: round-trip
      voice: {client: piper, model: model.onnx}
      ear: {client: onnx-asr, model: whisper}
      ear_files: {encoder_model.onnx: convert/model.onnx}
    corpus: said
    metrics: [wer, peak_rss]
    audio: [last]
""",
    changed(
        "  vocab.json: convert/vocab.json\n",
        "  vocab.json: convert/vocab.json\n  model.onnx.json: convert/vocab.json\n",
    ),
)


def test_a_recipe_with_a_voice_is_fine(tmp_path: Path) -> None:
    assert problems(tmp_path, BASE) == []
    assert problems(tmp_path, VOICED) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("corpus: said", "corpus: silent", "measure.voice.corpus: the client 'round-trip' says texts, and 'silent' has none"),
        ("    corpus: written\n", "    corpus: said\n", "measure.small.corpus: 'said' holds prompts, and the client 'onnx-asr' listens"),
        ("audio: [last]", "audio: [lost]", "measure.voice.audio[0]: 'said' has no prompt 'lost'; did you mean 'last'?"),
        ("[model.onnx, model.onnx.json]", "[model.onnx]", "measure.voice.via.model: 'model.onnx.json' is not among the files"),
        ("encoder_model.onnx: convert/m", "encoder_model.onnx: convrt/m", "measure.voice.via: there is no source or step 'convrt'"),
        ("[wer, peak_rss]", "[der]", "measure.voice.metrics[0]: der needs speaker turns, and the client 'round-trip' makes none"),
        ("text: One two three.", "text: '...'", "corpora.said.prompts[0].text: a prompt without letters and numbers"),
        ("text: One two three.", "id: x", "corpora.said.prompts[0].text: is missing"),
        ("- {measure: small/wer, max: 0.5}", "- {measure: voice/wer, max: 0.5, min_n: 7}", "gates[2]: can never pass"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    found = problems(tmp_path, changed(old, new, VOICED))
    assert [line for line in found if said in line], found


def test_a_run_is_not_called_as_the_lines_of_another(tmp_path: Path) -> None:
    found = problems(tmp_path, VOICED.replace("  small:\n", "  small.jsonl:\n").replace("small/wer", "small.jsonl/wer"))
    assert [line for line in found if "ends in .jsonl" in line], found

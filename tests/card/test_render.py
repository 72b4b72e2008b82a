"""Templates are written by strangers: what they may do, and how they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hubpub.card import render_card
from hubpub.corpus.corpus import Corpus
from hubpub.errors import ReleaseError
from hubpub.gate import GateSpec, Verdict
from hubpub.manifest import FileRecord, Manifest, Observed
from hubpub.measure.measurement import Machine, Measurement

CARD: dict[str, Any] = {
    "title": "A model",
    "summary": "It says {{ measured['fp32/wer'] }}.",
    "sections": {},
    "license": "cc-by-4.0",
    "language": ["en", "no"],
    "base_model": ["owner/name"],
    "base_model_relation": "quantized",
    "library_name": "onnx",
    "pipeline_tag": "automatic-speech-recognition",
    "tags": ["a: b", "#c"],
}


def measured(**fields: Any) -> Measurement:
    machine = Machine(cpu="a cpu", kernels="avx2", cores=2, system="Linux x86_64")
    values = {"run": "fp32", "metric": "wer", "value": 0.0374, "unit": "ratio", "n": 119, "n_unit": "words"}
    values |= {
        "low": 0.01,
        "high": 0.07,
        "interval": "bootstrap",
        "corpus": "0" * 64,
        "artifacts": {"m.onnx": "1" * 64},
    }
    values |= {"client": "a client", "versions": {"lib": "1.0"}, "machine": machine, "normalizer": "basic"}
    return Measurement.model_validate({**values, **fields})


def manifest(**fields: Any) -> Manifest:
    gate = GateSpec(measure="fp32/wer", max=0.05)
    values: dict[str, Any] = {
        "name": "a-model",
        "recipe": "recipe/a.yaml",
        "synthetic": False,
        "partial": False,
        "license": "cc-by-4.0",
        "sources": {},
        "steps": {},
        "files": {"m.onnx": FileRecord(sha256="1" * 64, size=1234567, made_by="weights")},
        "records": {},
        "corpora": {"c": Corpus(role="evaluation", clips=())},
        "runs": ("fp32",),
        "measurements": (measured(),),
        "verdicts": (Verdict(gate=gate, passed=True, reason="0.0374, within the budget"),),
        "observed": Observed(hubpub="0", steps={}, measurements=(), verdicts=()),
    }
    return Manifest.model_validate({**values, **fields}).sealed()


def template(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.md.j2"
    path.write_text(text)
    return path


SHIPPED = Path(__file__).parents[2] / "templates" / "speech.md.j2"


def test_the_shipped_template(tmp_path: Path) -> None:
    card = render_card(manifest(), CARD, SHIPPED)
    _, front, body = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["language"] == ["en", "no"]
    assert data["tags"] == ["a: b", "#c"]
    assert data["base_model_relation"] == "quantized"
    assert "It says 3.74 % (1.00 % to 7.00 %)." in body
    assert "| `m.onnx` | 1.23 MB |" in body
    assert "| met |" in body


TOLD = {"eer": "of all pairs of clips", "der": "without collar", "wer": "`basic`"}


@pytest.mark.parametrize("metric", TOLD)
def test_what_a_figure_means_is_said_of_those_that_are_there(metric: str) -> None:
    card = render_card(manifest(measurements=(measured(metric=metric),)), {**CARD, "summary": "-"}, SHIPPED)
    assert [name for name, told in TOLD.items() if told in card] == [metric]


def test_timings_of_a_busy_machine_say_so() -> None:
    said = "lib 1.0; other programs took 43 % of the processor while it was timed\n"
    for share in (None, 0.02, 0.43):
        observed = Observed(hubpub="0", steps={"runs/fp32": {"others_share": share}}, measurements=(), verdicts=())
        assert (said in render_card(manifest(observed=observed), CARD, SHIPPED)) == (share == 0.43)


def test_synthetic_stands_in_the_first_line_and_in_the_tags() -> None:
    card = render_card(manifest(synthetic=True), CARD, SHIPPED)
    _, front, body = card.split("---\n", 2)
    assert body.strip().startswith("> **Synthetic.**")
    assert "synthetic" in yaml.safe_load(front)["tags"]


@pytest.mark.parametrize(
    "text",
    [
        "{{ manifest.nothing }}",
        "{{ manifest.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(100000000) %}x{% endfor %}",
        "{% include '/etc/hostname' %}",
        "{% import 'os' as os %}",
        "{{ manifest.files.update({'a': 1}) }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ 'x' * 5000000 }}",
    ],
)
def test_a_template_can_only_read_the_manifest(tmp_path: Path, text: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        render_card(manifest(), CARD, template(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "t.md.j2" in str(caught.value)


def test_prose_cannot_name_a_figure_that_was_not_measured(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no attribute 'int8/wer'"):
        render_card(manifest(), {**CARD, "summary": "{{ measured['int8/wer'] }}"}, SHIPPED)


def test_the_manifest_survives_its_file() -> None:
    """Conditions that measurements share are written once and read back into each."""
    timed = measured(metric="rtf", observed=True, unit="s/s", normalizer=None)
    made = manifest(
        measurements=(measured(), measured(metric="cer")),
        observed=Observed(hubpub="0", steps={}, measurements=(timed,), verdicts=()),
    )
    text = made.text()
    assert Manifest.model_validate_json(text) == made
    assert text.count('"cpu": "a cpu"') == 2
    assert Manifest.model_validate_json(text).content_digest() == made.digest


def test_parts_of_a_corpus_have_a_table_of_their_own(tmp_path: Path) -> None:
    parts = [
        measured(),
        measured(subset="section:0-60 s", value=0.02, n=60),
        measured(subset="section:60-120 s", value=0.05, n=59),
        measured(subset="section:60-120 s", value=0.01, n=59, against="fp16/wer"),
        measured(subset="clip:a|b", value=0.5, n=2),
    ]
    text = render_card(manifest(measurements=tuple(parts)), CARD, SHIPPED)
    assert "| figure | part | value | n |" in text
    assert "| wer | section:0-60 s | 2.00 % (1.00 % to 7.00 %) | 60 words |" in text
    assert "| wer − fp16/wer | section:60-120 s | 1.00 % (1.00 % to 7.00 %) | 59 words |" in text
    assert "clip:a" not in text
    assert "| figure | part |" not in render_card(manifest(), CARD, SHIPPED)

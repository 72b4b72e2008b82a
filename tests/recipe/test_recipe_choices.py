"""Ladders and rosters in a recipe: what they may say, and what each mistake is told as."""

# ruff: noqa: E501 (tables with a case in each line)
from __future__ import annotations

from pathlib import Path

import pytest
from recipe_tools import BASE, changed, problems

CHOICE = """\
choices:
  small:
    runs: [small-int8]
    promote: first
    candidates:
      sharp: {m.int8.onnx: {from: convert/model.onnx, chain: [{transform: weight_only, bits: 8}]}}
      blunt: {m.int8.onnx: {from: convert/model.onnx, chain: [{transform: fp16}]}}
corpora:
"""
RUN = """\
measure:
  small-int8:
    files: [m.int8.onnx, "*.json"]
    via: {client: onnx-asr, model: whisper, language: en, quantization: int8, segment: {by: silence, max_s: 28}}
    corpus: speech
    metrics: [wer, rtf]
    reference: fp32
"""
GATE = "gates:\n  - {measure: small-int8/wer, max: 0.3}\n"
LADDER = changed("gates:\n", GATE, changed("measure:\n", RUN, changed("corpora:\n", CHOICE, BASE)))
ROSTER = changed("promote: first", "promote: blunt", LADDER)


def test_a_ladder_and_a_roster_are_good(tmp_path: Path) -> None:
    assert problems(tmp_path, LADDER) == []
    full = changed(
        "promote: blunt", "promote: {least: small-int8/wer}\n    against: sharp\n"
        '    publish_others: "{stem}.{candidate}{suffix}"', ROSTER
    )  # fmt: skip
    assert problems(tmp_path, full) == []
    compared = "  - {measure: small-int8/wer, against: small-int8@sharp/wer, max: 0.6}\n"
    assert problems(tmp_path, changed("gates:\n", "gates:\n" + compared, full)) == []


SEALED = ("  speech:\n    role: evaluation\n", "  speech:\n    role: evaluation\n    sealed: true\n")
SECOND = """\
choices:
  small:
    runs: [small-int8]
    promote: sharp
    candidates:
      sharp: {n.onnx: convert/model.onnx}
      blunt: {n.onnx: convert/model.onnx}
  small2:
"""


@pytest.mark.parametrize(
    ("old", "new", "where", "says"),
    [
        (*SEALED, "runs[0]", "'small-int8' runs over the sealed corpus 'speech': nothing is chosen by it"),
        ("runs: [small-int8]", "runs: [small-int]", "runs[0]", "there is no run 'small-int'; did you mean 'small-int8'?"),
        ("runs: [small-int8]", "runs: [small-int8, fp32]", "runs[1]", "'fp32' is given none of the files that are chosen"),
        ("runs: [small-int8]", "runs: [small-int8, small-int8]", "runs[1]", "'small-int8' is named already"),
        ("runs: [small-int8]", "runs: []", "runs", "must have at least 1 entries"),
        ("promote: first", "promote: shrap", "promote", "there is no candidate 'shrap'; did you mean 'sharp'?"),
        ("promote: first", "promote: {}", "promote", "say one of `least` and `most`"),
        ("promote: first", "promote: {least: fp32/wer}", "promote", "'fp32' is not one of the runs of this choice"),
        ("promote: first", "promote: {least: small-int8/cer}", "promote", "does not measure 'cer'"),
        ("promote: first", "promote: {least: small-int8/rtf}", "promote", "rtf differs from build to build"),
        (GATE, "gates:\n  - {measure: small-int8/rtf, max: 1}\n", "promote", "no gate on these runs judges anything but"),
        ("promote: first", "promote: first\n    against: blunt", "against", "a ladder may end before it"),
        ("promote: first", "promote: sharp\n    against: dull", "against", "there is no candidate 'dull'"),
        ("promote: first", "promote: first\n    publish_others: x", "publish_others", "needs {stem} and {candidate}"),
        ("promote: first", "promote: sharp\n    publish_others: '{stm}'", "publish_others", "{stm} stands for nothing"),
        (
            "promote: first",
            "promote: sharp\n    publish_others: '../{stem}{candidate}'",
            "publish_others",
            "leaves its folder",
        ),
        (
            "promote: first",
            "promote: first\n    publish_others: '{stem}{candidate}'",
            "publish_others",
            "the other rungs of a ladder failed or were not made",
        ),
        ("blunt: {m.int8", "first: {m.int8", "candidates.first", "is what `promote: first` says; choose another name"),
        ("blunt: {m.int8", "Sharp: {m.int8", "candidates.Sharp", "differs from 'sharp' by case only"),
        ("blunt: {m.int8.onnx", "blunt: {m.onnx", "candidates.sharp", "does not give 'm.onnx', which another"),
        ("{transform: fp16}", "{transform: static_int8}", "blunt.m.int8.onnx.chain[0]", "needs `calibrate`"),
        ("convert/model.onnx, chain: [{transform: f", "wights/x, chain: [{transform: f", ".from", "did you mean 'weights'"),
        ("files:\n", "files:\n  m.int8.onnx: convert/model.onnx\n", "choices.small", "stands under `files` too"),
        ("choices:\n  small:\n", SECOND.replace("n.onnx", "m.int8.onnx"), "small2", "is decided by the choice 'small' already"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_in_its_place(tmp_path: Path, old: str, new: str, where: str, says: str) -> None:
    found = problems(tmp_path, changed(old, new, LADDER))
    assert any(f"{where}" in line.partition(": ")[2] and says in line for line in found), found
    assert all(": choices." in line for line in found), found


def test_what_is_decided_later_cannot_be_measured_with(tmp_path: Path) -> None:
    text = changed('files: [m.int8.onnx, "*.json"]', 'files: [m.int8.onnx, n.onnx, "*.json"]', LADDER)
    assert problems(tmp_path, text) != []
    other = SECOND.removeprefix("choices:\n").removesuffix("  small2:\n").replace("  small:", "  rest:")
    after = changed("corpora:\n", other + "corpora:\n", text)
    (line,) = problems(tmp_path, after)
    assert "choices.small.runs[0]: 'small-int8' is given files of 'rest' too, which is decided later" in line


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("{measure: small-int8/wer, against: small-int8@blunt/wer, max: 0.6}", "name it under `against` of a choice"),
        ("{measure: small-int8@sharp/wer, max: 0.6}", "is the run of a candidate"),
    ],
)
def test_a_gate_names_only_candidates_that_are_compared_with(tmp_path: Path, gate: str, says: str) -> None:
    text = changed("promote: blunt", "promote: blunt\n    against: sharp", ROSTER)
    found = problems(tmp_path, changed("gates:\n", f"gates:\n  - {gate}\n", text))
    assert any(says in line and "gates[0]" in line for line in found), found


def test_variants_have_choices_of_their_own(tmp_path: Path) -> None:
    text = changed("name: demo\n", "name: demo\nvariants:\n  a: {bits: 8}\n  b: {bits: 4}\n", LADDER)
    text = text.replace("  small:\n    runs: [small-int8]", "  small-${variant}:\n    runs: ['small-int8-${variant}']")
    text = text.replace("m.int8.onnx:", "'${variant}/m.int8.onnx':").replace("bits: 8}]", "bits: '${bits}'}]")
    text = text.replace("small-int8:\n", "small-int8-${variant}:\n").replace(
        "[m.int8.onnx,", "['${variant}/m.int8.onnx',"
    )
    text = text.replace("small-int8/wer, max: 0.3", "'small-int8-${variant}/wer', max: 0.3")
    assert problems(tmp_path, text) == []


def test_der_needs_turns(tmp_path: Path) -> None:
    via = "via: {client: powerset, model: model.onnx}"
    run = "measure:\n  who:\n    files: [model.onnx]\n    " + via + "\n    corpus: silent\n    metrics: [der]\n"
    found = problems(tmp_path, changed("measure:\n", run, BASE))
    assert any(
        "metrics[0]: der needs to know who speaks when, and no clip of 'silent' says so" in line for line in found
    )
    labelled = changed("audio: weights/d.wav", "audio: weights/d.wav, turns_from: package/a/d.rttm", BASE)
    assert not any("der needs" in line for line in problems(tmp_path, changed("measure:\n", run, labelled)))

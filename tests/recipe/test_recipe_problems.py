"""What is wrong with a recipe: one line for each mistake, all of them at once, each in its place."""

# ruff: noqa: E501 (tables with a case in each line)
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_tools import BASE, changed, problems

from hubpub.errors import RecipeError
from hubpub.recipe import load_recipe

Found = tuple[str, str]
"""Where a problem is (a piece of the recipe that stands there only), and what the line says; ``…`` stands for anything."""

SOURCE = '  weights: {path: data, include: [model.bin, "*.wav"]}'
NO_KIND = "sources.weights: a source says where its bytes come from: one of `pypi:`, `hub:` or `path:`"
ONNX = "  model.onnx: convert/model.onnx\n"
VOCAB = "  vocab.json: convert/vocab.json\n"
NOT_A_NAME = "is not a name: letters, digits, and after the first of them also . _ -"
NOT_A_REFERENCE = "is not a file written as <source or step>/<path in it>"
OUTPUTS = "outputs: [model.onnx, vocab.json]"
GATE = "{measure: small/wer, max: 0.5}"

KEYS = [
    ("card:", "crad:", ("version: 1", "card: is missing"), ("crad:", "crad: unknown key; did you mean 'card'?")),
    ("script:", "scirpt:", ("convert:\n", "steps.convert.script: is missing"),
     ("scirpt:", "steps.convert.scirpt: unknown key; did you mean 'script'?")),
    ("title: Demo", "title: Demo\n  zzz: 1", ("zzz", "card.zzz: unknown key; known here: base_model, …, tags, template, title")),
    ("naming: single", "namimg: single", ("namimg", "files.sharded/model.onnx.chain[0].namimg: unknown key; did you mean 'naming'?")),
    ("    from: convert", "    form: convert", ("sharded/model.onnx:", "files.sharded/model.onnx.from: is missing"),
     ("form: con", "files.sharded/model.onnx.form: unknown key; did you mean 'from'?")),
    ('version: "1.0"', 'versoin: "1.0"', ("package:\n", "sources.package.version: is missing"),
     ("versoin", "sources.package.versoin: unknown key; did you mean 'version'?")),
    ("path: data,", "path: data, revision: main,", ("revision", "sources.weights.revision: unknown key; known here: include, license, path, supply")),
    ("language: en, seg", "langage: en, seg", ("langage", "measure.fp32.via.langage: unknown key; did you mean 'language'?")),
    ("max_s: 28", "max_sec: 28", ("max_sec", "measure.fp32.via.segment.max_sec: unknown key; did you mean 'max_s'?")),
    ("features: whisper80", "featrues: whisper80", ("via: {client: onnxruntime", "measure.encoder.via.features: is missing"),
     ("featrues", "measure.encoder.via.featrues: unknown key; did you mean 'features'?")),
    ("normalizer: none", "normaliser: none", ("normaliser", "measure.sharded.metrics[0].normaliser: unknown key; did you mean 'normalizer'?")),
    ("max: 0.5, min_n", "mox: 0.5, min_n", ("mox", "gates[0].mox: unknown key; did you mean 'max'?")),
    ("text: one two three four five", "txt: x", ("txt: x", "corpora.written.clips[0].txt: unknown key; did you mean 'text'?")),
    ("name: demo", "name: demo\n\"\": 1", ('"": 1', "unknown key; known here: card, choices, …")),
    ("name: demo", "name: demo\n? [a]\n: 1", ("[a]", "a key must be text")),
    ("name: demo", "name: demo\nname: again", ("name: again", "name: duplicate key; it stands in line 2 already")),
    ("max_s: 28", "max_s: 28, by: none", ("by: none", "measure.fp32.via.segment.by: duplicate key; it stands in line 49 already")),
]  # fmt: skip

TYPES = [
    ("name: demo", "name: 3", ("name", "name: must be text: put it in quotes, '3'")),
    ('version: "1.0"', "version: 0.10", ("version: 0.10", "sources.package.version: must be text: put it in quotes, '0.10'")),
    ('version: "1.0"', "version: -1e3", ("version: -1e3", "sources.package.version: must be text: put it in quotes, '-1e3'")),
    ('version: "1.0"', "version: 1_000", ("version: 1_000", "sources.package.version: '1_000' is not an exact version …")),
    ('"8"]', "8]", ("8]", "steps.convert.args[1]: must be text: put it in quotes, '8'")),
    ("title: Demo", "title: 0o17", ("title", "card.title: must be text: put it in quotes, '0o17'")),
    ("title: Demo", "title: True", ("title", "card.title: must be text: put it in quotes, 'True'")),
    ("title: Demo", "title:", ("title", "card.title: must be text, and nothing stands here")),
    ("title: Demo", "title: ~", ("title", "card.title: must be text, and nothing stands here")),
    ("title: Demo", "title: [Demo]", ("title", "card.title: must be text")),
    ("title: Demo", "title: {Demo: 1}", ("title", "card.title: must be text")),
    ("language: [en]", "language: en", ("language: en\n", "card.language: must be a list")),
    ("language: [en]", "language: []", ("language: []", "card.language: must have at least 1 entries")),
    ("language: [en]", "language: [1, 2]", ("1, 2", "card.language[0]: must be text: put it in quotes, '1'"),
     ("2]", "card.language[1]: must be text: put it in quotes, '2'")),
    ("language: [en]", "language: [english]", ("english", "card.language[0]: 'english' is not a language code such as …")),
    ("license: mit", "license: MIT", ("license: MIT\n  lang", "card.license: 'MIT' is not a licence identifier of the Hub…")),
    ("inputs:\n      model.bin: weights/model.bin", "inputs: [a]", ("inputs", "steps.convert.inputs: must be a mapping (`key: value`)")),
    ("steps:\n", "steps: 3\nsteps_:\n", ("steps: 3", "steps: must be a mapping (`key: value`)"), ("steps_", "steps_: unknown key; did you mean 'steps'?")),
    *[(ONNX, f"  model.onnx: {wrong}\n", ("model.onnx: ", "files.model.onnx: must be a mapping (`key: value`)")) for wrong in ("5", "", "[x]", "1.5")],
    ("version: 1\n", "version: 2\n", ("version: 2", "version: '2' is not one of 1")),
    ("version: 1\n", "version: one\n", ("version: one", "version: 'one' is not one of 1")),
    ("version: 1\n", "", ("name: demo", "version: is missing")),
    ("max_bytes: 16 MB", "max_bytes: 16 quarts", ("max_bytes", "files.sharded/model.onnx.chain[0].max_bytes: could not interpret byte unit: quarts…")),
    ("max_bytes: 16 MB", "max_bytes: .inf", (".inf", "files.sharded/model.onnx.chain[0].max_bytes: .inf is not a finite number")),
    ("min_n: 4", "min_n: 0", ("min_n: 0", "gates[0].min_n: input should be greater than or equal to 1, got 0")),
    ("min_n: 4", "min_n: few", ("min_n: few", "gates[0].min_n: input should be a valid integer, …, got 'few'")),
    ("min_n: 4", "min_n: 4.5", ("min_n: 4.5", "gates[0].min_n: input should be a valid integer, …, got 4.5")),
    ("max: 0.5, min_n: 4", "max: .nan, min_n: 4", (".nan", "gates[0].max: .nan is not a finite number")),
    ("max: 0.5, min_n: 4", "max: nan, min_n: 4", ("max: nan", "gates[0].max: input should be a finite number, got 'nan'")),
    ("max: 0.5, min_n: 4", "max: 0.5, min: 0.6", ("{measure: fp32", "gates[0]: nothing is at least 0.6 and at most 0.5")),
    ("{measure: fp32/wer, max: 0.5, min_n: 4}", "{measure: fp32/wer}", ("{measure: fp32", "gates[0]: a gate needs max, min or both")),
    ("measure: fp32/wer, max", "measure: wer, max", ("measure: wer", "gates[0].measure: 'wer' is not a figure written as <run>/<metric>")),
    ("script: convert.py", "script: convert.py\n    timeout_minutes: inf", ("timeout_minutes", "steps.convert.timeout_minutes: input should be a finite number, got 'inf'")),
    ("text: one two three four five", "crop: [1, 2, 3]", ("crop", "corpora.written.clips[0].crop: must have at most 2 entries")),
    ("text: one two three four five", "crop: [1]", ("crop", "corpora.written.clips[0].crop[1]: is missing")),
    ("text: one two three four five", "crop: [2, 1]", ("crop", "corpora.written.clips[0].crop: a crop must end after it starts")),
    ("defaults: {source: tests, license: MIT}\n    clips:\n      - {audio: weights/c.wav", "clips:\n      - {source: x, audio: weights/c.wav",
     ("{source: x, audio", "corpora.written.clips[0].license: c has no license, and the defaults of its corpus give none")),
]  # fmt: skip

KINDS = [
    ("client: onnx-asr, model: whisper, lang", "client: onnx-arr, model: whisper, lang",
     ("via: {client: onnx-arr", "measure.fp32.via: 'onnx-arr' is not one of …; did you mean 'onnx-asr'?")),
    ("client: onnx-asr, model: whisper, lang", "model: whisper, lang",
     ("via: {model", "measure.fp32.via: the key 'client' is missing: it says which kind this is")),
    ("metrics: [wer, rtf]", "metrics: [wre, rtf]", ("wre", "measure.fp32.metrics[0]: 'wre' is not one of wer, …; did you mean 'wer'?")),
    ("metrics: [wer, rtf]", "metrics: [3, rtf]", ("3, rtf", "measure.fp32.metrics[0]: …")),
    ("metrics: [wer, rtf]", "metrics: [bogosity, blurb]", ("bogosity", "measure.fp32.metrics[0]: 'bogosity' is not one of wer, …"),
     ("blurb", "measure.fp32.metrics[1]: 'blurb' is not one of wer, …")),
    ("{metric: wer, norm", "{metric: weer, norm", ("{metric: weer", "measure.sharded.metrics[0]: 'weer' is not one of wer, …; did you mean 'wer'?")),
    ("transform: shard", "transform: shrad", ("{transform: shrad", "files.sharded/model.onnx.chain[0]…: 'shrad' is not one of …shard…; did you mean 'shard'?")),
    ("naming: single", "naming: singel", ("naming", "files.sharded/model.onnx.chain[0].naming: 'singel' is not one of numbered, single, optimum; did you mean 'single'?")),
    ("role: calibration", "role: calibrating", ("role: calibrating", "corpora.tuning.role: 'calibrating' is not one of …; did you mean 'calibration'?")),
    *[(SOURCE, f"  weights: {wrong}", ("weights: ", NO_KIND)) for wrong in ("data", "3", "", "[a, b]", "true", "{folder: x}", "{path: x, hub: a/b}")],
    ("name: demo", "name: de mo", ("name: de mo", f"name: 'de mo' {NOT_A_NAME}")),
    ("name: demo", "name: ../demo", ("name: ../demo", f"name: '../demo' {NOT_A_NAME}")),
    ("  silent:", "  si lent:", ("si lent", f"corpora.si lent: 'si lent' {NOT_A_NAME}")),
    ("  silent:", '  "rule\\u2028x":', ('"rule', f"corpora.rule\\u2028x: 'rule\\u2028x' {NOT_A_NAME}")),
]  # fmt: skip

REFERENCES = [
    ("bin: weights/model", "bin: weihgts/model", ("model.bin: wei", "steps.convert.inputs.model.bin: there is no source or step 'weihgts'; did you mean 'weights'?")),
    ("bin: weights/model.bin", "bin: weights", ("model.bin: wei", f"steps.convert.inputs.model.bin: 'weights' {NOT_A_REFERENCE}")),
    (VOCAB, "  vocab.json: convert/vocabs.json\n", ("vocab.json: con", "files.vocab.json.from: step 'convert' does not make 'vocabs.json'; did you mean 'vocab.json'?")),
    (VOCAB, "  vocab.json: convert/zzz\n", ("vocab.json: con", "files.vocab.json.from: step 'convert' does not make 'zzz'")),
    (VOCAB, "  vocab.json: nope\n", ("vocab.json: nope", f"files.vocab.json: 'nope' {NOT_A_REFERENCE}")),
    ("from: convert", "from: convrt", ("from: con", "files.sharded/model.onnx.from: there is no source or step 'convrt'; did you mean 'convert'?")),
    ("with: [package", "with: [package/a/x, pakcage", ("pakcage", "files.sharded/model.onnx.with[1]: there is no source or step 'pakcage'; did you mean 'package'?")),
    ("audio: weights/a.wav", "audio: a.wav", ("audio: a.wav", f"corpora.speech.clips[0].audio: 'a.wav' {NOT_A_REFERENCE}")),
    ("text_from: package", "text_from: pack", ("text_from", "corpora.speech.clips[1].text_from: there is no source or step 'pack'; did you mean 'package'?")),
    ("segment: {by: silence, max_s: 28}", "segment: {by: vad, model: vad}", ("via: {client: onnx-asr, model: whisper, lang", f"measure.fp32.via: 'vad' {NOT_A_REFERENCE}")),
    ("model: model.onnx,", "model: model.onx,", ("model: model.onx", "measure.encoder.via.model: 'model.onx' is not among the files of this run; did you mean 'model.onnx'?")),
    ("model: model.onnx,", "model: sharded/model.onnx,", ("model: sharded", "measure.encoder.via.model: 'sharded/model.onnx' is not among the files of this run; did you mean 'model.onnx'?")),
    ("model: model.onnx,", "model: elsewhere.bin,", ("model: elsewhere", "measure.encoder.via.model: 'elsewhere.bin' is not among the files of this run; these are model.onnx")),
    ("[latency]", "[latency, wer]", ("wer]\n  small", "measure.encoder.metrics[1]: wer needs transcripts, and the client 'onnxruntime' makes none")),
    ("[latency]", "[der]", ("der]", "measure.encoder.metrics[0]: der needs speaker turns, and the client 'onnxruntime' makes none")),
    ("[wer, rtf]", "[wer, eer]", ("eer]", "measure.fp32.metrics[1]: eer needs the model's outputs, and the client 'onnx-asr' makes none")),
    ("[latency]", "[kl]\n    reference: fp32", ("kl]", "measure.encoder.metrics[0]: kl needs the model's outputs of 'fp32' too, and its client 'onnx-asr' makes none")),
    ("[cer, wer]", "[cer, {metric: wer, strata: [section]}]", ("{metric: wer, strata: [section]}", "measure.small.metrics[1]: sections are told by the segments of another run: name it under `reference`")),
    ("[cer, wer]", "[cer, {metric: wer, strata: [sections]}]", ("sections", "measure.small.metrics[1].strata[0]: …")),
    ("corpus: written", "corpus: writen", ("corpus: writen", "measure.small.corpus: there is no corpus 'writen'; did you mean 'written'?")),
    ("corpus: written", "corpus: tuning", ("corpus: tuning", "measure.small.corpus: 'tuning' is for calibration; what it was tuned on proves nothing"),
     ("cer, wer]", "measure.small.metrics[0]: cer needs transcripts, and 'tuning' has none"), ("wer]", "measure.small.metrics[1]: wer needs transcripts, and 'tuning' has none")),
    ("corpus: written", "corpus: silent", ("cer, wer]", "measure.small.metrics[0]: cer needs transcripts, and 'silent' has none"),
     ("wer]", "measure.small.metrics[1]: wer needs transcripts, and 'silent' has none")),
    ("[sharded/*]", "[sharded/*, sharde/model.onnx]", ("sharde/", "measure.sharded.files[1]: no published file matches 'sharde/model.onnx'; did you mean 'sharded/model.onnx'?")),
    ("reference: fp32", "reference: fp23", ("reference", "measure.sharded.reference: there is no run 'fp23'; did you mean 'fp32'?")),
    ("    reference: fp32\n", "", ("disagreement", "measure.sharded.metrics[1]: disagreement compares with another run: name it under `reference`")),
    ("reference: fp32", "reference: small", ("reference", "measure.sharded.reference: 'small' runs over 'written', this one over 'speech'")),
    ("[cer, wer]", "[cer, wer, {metric: wer, normalizer: none}]", ("{metric: wer, normalizer: none}]\ng", "measure.small.metrics[2]: wer is measured by this run already")),
]  # fmt: skip

GATES = [
    (GATE, GATE.replace("small/wer", "smal/wer"), ("measure: smal/", "gates[2].measure: there is no run 'smal'; did you mean 'small'?")),
    (GATE, GATE.replace("small/wer", "small/werr"), ("measure: small/", "gates[2].measure: run 'small' does not measure 'werr'; did you mean 'wer'?")),
    ("small/wer, max", "small/wer, subset: 'language:*', max", ("subset: 'lang", "gates[2].subset: wer gives no figures by 'language': there are figures by clip; add it to `strata`")),
    ("fp32/wer, max: 0.5", "fp32/rtf, subset: 'clip:a', max: 0.5", ("subset: 'clip", "gates[0].subset: rtf gives no figures by 'clip': there are none for parts of the corpus")),
    (GATE, GATE.replace("small/wer", "small/rtf"), ("measure: small/", "gates[2].measure: run 'small' does not measure 'rtf'; it measures cer, wer")),
    ("t: fp32/wer", "t: fp33/wer", ("against", "gates[1].against: there is no run 'fp33'; did you mean 'fp32'?")),
    ("t: fp32/wer", "t: sharded/disagreement", ("against", "gates[1].against: wer is not compared with disagreement")),
    ("t: fp32/wer", "t: small/wer", ("against", "gates[1].against: the two runs are over different corpora, so no pairs can be made")),
    ("t: fp32/wer", "t: sharded/wer", ("{measure: sharded/wer", "gates[1]: a measurement is not compared with itself")),
    (GATE, "{measure: small/wer, max: 0.5, min_n: 6}", ("{measure: small/", "gates[2]: can never pass: it wants n of at least 6, and the corpus has 5")),
    (GATE, "{measure: small/wer, max: 0.5, min_n: 5}"),
    ("min_n: 4", "min_n: 4000"),  # part of that corpus is in files, which only the build can count
]  # fmt: skip

PATHS = [
    ("template: plain", "template: plane", ("template", "card.template: there is no templates/plane.md.j2 beside or above the recipe")),
    ("script: convert.py", "script: convrt.py", ("script", "steps.convert.script: 'convrt.py' is not a file beside the recipe")),
    ("script: convert.py", "script: templates", ("script", "steps.convert.script: 'templates' is not a file beside the recipe")),
    ("script: convert.py", "script: convert.py\n    requirements: o.txt", ("requirements", "steps.convert.requirements: 'o.txt' is not a file beside the recipe")),
    ("script: convert.py", "script: demo.yaml", ("convert:\n", "steps.convert.requirements: 'demo.requirements.txt' is not a file beside the recipe")),
    (OUTPUTS, "outputs: [model.onnx, vocab.json, model.onnx]", ("model.onnx]\nfiles", "steps.convert.outputs[2]: two files are called 'model.onnx'")),
    (OUTPUTS, "outputs: [model.onnx, vocab.json, Vocab.JSON]", ("Vocab", "steps.convert.outputs[2]: two files are called 'Vocab.JSON' ('vocab.json' on some systems)")),
    (OUTPUTS, "outputs: [model.onnx, vocab.json, vocab.json/x]", ("vocab.json, v", "steps.convert.outputs[1]: 'vocab.json' is a file here and a folder of 'vocab.json/x'")),
    ("      model.bin: weights/model.bin", "      model.bin: weights/model.bin\n      MODEL.bin: weights/model.bin",
     ("MODEL", "steps.convert.inputs.MODEL.bin: two files are called 'MODEL.bin' ('model.bin' on some systems)")),
    (VOCAB, VOCAB + "  MODEL.ONNX: convert/model.onnx\n", ("MODEL", "files.MODEL.ONNX: two files are called 'MODEL.ONNX' ('model.onnx' on some systems)")),
    (VOCAB, VOCAB + VOCAB, (VOCAB.strip() + "\n  sharded", "files.vocab.json: duplicate key; it stands in line 18 already")),
    (VOCAB, VOCAB + "  e\u0301: convert/model.onnx\n  \u00e9: convert/model.onnx\n", ("\u00e9", "files.\u00e9: two files are called '\u00e9' ('e\u0301' on some systems)")),
    (VOCAB, VOCAB + "  stra\u00dfe: convert/model.onnx\n  STRASSE/x: convert/model.onnx\n", ("stra", "files.stra\u00dfe: 'stra\u00dfe' is a file here and a folder of 'STRASSE/x'")),
    (VOCAB, VOCAB + "  Sharded: convert/model.onnx\n", ("Sharded", "files.Sharded: 'Sharded' is a file here and a folder of 'sharded/model.onnx'")),
    *[(VOCAB, f"{VOCAB}  {name}: convert/vocab.json\n", (f"{name}:", f"files.{name}: {name.split('/')[0]!r} is written by hubpub itself"))
      for name in ("README.md", "readme.MD", "hubpub.json", "recipe", "recipe/x", "Recipe/x", "measurements/x")],
    (VOCAB, VOCAB + "  docs/README.md: convert/vocab.json\n"),
    ("reference: fp32\n  encoder:", "reference: fp32\n  FP32:", ("FP32", "measure.FP32: differs from run 'fp32' by case only; …")),
    ("reference: fp32\n  encoder:", "reference: fp32\n  fp32.timings:", ("fp32.timings", "measure.fp32.timings: ends in .timings, …")),
    ("  package:\n", "  convert:\n", ("convert:\n    script", "steps.convert: is the name of a source already"),
     ("package/a/side", "files.sharded/model.onnx.with[0]: there is no source or step 'package'"),
     ("text_from", "corpora.speech.clips[1].text_from: there is no source or step 'package'")),
    ("  convert:\n", "  disjointness:\n", ("disjointness", "steps.disjointness: is the name of a step that hubpub adds itself; choose another"),
     ("model.onnx: con", "files.model.onnx.from: there is no source or step 'convert'"), ("vocab.json: con", "files.vocab.json.from: there is no source or step 'convert'"),
     ("from: con", "files.sharded/model.onnx.from: there is no source or step 'convert'")),
]  # fmt: skip

Case = tuple[str, str, *tuple[Found, ...]]
ALL: list[Case] = [*KEYS, *TYPES, *KINDS, *REFERENCES, *GATES, *PATHS]  # type: ignore[list-item]


def at(text: str, piece: str) -> tuple[int, int]:
    assert text.count(piece) == 1, f"{piece!r} stands {text.count(piece)} times in the recipe"
    before = text[: text.index(piece)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def expect(text: str, found: tuple[Found, ...]) -> list[tuple[int, int, str]]:
    return [(*at(text, piece), said) for piece, said in found]


def same(line: str, line_no: int, column: int, said: str) -> bool:
    said = f"{line_no}:{column}: {said}"
    pieces = said.split("…")
    if len(pieces) == 1:
        return line == said
    place = 0
    for piece in pieces:
        place = line.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return line.startswith(pieces[0]) and line.endswith(pieces[-1])


def check_lines(lines: list[str], text: str, found: tuple[Found, ...]) -> None:
    expected = sorted(expect(text, found))
    shown = "\n".join(lines) or "no problem"
    assert len(lines) == len(expected), f"{len(expected)} problems expected, not\n{shown}"
    for line, (line_no, column, said) in zip(lines, expected, strict=True):
        assert same(line, line_no, column, said), f"expected {line_no}:{column}: {said}\ngot\n{shown}"


def test_the_base_recipe_is_fine(tmp_path: Path) -> None:
    assert problems(tmp_path, BASE) == []


@pytest.mark.parametrize("case", ALL, ids=[f"{number} {case[1].strip()[:40]!r}" for number, case in enumerate(ALL)])
def test_one_mistake_is_one_line_in_its_place(tmp_path: Path, case: Case) -> None:
    old, new, *found = case
    text = changed(old, new)
    check_lines(problems(tmp_path, text), text, tuple(found))


TOGETHER = [
    ("name: demo", "name: 3", ("name: 3", "name: must be text: put it in quotes, '3'")),
    ("script:", "scirpt:", ("convert:\n", "steps.convert.script: is missing"), ("scirpt:", "steps.convert.scirpt: unknown …")),
    ("naming: single", "naming: singel", ("naming", "files.sharded/model.onnx.chain[0].naming: 'singel' …")),
    ("metrics: [wer, rtf]", "metrics: [wre, rtf]", ("wre", "measure.fp32.metrics[0]: 'wre' …")),
    ("min_n: 4", "min_n: 0", ("min_n: 0", "gates[0].min_n: …")),
    ("license: mit", "license: [mit]", ("license: [mit]", "card.license: …")),
]  # fmt: skip

MEANT_TOGETHER = [
    ("bin: weights/model", "bin: weihgts/model", ("model.bin: wei", "steps.convert.inputs.model.bin: …")),
    ("from: convert", "from: convrt", ("from: con", "files.sharded/model.onnx.from: …")),
    (VOCAB, VOCAB + "  ../x: convert/vocab.json\n", ("../x", "files.../x: '../x' leaves its folder")),
    ("audio: weights/a.wav", "audio: a.wav", ("audio: a.wav", "corpora.speech.clips[0].audio: …")),
    ("corpus: written", "corpus: writen", ("corpus: writen", "measure.small.corpus: …")),
    ("t: fp32/wer", "t: fp33/wer", ("against", "gates[1].against: …")),
    ("template: plain", "template: plane", ("template", "card.template: …")),
]  # fmt: skip


@pytest.mark.parametrize("cases", [TOGETHER, MEANT_TOGETHER], ids=["what cannot be", "what cannot be meant"])
def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path, cases: list[Case]) -> None:
    text, found = BASE, tuple[Found, ...]()
    for old, new, *each in cases:
        text, found = changed(old, new, text), (*found, *each)
    check_lines(problems(tmp_path, text), text, found)


def steps(needs: dict[str, list[str]]) -> str:
    entries = ""
    for name, others in needs.items():
        inputs = ", ".join(f"in{index}: {other}/out" for index, other in enumerate(others))
        entries += f"  {name}:\n    script: convert.py\n    inputs: {{{inputs}}}\n    outputs: [out]\n"
    return changed("files:\n", f"{entries}files:\n")


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({"a": ["a"]}, ["steps.a: depends on itself: a → a"]),
        ({"b": ["a"], "a": ["b"]}, ["steps.b: depends on itself: b → a → b"]),
        ({"c": ["a"], "a": ["b"], "b": ["c"], "d": ["a"]}, ["steps.c: depends on itself: c → a → b → c"]),
        (
            {"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c", "a"], "e": ["e"]},
            [f"steps.{ring[0]}: depends on itself: {ring}" for ring in ("a → b → a", "c → d → c", "e → e")],
        ),
        ({"a": [], "b": ["a"], "c": ["a", "b"]}, []),
    ],
)  # fmt: skip
def test_cycles_among_steps(tmp_path: Path, needs: dict[str, list[str]], expected: list[str]) -> None:
    for _ in range(3):  # the same words each time
        assert [line.split(": ", 1)[1] for line in problems(tmp_path, steps(needs))] == expected


def test_cycles_among_runs(tmp_path: Path) -> None:
    text = changed("metrics: [wer, rtf]\n", "metrics: [wer, rtf]\n    reference: sharded\n")
    (line,) = problems(tmp_path, text)
    assert line.endswith("measure.fp32: depends on itself: fp32 → sharded → fp32")


def test_cycles_through_gates(tmp_path: Path) -> None:
    text = changed("gates:\n", "gates:\n  - {measure: fp32/wer, against: sharded/wer, max: 0.9}\n")
    (line,) = problems(tmp_path, text)
    assert line.endswith("measure.fp32: depends on itself: fp32 → sharded → fp32")


def test_a_gate_on_a_difference_names_the_smallest_n(tmp_path: Path) -> None:
    runs = "  other: {files: [sharded/*], via: {client: onnx-asr, model: whisper}, corpus: written, metrics: [wer]}\n"
    gate = "  - {measure: other/wer, against: small/wer, max: 0.1}\n"
    text = changed("card:\n", f"{gate}card:\n", changed("gates:\n", f"{runs}gates:\n"))
    (line,) = problems(tmp_path, text)
    assert "gates[3]: can never pass: with n = 5 even equal outputs leave a difference of 0.522 possible" in line
    assert line.endswith("it takes n of at least 36")
    assert problems(tmp_path, changed("four five", f"four five {'more ' * 31}", text)) == []
    (line,) = problems(tmp_path, changed("max: 0.1}", "max: 0}", text))
    assert "can never pass: it leaves no room" in line


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    assert problems(folder, BASE) == []
    for name, field in (("convert.py", "script"), ("convert.requirements.txt", "requirements")):
        (tmp_path / name).write_text("outside")
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / name)
        (line,) = [each for each in problems_as_they_are(folder) if field in each]
        assert line.endswith(f"steps.convert.{field}: '{name}' is a link that leaves the recipe's folder")
        (folder / name).unlink()
        (folder / name).write_text("inside")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (folder / "templates" / "plain.md.j2").unlink()
    (folder / "templates" / "plain.md.j2").symlink_to(secret)
    (line,) = problems_as_they_are(folder)
    assert line.endswith("card.template: plain.md.j2 is a link that leaves the folder of the templates")


def test_links_that_stay_inside_or_run_in_circles(tmp_path: Path) -> None:
    assert problems(tmp_path, BASE) == []
    (tmp_path / "convert.py").rename(tmp_path / "real.py")
    (tmp_path / "convert.py").symlink_to("real.py")
    assert problems_as_they_are(tmp_path) == []
    (tmp_path / "real.py").unlink()
    (tmp_path / "real.py").symlink_to("convert.py")
    (line,) = problems_as_they_are(tmp_path)
    assert line.endswith("steps.convert.script: 'convert.py' is not a file beside the recipe")


def problems_as_they_are(folder: Path) -> list[str]:
    """The problems of the recipe in ``folder``, whose other files are not written anew."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("recipe_tools.write_recipe", lambda folder, text: folder / "demo.yaml")
        return problems(folder, BASE)


def test_the_template_may_lie_beside_the_folder_of_the_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    assert problems(folder, BASE) == []
    (folder / "templates").rename(tmp_path / "templates")
    assert problems_as_they_are(folder) == []


# -- files that are no recipe


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"# nothing\n"), "is empty"),
        (lambda path: path.write_bytes(b"a: " + b"x" * (1 << 20)), "has more than 1048576 bytes"),
        (lambda path: path.symlink_to("/dev/zero"), "has more than 1048576 bytes"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "recipe.yaml"
    make(path)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


def test_a_recipe_of_a_strange_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: embedded null byte"):
        load_recipe(tmp_path / "a\0b")
    with pytest.raises(RecipeError, match="cannot be read: File name too long"):
        load_recipe(tmp_path / ("x" * 300))


def test_a_gate_on_a_difference_that_no_metric_gives(tmp_path: Path) -> None:
    text = changed("[wer, rtf]", "[wer, rtf, latency]")
    wrong = changed("fp32/wer, max: 0.5", "encoder/latency_p95, against: fp32/latency_p95, max: 0.5", text)
    (line,) = problems(tmp_path, wrong)
    said = "gates[0].against: latency_p95 is not taken as a difference to another run; judge the figure itself"
    assert line.endswith(said)
    text = changed("[latency]", "[rtf]")
    (line,) = problems(tmp_path, changed("fp32/wer, max: 0.5", "encoder/rtfx, against: fp32/rtfx, max: 0.5", text))
    assert line.endswith("rtfx is not taken as a difference to another run; of this metric only rtf is")
    assert not problems(tmp_path, changed("fp32/wer, max: 0.5", "encoder/rtf, against: fp32/rtf, max: 0.5", text))


def test_sections_are_told_by_a_run_with_segments(tmp_path: Path) -> None:
    sections = changed("disagreement]", "{metric: disagreement, strata: [section]}]")
    assert not problems(tmp_path, sections)
    (line,) = problems(tmp_path, changed(", segment: {by: silence, max_s: 28}", "", sections))
    said = "sections are told by segments, and 'fp32' takes each clip in one pass; give it a `segment` or `word_times`"
    assert line.endswith(f"measure.sharded.metrics[1]: {said}")
    stitched = changed(
        "    clips:\n      - {audio: weights/c.wav",
        "    stitch: {seconds: 390}\n    clips:\n      - {audio: weights/c.wav",
    )
    assert not problems(tmp_path, changed("[cer, wer]", "[cer, {metric: wer, strata: [section]}]", stitched))
    timed = changed("text: one two three four five}", "text_from: package/a/c.stm}")
    assert not problems(tmp_path, changed("[cer, wer]", "[cer, {metric: wer, strata: [section]}]", timed))
    parts = changed("sharded/wer, against: fp32/wer, max: 0.9", "sharded/disagreement, subset: 'section:*', max: 0.9")
    assert len(problems(tmp_path, parts)) == 1

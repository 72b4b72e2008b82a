"""Texts instead of audio: what a recipe may say of them, and what becomes of what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hubpub.corpus.corpus import INDEX, Corpus
from hubpub.corpus.disjoint import check_disjoint
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec

BASE: dict[str, Any] = {"role": "evaluation", "defaults": {"source": "s", "license": "l", "language": "en"}}


def spec(*prompts: dict[str, Any], **fields: Any) -> CorpusSpec:
    return CorpusSpec.model_validate({**BASE, "prompts": list(prompts), **fields})


def test_prompts_are_numbered_and_documented(tmp_path: Path) -> None:
    given = spec({"text": " One,\n two. "}, {"text": "Three.", "id": "last", "source": "a book"})
    corpus = prepare(given, {}, tmp_path)
    assert corpus == Corpus.load(tmp_path)
    assert [(clip.id, clip.text) for clip in corpus.clips] == [("001", "One, two."), ("last", "Three.")]
    assert [clip.provenance.source for clip in corpus.clips] == ["s", "a book"]
    assert [clip.provenance.language for clip in corpus.clips] == ["en", "en"]
    assert [path.name for path in tmp_path.iterdir()] == [INDEX]
    assert corpus.seconds == 0
    assert corpus.work == len("One, two.Three.")


def test_prompts_share_no_audio_with_anything(tmp_path: Path) -> None:
    corpus = prepare(spec({"text": "One."}), {}, tmp_path)
    proof = check_disjoint({"prompts": corpus}, {"prompts": tmp_path})
    assert proof.evaluation_clips == 0


CLIP = {"audio": "s/a.wav"}


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"prompts": [{"text": "…!?"}]}, "prompts.0.text", "leaves nothing to say"),
        ({"prompts": [{"text": ""}]}, "prompts.0.text", "at least 1 character"),
        ({"prompts": [{}]}, "prompts.0.text", "required"),
        ({"prompts": [{"text": "a", "id": "002"}, {"text": "b"}]}, "prompts.1.id", "that of prompt 0 too"),
        ({"prompts": [{"text": "a", "id": "X"}, {"text": "b", "id": "x"}]}, "prompts.1.id", "that of prompt 0 too"),
        ({"prompts": [{"text": "a", "id": "../x"}]}, "prompts.0.id", "pattern"),
        ({"defaults": {"source": "s"}}, "prompts.0.license", "has no license"),
        ({"role": "calibration"}, "role", "no audio to calibrate on"),
        ({"clips": [CLIP]}, "clips", "use two corpora"),
        ({"sample": {"count": 1}}, "sample", "use two corpora"),
        ({"windows": {"seconds": 1}}, "windows", "use two corpora"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CorpusSpec.model_validate({**BASE, "prompts": [{"text": "Hello."}], **changes})
    (problem,) = caught.value.errors()
    assert ".".join(map(str, problem["loc"])) == field
    assert said in problem["msg"].lower() or said in problem["msg"]

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from hubpub.corpus.spec import CorpusSpec

FULL = {"source": "a package", "license": "CC0-1.0"}


def spec(*clips: dict[str, Any], **fields: Any) -> CorpusSpec:
    return CorpusSpec.model_validate({"role": "evaluation", "defaults": FULL, "clips": list(clips)} | fields)


def test_defaults_fill_in_what_a_clip_leaves_open() -> None:
    corpus = spec({"audio": "a/x.wav", "speaker": "Ann", "license": "MIT"}, defaults=FULL | {"year": 1859})
    provenance = corpus.provenance(corpus.clips[0])
    assert (provenance.speaker, provenance.license, provenance.source, provenance.year) == (
        "Ann",
        "MIT",
        "a package",
        1859,
    )


@pytest.mark.parametrize(
    ("clip", "name"),
    [
        ({"audio": "a/b/two_cities.wav"}, "two_cities"),
        ({"audio": "a/two cities.wav", "crop": [0, 2.5]}, "two_cities@0-2.5"),
        ({"audio": "a/trñ00.wav"}, "trñ00"),
        ({"audio": "a/.wav"}, "wav"),
        ({"audio": "a/x.wav", "id": "mine"}, "mine"),
    ],
)
def test_name(clip: dict[str, Any], name: str) -> None:
    assert spec(clip).clips[0].name == name


def test_references_are_named_once_in_order() -> None:
    corpus = spec(
        {"audio": "s/x.wav", "text_from": "s/x.lab", "crop": [0, 1]},
        {"audio": "s/x.wav", "crop": [1, 2]},
    )
    assert corpus.references() == ("s/x.wav", "s/x.lab")


def problems(*clips: dict[str, Any], **fields: Any) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        spec(*clips, **fields)
    return [(error["loc"], error["msg"]) for error in caught.value.errors()]


def test_all_problems_of_provenance_are_told_at_once_where_they_are() -> None:
    found = problems({"audio": "x.wav"}, {"audio": "X.wav", "license": "MIT"}, defaults={"source": "s"})
    assert [loc for loc, _ in found] == [("clips", 0, "license"), ("clips", 1, "id")]
    assert "no license" in found[0][1]
    assert "clip 0" in found[1][1]


@pytest.mark.parametrize(
    ("clip", "loc"),
    [
        ({"audio": "x.wav", "crop": [2, 1]}, ("clips", 0, "crop")),
        ({"audio": "x.wav", "crop": [1, 1]}, ("clips", 0, "crop")),
        ({"audio": "x.wav", "crop": [-1, 1]}, ("clips", 0, "crop", 0)),
        ({"audio": "x.wav", "crop": [0, float("nan")]}, ("clips", 0, "crop", 1)),
        ({"audio": "x.wav", "text": "a", "text_from": "b"}, ("clips", 0)),
        ({"audio": "x.wav", "id": "a/b"}, ("clips", 0, "id")),
        ({"audio": "x.wav", "id": ".."}, ("clips", 0, "id")),
        ({"audio": ""}, ("clips", 0, "audio")),
        ({"audio": "x.wav", "licence": "MIT"}, ("clips", 0, "licence")),
    ],
)
def test_bad_clips_are_refused_where_they_are(clip: dict[str, Any], loc: tuple[str | int, ...]) -> None:
    assert [found for found, _ in problems(clip)] == [loc]


def test_an_empty_corpus_is_refused() -> None:
    assert [loc for loc, _ in problems()] == [("clips",)]


HEAVY = {"numpy", "soundfile", "soxr", "onnx", "onnxruntime", "onnx_asr", "jiwer", "huggingface_hub"}


@pytest.mark.parametrize(
    "module",
    ["hubpub.corpus.spec", "hubpub.corpus.disjoint", "hubpub.measure.clients", "hubpub.measure.metrics", "hubpub.gate"],
)
def test_models_of_the_schema_import_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)

"""What the Hub says about the metadata of a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_client import Ask, run_client
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.localhub import LocalHub
from hubpub.localhub.metadata import validate

GOOD = """---
license: apache-2.0
language: [en, zh-Hant, multilingual]
pipeline_tag: automatic-speech-recognition
library_name: onnx-asr
base_model: openai/whisper-tiny.en
base_model_relation: quantized
datasets: [librispeech_asr]
tags: [onnx]
model-index:
- name: whisper
  results:
  - task: {type: automatic-speech-recognition}
    dataset: {type: two-cities, name: Two cities}
    metrics: [{type: wer, value: 0.01}]
---
# Card
"""


def test_a_good_card() -> None:
    assert validate(GOOD, "model") == ([], [])
    assert validate(GOOD.replace("\n", "\r\n"), "model") == ([], [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("apache-2.0", "apache2", '"license" must be one of'),
        ("apache-2.0", "[mit, nonsense]", "nonsense"),
        ("[en, zh-Hant, multilingual]", "english", "\"language\" with value 'english'"),
        ("[en, zh-Hant, multilingual]", "[en, no]", '"language" with value False'),
        ("automatic-speech-recognition\nlib", "asr\nlib", '"pipeline_tag" must be one of'),
        ("onnx-asr", "3", '"library_name" must be a string'),
        ("openai/whisper-tiny.en", "https://huggingface.co/openai/whisper", '"base_model" with value'),
        ("openai/whisper-tiny.en", "a/b/c", '"base_model" with value'),
        ("quantized", "smaller", '"base_model_relation" must be one of'),
        ("[librispeech_asr]", "[a b]", '"datasets" with value'),
        ("[onnx]", "onnx", '"tags" must be an array'),
        ("[onnx]", "[1]", '"tags[0]" must be a string'),
        ("name: whisper", "nom: whisper", '"model-index[0].name" is required'),
        ("results:", "result:", '"model-index[0].results" must be an array'),
        ("{type: automatic-speech-recognition}", "asr", '"model-index[0].results[0].task" is required'),
        (", name: Two cities", "", '"model-index[0].results[0].dataset.name" is required'),
        ("{type: wer, value: 0.01}", "{type: wer}", '"model-index[0].results[0].metrics[0].value" is required'),
        ("[{type: wer, value: 0.01}]", "[]", "must be an array of at least one"),
        ("tags:", "license: mit\ntags:", "duplicated mapping key 'license'"),
        ("tags: [onnx]", "tags: [onnx", "Invalid YAML"),
        ("tags: [onnx]", "tags: &a [onnx]\nmore: *a", "aliases"),
        ("tags: [onnx]", "tags: !!python/object/apply:os.system [ls]", "Invalid YAML"),
    ],
)
def test_errors(old: str, new: str, message: str) -> None:
    assert old in GOOD
    errors, _ = validate(GOOD.replace(old, new), "model")
    assert len(errors) == 1, errors
    assert message in errors[0]


def test_the_place_of_an_error_is_its_line_in_the_file() -> None:
    errors, _ = validate("---\nlicense: mit\ntags: ]\n---\n", "model")
    assert "line 3" in errors[0]


@pytest.mark.parametrize("content", ["", "# no block", "---\n---\n", "text\n---\nlicense: mit\n---\n"])
def test_nothing_is_a_warning(content: str) -> None:
    assert validate(content, "model") == ([], ["empty or missing yaml metadata in repo card"])


def test_other_warnings_and_datasets() -> None:
    assert validate("---\ntags: [a]\n---\n", "model") == ([], ['"license" is missing'])
    assert validate("---\nlicense: other\n---\n", "model")[1] == ['"license_name" is missing for the license "other"']
    assert validate("---\nlicense: mit\npipeline_tag: whatever\n---\n", "dataset") == ([], [])


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=10), each, max_size=3),
    max_leaves=8,
)
_keys = st.sampled_from(["license", "language", "tags", "base_model", "model-index", "metrics", "pipeline_tag", "name"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_keys, _values))
def test_any_metadata_gets_an_answer(data: dict[str, object]) -> None:
    errors, warnings = validate(f"---\n{json.dumps(data)}\n---\n", "model")
    assert all(isinstance(message, str) for message in errors + warnings)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="-:[]{}&*!|>'\"%@ \n\tab1,#?", max_size=60))
def test_any_text_gets_an_answer(text: str) -> None:
    errors, warnings = validate(f"---\n{text}\n---\n", "model")
    assert all(isinstance(message, str) for message in errors + warnings)


def test_the_client_reports_them(hub: LocalHub, ask: Ask, model: Path) -> None:
    code = """
def card(text):
    api.create_commit("tester/model", [CommitOperationAdd("README.md", text)], commit_message="card")
try:
    card(b"---\\nlicense: nonsense\\n---\\n")
except ValueError as error:
    say('"license" must be one of' in str(error))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    card(b"# no metadata")
say(["empty or missing" in str(each.message) for each in caught])
"""
    done = run_client(hub, code, xet=True)
    assert list(map(json.loads, done.stdout.splitlines())) == [True, [True]], done.stderr
    assert hub.files("tester/model")["README.md"][0] == len("# no metadata")
    # the commit itself refuses them too
    lines = [
        {"key": "header", "value": {"summary": "x", "description": ""}},
        {"key": "file", "value": {"path": "README.md", "content": "---\nlicense: no\n---\n", "encoding": "utf-8"}},
    ]
    body = "\n".join(map(json.dumps, lines))
    answer = ask("POST", "/api/models/tester/model/commit/main", token=hub.token(), content=body)
    assert (answer.status_code, answer.headers["x-error-message"]) == (400, "Invalid metadata in README.md")

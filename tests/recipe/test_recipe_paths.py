"""Every place of a recipe that takes a path refuses those that leave their folder or that some system cannot hold."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from recipe_tools import changed, problems

from hubpub.recipe import unsafe_path

PATHS = {
    "/etc/passwd": "is absolute",
    "//host/share": "is absolute",
    "C:/x": "is absolute",
    "c:x": "is absolute",
    "../x": "leaves its folder",
    "a/../../x": "leaves its folder",
    "a/..": "leaves its folder",
    "..": "leaves its folder",
    "a\\b": "holds a backslash or a NUL",
    "..\\x": "holds a backslash or a NUL",
    "q//r": "has an empty or `.` part",
    "a/": "has an empty or `.` part",
    "./a": "has an empty or `.` part",
    "q/./r": "has an empty or `.` part",
    ".": "has an empty or `.` part",
    "n" * 256: "is too long for a file name",
    "é" * 128: "is too long for a file name",
}

PLACES = {
    "steps.convert.script": ("script: convert.py", "script: {}"),
    "steps.convert.requirements": ("script: convert.py", "script: convert.py\n    requirements: {}"),
    "steps.convert.inputs key": ("model.bin: weights", "{}: weights"),
    "steps.convert.inputs value": ("model.bin: weights/model.bin", "model.bin: weights/{}"),
    "steps.convert.outputs[2]": ("[model.onnx, vocab.json]", "[model.onnx, vocab.json, {}]"),
    "files key": ("  vocab.json: convert/vocab.json\n", "  vocab.json: convert/vocab.json\n  {}: convert/vocab.json\n"),
    "files value": ("  vocab.json: convert/vocab.json\n", "  vocab.json: weights/{}\n"),
    "files.sharded/model.onnx.from": ("from: convert/model.onnx", "from: weights/{}"),
    "files.sharded/model.onnx.with[0]": ("package/a/side.bin", "package/{}"),
    "corpora.speech.clips[0].audio": ("weights/a.wav", "weights/{}"),
    "corpora.speech.clips[1].text_from": ("package/a/b.txt", "package/{}"),
    "measure.fp32.via": ("segment: {by: silence, max_s: 28}", "segment: {{by: vad, model: weights/{}}}"),
}


def put(place: str, path: str) -> str:
    old, new = PLACES[place]
    quoted = new.format("PATH").replace("weights/PATH", '"weights/PATH"').replace("package/PATH", '"package/PATH"')
    if quoted == new.format("PATH"):
        quoted = quoted.replace("PATH", '"PATH"')
    return changed(old, quoted.replace("PATH", json.dumps(path, ensure_ascii=False)[1:-1]))


@pytest.mark.parametrize("path", PATHS)
def test_unsafe_paths(path: str) -> None:
    assert unsafe_path(path) == PATHS[path]


@pytest.mark.parametrize("place", PLACES)
def test_a_path_that_leaves_is_refused_wherever_it_stands(tmp_path: Path, place: str) -> None:
    for path, why in list(PATHS.items())[::3]:
        lines = [line for line in problems(tmp_path, put(place, path)) if why in line]
        assert len(lines) == 1, f"{path!r} as {place}: {problems(tmp_path, put(place, path))}"
        field = place.removesuffix(" key").removesuffix(" value")
        assert re.match(rf"\d+:\d+: {re.escape(field)}", lines[0]), lines[0]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("char", ["\\0", "\\n", "\\x1f", "\\x7f", "\\x9f", "\\ud800"])
def test_control_characters_are_refused_wherever_they_stand(tmp_path: Path, place: str, char: str) -> None:
    (line, *_) = problems(tmp_path, put(place, "a/XYb").replace("XY", char))
    assert "holds" in line or "is not a file written as" in line


@pytest.mark.parametrize("place", PLACES)
def test_an_empty_path_is_refused_wherever_it_stands(tmp_path: Path, place: str) -> None:
    assert problems(tmp_path, put(place, ""))


@pytest.mark.parametrize("path", ["/etc", "~/x", "", "a\\0b"])
def test_the_folder_of_a_local_source_is_relative_to_the_recipe(tmp_path: Path, path: str) -> None:
    (line,) = problems(tmp_path, changed("path: data", f'path: "{path}"'))
    assert "sources.weights.path" in line


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/**b", "a\\\\*", "", "C:*"])
def test_patterns_of_a_source_stay_in_it(tmp_path: Path, pattern: str) -> None:
    (line,) = problems(tmp_path, changed('"*.wav"', f'"{pattern}"'))
    assert "sources.weights.include[1]: " in line


@pytest.mark.parametrize("model", ["/etc/x.onnx", "../x.onnx", "a\\\\b.onnx", ""])
def test_the_model_of_a_run_stays_in_the_release(tmp_path: Path, model: str) -> None:
    (line,) = problems(tmp_path, changed("model: model.onnx,", f'model: "{model}",'))
    assert "measure.encoder.via.model: " in line


@pytest.mark.parametrize("template", ["../plain", "a/b", "/plain", "", ".plain", "plain\\n"])
def test_the_template_is_a_name(tmp_path: Path, template: str) -> None:
    (line,) = problems(tmp_path, changed("template: plain", f'template: "{template}"'))
    assert "card.template: " in line


@pytest.mark.parametrize(
    "path", ["a", "a.b", ".hidden", "..a", "a..", "...", "a/b/c", "a b", "é/日本", "-x", "a'b", "ab:c"]
)
def test_paths_that_are_fine(path: str) -> None:
    assert unsafe_path(path) is None


@settings(max_examples=200, deadline=None)
@given(
    path=st.text(st.sampled_from("ab./\\:\0\n\x7f\x80é~"), max_size=12)
    | st.text(st.characters(codec=None), max_size=20)
)
def test_a_path_that_is_not_unsafe_stays_where_it_is_put(path: str) -> None:
    if unsafe_path(path) is None:
        pure = PurePosixPath(path)
        assert path
        assert str(pure) == path
        assert not pure.is_absolute()
        assert ".." not in pure.parts
        assert (PurePosixPath("/base") / path).is_relative_to("/base")
        assert not set(path) & {"\0", "\n", "\\"}
        assert path.encode()


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(
        st.text(st.characters(categories=["L", "N"], include_characters="._- "), min_size=2, max_size=20),
        min_size=1,
        max_size=5,
    )
)
def test_ordinary_paths_are_not_refused(parts: list[str]) -> None:
    assume(not {".", ".."} & set(parts))
    assert unsafe_path("/".join(parts)) is None

"""The manifest is a file that anybody may have edited: whatever it holds, one line of `ReleaseError` or a manifest."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import Finished

from hubpub.errors import ReleaseError
from hubpub.manifest import MANIFEST, MAX_BYTES, read_manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(content)
        problem = ""
        try:
            read_manifest(Path(folder))
        except ReleaseError as error:
            problem = str(error)
        assert len(problem.splitlines()) <= 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_may_lie_there(content: bytes) -> None:
    _read(content)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_a_real_manifest_may_be_another(finished: Finished, data: st.DataObject) -> None:
    manifest: Any = json.loads((finished.release / MANIFEST).read_text())
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    _read(json.dumps(manifest).encode())


def test_a_manifest_has_bounded_size(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ReleaseError, match="larger than"):
        read_manifest(tmp_path)


def test_a_deep_manifest_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"a":' * 100_000)
    with pytest.raises(ReleaseError, match="is not a manifest"):
        read_manifest(tmp_path)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(ReleaseError, match="cannot be read"):
        read_manifest(tmp_path)

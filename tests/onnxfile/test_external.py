"""External data is a stranger's table: it is bounded, stays in the model's folder, and each fault has its line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnxfile.models import N, plain, save

from hubpub.errors import OnnxFileError
from hubpub.onnxfile import FileBytes, OnnxFile

NBYTES = 4 * N


def _model(path: Path, entries: dict[str, str], change: Callable[[TensorProto], object] = lambda _: None) -> Path:
    """A model whose first initializer is external as ``entries`` say."""
    model = plain()
    first = model.graph.initializer[0]
    first.ClearField("raw_data")
    first.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        first.external_data.add(key=key, value=value)
    change(first)
    save(model, path, "inline")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "repo"
    (inside / "sub").mkdir(parents=True)
    for data in (inside / "w.data", inside / "sub" / "w.data", tmp_path / "outside"):
        data.write_bytes(bytes(range(256)) * 16)
    (inside / "leaves").symlink_to(tmp_path / "outside")
    (inside / "folder_leaves").symlink_to(tmp_path)
    (inside / "stays").symlink_to("w.data")
    (inside / "loop").symlink_to("loop")
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize("location", ["w.data", "./w.data", "sub/w.data", "sub/./w.data", "stays"])
@pytest.mark.parametrize("more", [{}, {"offset": "7"}, {"length": str(NBYTES)}, {"offset": "1696", "checksum": "00"}])
def test_sound_references(folder: Path, location: str, more: dict[str, str]) -> None:
    file = OnnxFile.open(_model(folder / "m.onnx", {"location": location, **more}))
    offset = int(more.get("offset", 0))
    expected = (bytes(range(256)) * 16)[offset : offset + NBYTES]
    assert file.read(file.model.graph.initializer[0]) == expected


_REFUSED = {
    "missing": ({"location": "other.data"}, "is missing"),
    "missing_folder": ({"location": "w.data/x"}, "cannot be opened|is missing"),
    "too_short": ({"location": "w.data", "offset": "1697"}, "too short: 4096 bytes, 4097 are needed"),
    "far_offset": ({"location": "w.data", "offset": "9" * 19}, "too short"),
    "absolute": ({"location": "/etc/passwd"}, "absolute"),
    "drive": ({"location": "C:w.data"}, "absolute"),
    "outside": ({"location": "../outside"}, "outside the model's folder"),
    "outside_and_back": ({"location": "../repo/w.data"}, "outside the model's folder"),
    "dots_inside": ({"location": "sub/../w.data"}, "outside the model's folder"),
    "backslash": ({"location": "..\\outside"}, "backslash"),
    "nul": ({"location": "w.data\0.png"}, "NUL"),
    "empty": ({"location": ""}, "is empty"),
    "link": ({"location": "leaves"}, "link that leaves"),
    "folder_link": ({"location": "folder_leaves/outside"}, "link that leaves"),
    "loop": ({"location": "loop"}, "cannot be opened"),
    "pipe": ({"location": "pipe"}, "not a regular file"),
    "a_folder": ({"location": "sub"}, "not a regular file"),
    "dot": ({"location": "."}, "not a regular file"),
    "long": ({"location": "n" * 5000}, "cannot be opened"),
    "no_location": ({"offset": "0"}, "no location"),
    "negative_offset": ({"location": "w.data", "offset": "-1"}, "not a number of bytes"),
    "other_digits": ({"location": "w.data", "offset": "\u0663"}, "not a number of bytes"),
    "huge_number": ({"location": "w.data", "offset": "9" * 5000}, "not a number of bytes"),
    "length_too_small": ({"location": "w.data", "length": "10"}, "length 10, type and shape ask for 2400"),
    "length_too_large": ({"location": "w.data", "length": "2401"}, "length 2401"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_unsound_references(folder: Path, name: str) -> None:
    entries, message = _REFUSED[name]
    with pytest.raises(OnnxFileError, match=message) as caught:
        OnnxFile.open(_model(folder / "m.onnx", entries))
    line = str(caught.value)
    assert "m.onnx: tensor 'w0' (graph[0].initializer[0])" in line
    assert "\n" not in line
    assert len(line) < len(str(folder)) + 400


_UNSOUND_TENSORS: dict[str, tuple[Callable[[TensorProto], object], str]] = {
    "strings": (lambda t: setattr(t, "data_type", TensorProto.STRING), "holds strings"),
    "unknown_type": (lambda t: setattr(t, "data_type", 99), "unknown type 99"),
    "undefined_type": (lambda t: setattr(t, "data_type", 0), "unknown type 0"),
    "negative_dim": (lambda t: t.dims.append(-1), "cannot be"),
    "huge": (lambda t: t.dims.extend([2**62] * 4), "too short"),
    "rank": (lambda t: t.dims.extend([1] * 300), "cannot be"),
    "both": (lambda t: setattr(t, "raw_data", b"abc"), "both inline and external"),
    "both_large": (lambda t: setattr(t, "raw_data", bytes(NBYTES)), "both inline and external"),
    "twice": (lambda t: t.external_data.add(key="location", value="sub/w.data"), "'location' twice"),
    "segment": (lambda t: setattr(t.segment, "end", 3), "one segment"),
}


@pytest.mark.parametrize("name", _UNSOUND_TENSORS)
def test_unsound_tensors(folder: Path, name: str) -> None:
    change, message = _UNSOUND_TENSORS[name]
    with pytest.raises(OnnxFileError, match=message):
        OnnxFile.open(_model(folder / "m.onnx", {"location": "w.data"}, change))


def test_inline_payload_must_fit_its_shape(tmp_path: Path) -> None:
    model = plain()
    model.graph.initializer[0].dims[0] += 1
    save(model, tmp_path / "m.onnx", "inline")
    with pytest.raises(OnnxFileError, match=r"needs 2404 bytes, raw_data at byte \d+ has 2400"):
        OnnxFile.open(tmp_path / "m.onnx")


def test_data_lies_beside_the_name_by_which_a_model_is_opened(folder: Path, tmp_path: Path) -> None:
    """A folder of links, as the Hub's cache makes it, is refused as soon as the data is a link that leaves it."""
    model = _model(folder / "m.onnx", {"location": "w.data"})
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "m.onnx").symlink_to(model)
    with pytest.raises(OnnxFileError, match="is missing"):
        OnnxFile.open(snapshot / "m.onnx")
    (snapshot / "w.data").symlink_to(folder / "w.data")
    with pytest.raises(OnnxFileError, match="link that leaves the model's folder"):
        OnnxFile.open(snapshot / "m.onnx")


@pytest.mark.parametrize("name", ["missing.onnx", "sub", "pipe", "loop", "m\0.onnx"])
def test_what_is_not_a_file_is_refused_at_once(folder: Path, name: str) -> None:
    with pytest.raises(OnnxFileError, match=r"no such file|not a regular file"):
        OnnxFile.open(folder / name)


def test_a_core_ml_package_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.mlpackage").mkdir()
    with pytest.raises(OnnxFileError, match="is a Core ML package, not an ONNX model"):
        OnnxFile.open(tmp_path / "m.mlpackage")


_LOCATIONS = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(["..", ".", "w.data", "leaves", "sub", "", "/", "loop", "pipe", "\\", "\0"]), max_size=5
    ).map("/".join),
)
_NUMBERS = st.one_of(st.integers(-(2**65), 2**65).map(str), st.integers(0, 5000).map(str), st.text(max_size=12))


@given(
    location=_LOCATIONS,
    numbers=st.dictionaries(st.sampled_from(["offset", "length", "payload"]), _NUMBERS),
    dims=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 40), max_size=5),
    data_type=st.integers(-1, 40),
)
@settings(max_examples=300, deadline=None)
def test_fuzzed_tables_never_leave_the_folder(
    tmp_path_factory: pytest.TempPathFactory, location: str, numbers: dict[str, str], dims: list[int], data_type: int
) -> None:
    base = tmp_path_factory.getbasetemp() / "external_fuzz"
    if not base.exists():
        (base / "repo" / "sub").mkdir(parents=True)
        (base / "outside").write_bytes(bytes(4096))
        (base / "repo" / "w.data").write_bytes(bytes(4096))
        (base / "repo" / "leaves").symlink_to(base / "outside")
        (base / "repo" / "loop").symlink_to("loop")
        os.mkfifo(base / "repo" / "pipe")

    def reshape(tensor: TensorProto) -> None:
        tensor.dims[:] = dims
        tensor.data_type = data_type

    try:
        location.encode()
    except UnicodeEncodeError:
        return
    path = _model(base / "repo" / "m.onnx", {"location": location, **numbers}, reshape)
    try:
        file = OnnxFile.open(path)
        payload = file.payload(file.model.graph.initializer[0])
        refused = ""
    except OnnxFileError as error:
        payload = None
        refused = str(error)
    assert len(refused) < len(str(base)) + 600
    if payload is not None:
        assert isinstance(payload, FileBytes)
        assert payload.path in (base / "repo" / "w.data", base / "repo" / "m.onnx")
        assert len(payload.read()) == payload.nbytes <= path.stat().st_size + 4096


def test_location_that_is_not_utf8(folder: Path) -> None:
    path = _model(folder / "m.onnx", {"location": "w.data"})
    path.write_bytes(path.read_bytes().replace(b"w.data", b"\xff.data"))
    with pytest.raises(OnnxFileError, match="not a name in UTF-8"):
        OnnxFile.open(path)


def test_onnx_reads_the_same_bytes(folder: Path) -> None:
    path = _model(folder / "m.onnx", {"location": "sub/w.data", "offset": "100", "length": str(NBYTES)})
    file = OnnxFile.open(path)
    assert file.read(file.model.graph.initializer[0]) == onnx.load(path).graph.initializer[0].raw_data

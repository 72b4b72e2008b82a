"""The walk over protobuf's wire format: whole, damaged, hostile, larger than protobuf can hold."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxfile.models import MODELS, plain, save

from hubpub.errors import OnnxFileError
from hubpub.onnxfile import FileBytes, OnnxFile, wire, write
from hubpub.onnxfile.wire import MESSAGES, Wire, splice, strip


def _wire(data: bytes) -> Wire:
    return Wire(lambda start, end: data[start:end], len(data), "model.onnx")


def _field(number: int, body: bytes) -> bytes:
    return wire._head(number, len(body)) + body


def test_every_way_to_a_tensor_is_known() -> None:
    def holds_tensor(message: Any, above: tuple[str, ...] = ()) -> bool:
        if message.name == "TensorProto":
            return True
        inner = [f.message_type for f in message.fields if f.message_type and f.message_type.name not in above]
        return any(holds_tensor(child, (*above, message.name)) for child in inner)

    found: dict[str, dict[int, tuple[str, str, bool]]] = {}
    queue = [onnx.ModelProto.DESCRIPTOR]
    while queue:
        message = queue.pop()
        if message.name in found:
            continue
        children = [f for f in message.fields if f.message_type and holds_tensor(f.message_type)]
        found[message.name] = {f.number: (f.name, f.message_type.name, f.is_repeated) for f in children}
        queue += [f.message_type for f in children]
    assert found == {kind: {n: tuple(child) for n, child in children.items()} for kind, children in MESSAGES.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lazy_bytes", [1, 100, 3000])
def test_strip_and_splice_are_inverse(name: str, lazy_bytes: int) -> None:
    whole = MODELS[name]()
    data = whole.SerializeToString(deterministic=True)
    rest, cuts = strip(_wire(data), lazy_bytes)
    raw = {steps: cut for steps, cut in cuts.items() if cut.field == "raw_data"}
    assert all(cut.length >= lazy_bytes for cut in cuts.values())
    assert len(rest) <= len(data) - sum(cut.length for cut in cuts.values())
    if len(raw) < len(cuts):
        return  # typed payloads do not come back as raw_data
    parsed = onnx.ModelProto.FromString(rest).SerializeToString(deterministic=True)
    pieces, size = splice(parsed, {steps: cut.length for steps, cut in raw.items()}, "model.onnx")
    filled = b"".join(
        piece if isinstance(piece, bytes) else data[raw[piece.steps].offset :][: raw[piece.steps].length]
        for piece in pieces
    )
    assert filled == data
    assert size == len(data)


def test_real_models_come_back_bit_for_bit(silero_onnx_dir: Path, tmp_path: Path) -> None:
    paths = sorted(silero_onnx_dir.glob("*.onnx"))
    assert paths
    for path in paths:
        file = OnnxFile.open(path)
        assert len(file.model.SerializeToString()) < path.stat().st_size
        write(file, tmp_path / path.name)
        assert (tmp_path / path.name).read_bytes() == onnx.load(path).SerializeToString(deterministic=True)


def test_unknown_fields_are_kept(tmp_path: Path) -> None:
    model = plain()
    inner = _field(5, model.graph.initializer[0].SerializeToString() + _field(3000, b"new in tensor"))
    graph = model.graph.SerializeToString() + inner + _field(3001, b"new in graph")
    model.ClearField("graph")
    data = model.SerializeToString() + _field(7, graph) + _field(3002, b"new in model")
    (tmp_path / "m.onnx").write_bytes(data)
    write(OnnxFile.open(tmp_path / "m.onnx"), tmp_path / "n.onnx")
    written = (tmp_path / "n.onnx").read_bytes()
    assert all(f"new in {where}".encode() in written for where in ("tensor", "graph", "model"))
    assert onnx.ModelProto.FromString(written) == onnx.ModelProto.FromString(data)


def test_every_truncation_is_one_clear_error(tmp_path: Path) -> None:
    data = plain().SerializeToString(deterministic=True)
    graph = plain().graph.SerializeToString(deterministic=True)
    after_graph = data.index(graph) + len(graph)
    path = tmp_path / "m.onnx"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        if length >= after_graph:  # cut between two fields of the model it is another model, and sound
            break
        with pytest.raises(OnnxFileError) as caught:
            OnnxFile.open(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


_DAMAGE: dict[str, tuple[bytes, str]] = {
    "number_cut_short": (b"\x08\x80", "byte 1 a number is cut short"),
    "overlong_number": (b"\x08" + b"\xff" * 11, "longer than 10 bytes"),
    "field_past_the_end": (b"\x08\x07\x3a\xff\xff\xff\xff\x0f", "field 7 ends at byte"),
    "group": (b"\x0b\x0c", "wire type 3"),
    "field_zero": (b"\x02\x00", "field number 0"),
    "text": (b"<!DOCTYPE html><html>404</html>", "at byte"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "empty": (b"", "not an ONNX model"),
    "no_graph": (b"\x08\x07", "not an ONNX model"),
}


@pytest.mark.parametrize("name", _DAMAGE)
def test_damage_names_file_and_offset(name: str, tmp_path: Path) -> None:
    data, message = _DAMAGE[name]
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(OnnxFileError) as caught:
        OnnxFile.open(tmp_path / "m.onnx")
    assert message in str(caught.value)
    assert "m.onnx: " in str(caught.value)


def test_merging_a_second_tensor_into_an_attribute_is_refused() -> None:
    tensor = plain().graph.initializer[0].SerializeToString()
    node = _field(5, _field(5, tensor) + _field(5, b"\x4a\x00"))
    with pytest.raises(OnnxFileError, match="t occurs twice"):
        strip(_wire(_field(7, _field(1, node))), 10)


def test_nesting_is_bounded() -> None:
    data = b"\x00" * 10
    for _ in range(60):
        data = _field(1, _field(5, _field(6, data)))  # node, attribute, graph
    with pytest.raises(OnnxFileError, match="nested more than 100"):
        strip(_wire(_field(7, data)), 1)


def test_fields_and_rest_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(wire, "MAX_FIELDS", 1000)
        with pytest.raises(OnnxFileError, match="more than 1000 fields"):
            strip(_wire(_field(7, b"\x0a\x00" * 2000)), 1)
    monkeypatch.setattr(wire, "MAX_GRAPH_BYTES", 1000)
    with pytest.raises(OnnxFileError, match="over 1000 bytes"):
        strip(_wire(_field(7, _field(10, b"d" * 2000))), 1)


def test_inline_file_larger_than_protobuf_can_hold(tmp_path: Path) -> None:
    """2.2 GB of a hole in a sparse file: opened in a few MB, its tail read by range, refused as inline output."""
    nbytes = 2_200_000_000
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.UINT8, dims=[nbytes], name="w").SerializeToString()
    inner = len(tensor) + len(wire._head(9, nbytes)) + nbytes
    graph = wire._head(5, inner) + tensor + wire._head(9, nbytes)
    head = b"\x08\x08" + wire._head(7, len(graph) + nbytes) + graph
    path = tmp_path / "m.onnx"
    with path.open("wb") as out:
        out.write(head)
        out.truncate(len(head) + nbytes)
        out.seek(-1, 2)
        out.write(b"\x07")
    tracemalloc.start()
    file = OnnxFile.open(path)
    (weights,) = (located.tensor for located in file.tensors())
    payload = file.payload(weights)
    assert isinstance(payload, FileBytes)
    assert (payload.offset, payload.nbytes) == (len(head), nbytes)
    assert file.read(weights, nbytes - 2) == b"\x00\x07"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    with pytest.raises(OnnxFileError, match="external data"):
        write(file, tmp_path / "out.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def _flipped(data: bytes, flips: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for position, value in flips:
        changed[position % len(changed)] ^= value
    return bytes(changed)


_RAW_ONLY = [build for name, build in MODELS.items() if name != "typed"]
_FLIPS = st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(1, 255)), min_size=1, max_size=4)


@given(build=st.sampled_from(_RAW_ONLY), flips=_FLIPS, cut=st.none() | st.integers(0, 1 << 30))
@settings(max_examples=400, deadline=None)
def test_fuzzed_file_is_refused_or_read_as_protobuf_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    build: Callable[[], onnx.ModelProto],
    flips: list[tuple[int, int]],
    cut: int | None,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "wire_fuzz"  # one for all examples
    folder.mkdir(exist_ok=True)
    data = _flipped(build().SerializeToString(deterministic=True), flips)
    data = data if cut is None else data[: cut % len(data)]
    (folder / "m.onnx").write_bytes(data)
    try:
        write(OnnxFile.open(folder / "m.onnx", lazy_bytes=64), folder / "n.onnx")
    except OnnxFileError:
        return
    assert onnx.ModelProto.FromString((folder / "n.onnx").read_bytes()) == onnx.ModelProto.FromString(data)


@given(flips=_FLIPS)
@settings(max_examples=150, deadline=None)
def test_fuzzed_typed_payloads_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "wire_fuzz"  # one for all examples
    folder.mkdir(exist_ok=True)
    save(MODELS["typed"](), folder / "m.onnx", "inline")
    (folder / "m.onnx").write_bytes(_flipped((folder / "m.onnx").read_bytes(), flips))
    try:
        file = OnnxFile.open(folder / "m.onnx", lazy_bytes=64)
        for located in file.tensors():
            payload = file.payload(located.tensor)
            assert payload is None or len(payload.read()) == payload.nbytes
    except OnnxFileError:
        pass

"""Opening, reading and writing models: what comes out is what went in."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnxfile.models import MODELS, contents, plain, save, skeleton, tensor

from hubpub.errors import OnnxFileError
from hubpub.onnxfile import CHUNK, FileBytes, OnnxFile, Payload, Slot, Steps, payload, write
from hubpub.onnxfile.payload import Varints
from hubpub.onnxfile.wire import Wire, _head

_FIRST: Steps = (("graph", 0), ("initializer", 0))


@pytest.mark.parametrize("layout", ["inline", "external", "scattered"])
@pytest.mark.parametrize("name", MODELS)
def test_reads_every_tensor(name: str, layout: str, tmp_path: Path) -> None:
    expected = contents(MODELS[name]())
    save(MODELS[name](), tmp_path / "m.onnx", layout)
    file = OnnxFile.open(tmp_path / "m.onnx", lazy_bytes=64)
    assert {located.steps for located in file.tensors()} == set(expected)
    lazy = 0
    for located in file.tensors():
        array = file.array(located.tensor)
        assert array.tobytes() == expected[located.steps]
        assert array.shape == tuple(located.tensor.dims)
        raw = file.read(located.tensor)
        assert file.read(located.tensor, 3, 50) == raw[3:50]
        stored = file.payload(located.tensor)
        assert stored is None or b"".join(stored.chunks()) == raw
        lazy += stored is not None
    assert lazy


@pytest.mark.parametrize("layout", ["inline", "external", "scattered"])
@pytest.mark.parametrize("name", MODELS)
def test_writes_inline_what_protobuf_would(name: str, layout: str, tmp_path: Path) -> None:
    save(MODELS[name](), tmp_path / "m.onnx", layout)
    sizes = write(OnnxFile.open(tmp_path / "m.onnx"), tmp_path / "n.onnx")
    data = (tmp_path / "n.onnx").read_bytes()
    assert sizes == {"n.onnx": len(data)}
    model = onnx.ModelProto.FromString(data)
    assert model.SerializeToString(deterministic=True) == data
    assert contents(model) == contents(MODELS[name]())
    assert skeleton(model) == skeleton(MODELS[name]())


def test_handles_survive_edits_and_are_not_taken_from_the_file(tmp_path: Path) -> None:
    model = plain()
    forged = model.graph.initializer[5]  # a small one, marked as if it had the first payload
    forged.external_data.add(key="payload", value="0")
    save(model, tmp_path / "m.onnx", "inline")
    file = OnnxFile.open(tmp_path / "m.onnx")
    assert file.payload(file.model.graph.initializer[5]) is None
    moved = file.model.graph.initializer[2]
    file.model.graph.initializer.add().CopyFrom(moved)
    file.model.graph.initializer[-1].name = "copy"
    del file.model.graph.initializer[0]
    write(file, tmp_path / "n.onnx")
    after = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "n.onnx").graph.initializer}
    np.testing.assert_array_equal(after["copy"], after["w2"])
    assert "w0" not in after
    assert after["scale"] == 2


class _Doubled(Payload):
    """What a cast is: bytes computed from another payload's, chunk by chunk."""

    def __init__(self, source: Payload) -> None:
        self.source = source

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def chunks(self) -> Iterator[bytes]:
        for chunk in self.source.chunks():
            yield (np.frombuffer(chunk, np.float32) * 2).tobytes()


def test_attached_payload_is_written_external_and_inline(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "inline")
    file = OnnxFile.open(tmp_path / "m.onnx")
    weights = file.model.graph.initializer[0]
    before = file.array(weights)
    source = file.payload(weights)
    assert source is not None
    file.attach(weights, _Doubled(source))
    np.testing.assert_array_equal(file.array(weights), before * 2)
    slots: dict[Steps, Slot]
    for slots in ({}, {_FIRST: Slot("n.data", 128)}):
        sizes = write(file, tmp_path / "n.onnx", slots)
        assert len(sizes) == 1 + len(slots)
        np.testing.assert_array_equal(
            numpy_helper.to_array(onnx.load(tmp_path / "n.onnx").graph.initializer[0]), before * 2
        )


def test_written_files_are_0644_whole_and_do_not_grow(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "inline")
    file = OnnxFile.open(tmp_path / "m.onnx")
    slots = {_FIRST: Slot("n.data", 0)}
    (tmp_path / ".n.data.partial").write_bytes(b"of a killed process")
    old = os.umask(0o077)
    try:
        first = write(file, tmp_path / "n.onnx", slots)
        assert write(file, tmp_path / "n.onnx", slots) == first
    finally:
        os.umask(old)
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "n.onnx", "n.data"}
    for name, size in first.items():
        status = (tmp_path / name).stat()
        assert (status.st_size, status.st_mode & 0o777) == (size, 0o644)


def test_a_model_may_be_written_over_itself(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "external")
    file = OnnxFile.open(tmp_path / "m.onnx")
    # The first tensor goes where others lie in the data file that it is read from.
    slots = {_FIRST: Slot("m.onnx.data", 4096)}
    write(file, tmp_path / "m.onnx", slots)
    assert contents(onnx.load(tmp_path / "m.onnx")) == contents(plain())


def test_a_file_that_was_cut_off_since_is_not_read_as_values(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "external")
    file = OnnxFile.open(tmp_path / "m.onnx")
    tensor = max((located.tensor for located in file.tensors()), key=lambda each: np.prod(each.dims))
    assert file.array(tensor).shape == tuple(tensor.dims)
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(OnnxFileError, match="longer when it was opened"):
        file.array(tensor)


def test_failing_write_leaves_what_was_there(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "external")
    file = OnnxFile.open(tmp_path / "m.onnx")
    (tmp_path / "n.onnx").write_bytes(b"last good state")
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(OnnxFileError, match="longer when it was opened"):
        write(file, tmp_path / "n.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data", "n.onnx"}
    assert (tmp_path / "n.onnx").read_bytes() == b"last good state"


def test_a_target_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "inline")
    with pytest.raises(OnnxFileError, match="cannot be written: No such file"):
        write(OnnxFile.open(tmp_path / "m.onnx"), tmp_path / "missing" / "n.onnx")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_full_disk_is_one_error_and_a_plain_file_system_is_none(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    save(plain(), tmp_path / "m.onnx", "inline")
    file = OnnxFile.open(tmp_path / "m.onnx")
    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    if code == errno.ENOSPC:
        with pytest.raises(OnnxFileError, match="cannot be written: No space left on device"):
            write(file, tmp_path / "n.onnx")
        assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    else:
        write(file, tmp_path / "n.onnx")
        assert onnx.load(tmp_path / "n.onnx") == plain()


@pytest.mark.parametrize("name", ["n.onnx", "../n.data", "", "a/b"])
def test_slots_name_a_file_of_their_own(name: str, tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "inline")
    with pytest.raises(ValueError, match="not a file name of its own"):
        write(OnnxFile.open(tmp_path / "m.onnx"), tmp_path / "n.onnx", {_FIRST: Slot(name, 0)})
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("in_kernel", [True, False])
def test_copies_in_kernel_or_by_chunks(in_kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    data = np.random.default_rng(0).bytes(2 * CHUNK + 77)
    (tmp_path / "source").write_bytes(b"head" + data + b"tail")
    seen: list[int] = []
    with (tmp_path / "out").open("wb") as out:
        FileBytes(tmp_path / "source", 4, len(data)).copy_to(out.fileno(), 10, seen.append)
    assert (tmp_path / "out").read_bytes() == bytes(10) + data
    assert sum(seen) == len(data)


@pytest.mark.parametrize("code", sorted(payload._NO_COPY_RANGE))
def test_refused_kernel_copy_falls_back(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    (tmp_path / "source").write_bytes(b"0123456789")
    with (tmp_path / "out").open("wb") as out:
        FileBytes(tmp_path / "source", 2, 5).copy_to(out.fileno(), 0, lambda _: None)
    assert (tmp_path / "out").read_bytes() == b"23456"


@given(numbers=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=200), chunk=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_varints_decode_as_protobuf_does(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "varints"
    packed = TensorProto(int64_data=numbers).SerializeToString()
    (field,) = Wire(lambda start, end: packed[start:end], len(packed), "").fields(0, len(packed))
    path.write_bytes(packed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload, "CHUNK", chunk)
        encoded = FileBytes(path, field.body, field.end - field.body)
        read = Varints(encoded, 8, len(numbers)).read()
        assert np.frombuffer(read, np.int64).tolist() == numbers
        for count in (len(numbers) - 1, len(numbers) + 1):
            with pytest.raises(OnnxFileError, match="numbers that its dims ask for"):
                Varints(encoded, 8, count).read()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT6E2M3, TensorProto.FLOAT4E2M1, TensorProto.INT2, TensorProto.UINT2])
def test_packed_types_have_the_size_that_onnx_gives_them(kind: int, tmp_path: Path) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    model = plain()
    model.graph.initializer.add().CopyFrom(tensor("packed", (np.arange(2001) % 2).astype(dtype)))
    save(model, tmp_path / "m.onnx", "inline")
    file = OnnxFile.open(tmp_path / "m.onnx", lazy_bytes=64)
    packed = file.model.graph.initializer[-1]
    assert packed.data_type == kind
    assert file.payload(packed) is not None
    assert file.read(packed) == model.graph.initializer[-1].raw_data


def test_a_payload_in_pieces_stays_in_the_graph(tmp_path: Path) -> None:
    """Protobuf allows packed numbers in several runs; nobody writes them, so they are not worth a lazy form."""
    model = plain()
    halves = [TensorProto(float_data=[number] * 300).SerializeToString() for number in (1, 2)]
    head = TensorProto(name="halves", data_type=TensorProto.FLOAT, dims=[600]).SerializeToString()
    body = head + halves[0] + halves[1]
    graph = _head(5, len(body)) + body
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString() + _head(7, len(graph)) + graph)
    with pytest.raises(OnnxFileError, match="graph occurs twice"):
        OnnxFile.open(tmp_path / "m.onnx")
    whole = model.graph.SerializeToString() + graph
    model.ClearField("graph")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString() + _head(7, len(whole)) + whole)
    file = OnnxFile.open(tmp_path / "m.onnx")
    last = file.model.graph.initializer[-1]
    assert file.payload(last) is None
    assert file.array(last).tolist() == [1] * 300 + [2] * 300
    assert file.read(last, 1196, 1204) == np.array([1, 2], np.float32).tobytes()


def test_strings_stay_in_the_graph(tmp_path: Path) -> None:
    model = plain()
    words = [b"word %d" % i for i in range(500)]
    model.graph.initializer.add(name="words", data_type=TensorProto.STRING, dims=[500], string_data=words)
    save(model, tmp_path / "m.onnx", "inline")
    file = OnnxFile.open(tmp_path / "m.onnx")
    assert list(file.model.graph.initializer[-1].string_data) == words
    write(file, tmp_path / "n.onnx")
    assert onnx.load(tmp_path / "n.onnx") == model

"""safetensors_int8: the reader against damage, the layout, integers and scales, the config variant, memory."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hubpub.errors import HubpubError, StepError
from hubpub.recipe.model import Transform
from hubpub.transform._blocks import unpack
from hubpub.transform._safetensors import BITS, Entry, lay_out, read_header
from hubpub.transform.safetensors_int8 import SafetensorsInt8

Array = npt.NDArray[Any]
_DTYPES: dict[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I8": np.int8, "U8": np.uint8,
    "I64": np.int64, "F64": np.float64, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def save(path: Path, tensors: dict[str, Array], metadata: dict[str, str] | None = None, order: int = 1) -> None:
    """As the reference implementation does, but in the order given, or reversed."""
    document: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, values in list(tensors.items())[::order]:
        start, data = len(data), data + values.tobytes()
        entry = {"dtype": _NAMES[values.dtype], "shape": values.shape, "data_offsets": [start, len(data)]}
        document[name] = entry
    text = json.dumps(document).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def load(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read without the code under test."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    document = json.loads(whole[8 : 8 + length])
    metadata = document.pop("__metadata__", {})
    data = whole[8 + length :]
    tensors = {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in document.items()
    }
    assert sum(values.nbytes for values in tensors.values()) == len(data)
    return tensors, metadata


def weights(dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    shapes = {
        "flow_lm.layers.0.attn.in_proj.weight": (96, 40), "flow_lm.layers.0.mlp.weight": (40, 51),
        "flow_lm.out_eos.weight": (1, 40), "flow_lm.embed.weight": (10, 40), "mimi.conv.weight": (8, 4, 3),
        "norm.weight": (40,), "empty.weight": (0, 4),
    }  # fmt: skip
    made = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return {**made, "steps": np.arange(3), "flag": np.array([True])}


_PARAMS: dict[str, Any] = {"include": ("flow_lm.*.weight",), "exclude": ("*out_eos*", "*embed*")}
_CHOSEN = ("flow_lm.layers.0.attn.in_proj.weight", "flow_lm.layers.0.mlp.weight")


def convert(tensors: dict[str, Array], folder: Path, **params: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    (folder / "out").mkdir(exist_ok=True)
    target = folder / "out" / "m.safetensors"
    target.unlink(missing_ok=True)
    save(folder / "m.safetensors", tensors, {"format": "pt", "a": "ü"})
    seen: list[int] = []
    facts = dict(SafetensorsInt8(**{**_PARAMS, **params}).apply(folder / "m.safetensors", target, seen.append))
    assert sum(seen) == target.stat().st_size
    written, metadata = load(target)
    assert metadata == {"format": "pt", "a": "ü"}
    return written, facts


# -------------------------------------------------------------------------------------------------------- quantizing


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_int8_per_row(dtype: Any, tmp_path: Path) -> None:
    source = weights(dtype)
    written, facts = convert(source, tmp_path)
    assert set(written) == set(source) | {f"{name}_scale" for name in _CHOSEN}
    for name in _CHOSEN:
        integers, scale = written[name], written[f"{name}_scale"]
        floats = source[name].astype(np.float32)
        assert (integers.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, (len(floats), 1))
        np.testing.assert_allclose(scale[:, 0], np.abs(floats).max(1) / 127, rtol=1e-6)
        assert np.abs(integers).max() == 127
        assert (np.abs(integers * scale - floats) <= scale * 0.501).all()
    for name in set(source) - set(_CHOSEN):
        assert written[name].dtype == source[name].dtype
        assert written[name].tobytes() == source[name].tobytes()
    layers = {layer["weight"]: layer for layer in facts["layers"]}
    floats = source[_CHOSEN[0]].astype(np.float64)
    error = written[_CHOSEN[0]] * written[f"{_CHOSEN[0]}_scale"].astype(np.float64) - floats
    snr = 10 * np.log10(np.square(floats).sum() / np.square(error).sum())
    assert layers[_CHOSEN[0]]["snr_db"] == pytest.approx(snr, abs=0.01)
    assert layers[_CHOSEN[0]]["method"] == "int8 per row"
    assert {skip["weight"]: skip["reason"] for skip in facts["skipped"]} == {
        "flow_lm.out_eos.weight": "excluded by '*out_eos*'",
        "flow_lm.embed.weight": "excluded by '*embed*'",
    }
    assert facts["kept"]["tensors"] == len(source) - 2
    assert facts["bytes_in"] == sum(values.nbytes for values in source.values())
    assert facts["bytes_out"] == sum(values.nbytes for values in written.values())


@pytest.mark.parametrize(("block_size", "clip"), [(None, "none"), (16, "mse")])
def test_int4_in_blocks(block_size: int | None, clip: str, tmp_path: Path) -> None:
    source = weights()
    written, facts = convert(source, tmp_path, bits=4, block_size=block_size, clip=clip)
    block = block_size or 32
    for name in _CHOSEN:
        rows, columns = source[name].shape
        packed, scale = written[name], written[f"{name}_scale"]
        assert (packed.dtype, packed.shape) == (np.uint8, (rows, -(-columns // 2)))
        assert scale.shape == (rows, -(-columns // block))
        got = (unpack(packed, 4, columns).astype(np.float32) - 8) * np.repeat(scale, block, 1)[:, :columns]
        snr = 10 * np.log10(np.square(source[name]).sum() / np.square(got - source[name]).sum())
        assert snr > 17
        assert {layer["weight"]: layer["snr_db"] for layer in facts["layers"]}[name] == pytest.approx(snr, abs=0.02)


def test_pieces_of_a_matrix_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, facts = convert(weights(), tmp_path)
    whole = (tmp_path / "out" / "m.safetensors").read_bytes()
    monkeypatch.setattr("hubpub.transform.safetensors_int8._VALUES", 130)
    _, again = convert(weights(), tmp_path)
    assert (tmp_path / "out" / "m.safetensors").read_bytes() == whole
    assert facts == again


def test_the_order_of_the_source_does_not_matter(tmp_path: Path) -> None:
    files = []
    for order in (1, -1):
        save(tmp_path / "m.safetensors", weights(), order=order)
        target = tmp_path / f"{order}.safetensors"
        SafetensorsInt8(**_PARAMS).apply(tmp_path / "m.safetensors", target, lambda _: None)
        files.append(target.read_bytes())
    assert files[0] == files[1]


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    convert(weights(ml_dtypes.bfloat16), tmp_path)
    for entry in read_header(tmp_path / "out" / "m.safetensors").entries:
        assert entry.data is not None
        assert entry.data.offset % (BITS[entry.dtype] // 8) == 0


# ------------------------------------------------------------------------------------------------------------ config


def test_the_config_variant(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model": "tts", "sizes": [1, 2]}), encoding="utf-8")
    convert(weights(ml_dtypes.bfloat16), tmp_path, config="config.json", config_as="config.int8.json")
    variant = json.loads((tmp_path / "out" / "config.int8.json").read_text(encoding="utf-8"))
    said = variant.pop("quantization_config")
    assert variant == {"model": "tts", "sizes": [1, 2]}
    assert said["bits"] == 8
    assert said["granularity"] == "per_channel"
    assert said["quantized"] == sorted(_CHOSEN, key=list(weights()).index)
    assert said["not_quantized"] == ["flow_lm.out_eos.weight", "flow_lm.embed.weight"]
    assert said["kv_cache_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "cannot be read"), ("[]", "not an object without a quantization_config"), ("{", "is not JSON"),
        ('{"quantization_config": {}}', "not an object without"), ("[" * 100_000, "is not JSON"),
        ("\udcff", "is not JSON"),
    ],
)  # fmt: skip
def test_configs_refused(text: str | None, what: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StepError, match=what):
        convert(weights(), tmp_path, config="config.json")
    assert not list((tmp_path / "out").iterdir())


# ----------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"include": ("flow_ml.*",)}, "include 'flow_ml.*' matches no matrix"),
        ({"include": ("norm.*",), "exclude": ()}, "include 'norm.*' matches no matrix"),
        ({"exclude": ("*eos_out*",)}, r"exclude '\*eos_out\*' matches nothing that is included"),
        ({"exclude": ("flow_lm.*",)}, "nothing that is included can be quantized"),
    ],
)
def test_globs_that_match_nothing_are_refused(params: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=what):
        convert(weights(), tmp_path, **params)


def test_twice_is_refused(tmp_path: Path) -> None:
    tensors = weights() | {f"{_CHOSEN[0]}_scale": np.ones((96, 1), np.float32)}
    with pytest.raises(StepError, match="quantized already"):
        convert(tensors, tmp_path)


def test_a_matrix_with_nan_is_left_alone(tmp_path: Path) -> None:
    tensors = weights()
    tensors[_CHOSEN[0]][3, 3] = np.nan
    written, facts = convert(tensors, tmp_path)
    assert written[_CHOSEN[0]].dtype == np.float32
    assert facts["skipped"][0]["reason"] == "not finite (NaN or infinity)"


@pytest.mark.parametrize(
    "params",
    [
        {"include": ()},
        {"block_size": 32},
        {"bits": 5},
        {"config": "../c.json"},
        {"config": ".."},
        {"config_as": "c.json"},
    ],
)
def test_params_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SafetensorsInt8(**{**_PARAMS, **params})


# ------------------------------------------------------------------------------------------------------------ reader


def _file(path: Path, document: object, data: bytes = b"", length: int | None = None) -> Path:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def _entry(begin: int, end: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("document", "data", "what"),
    [
        ({"a": _entry(0, 4), "b": _entry(2, 6)}, 6, "begins at byte 2, the one before ends at 4"),
        ({"a": _entry(0, 4), "b": _entry(5, 6)}, 6, "begins at byte 5, the one before ends at 4"),
        ({"a": _entry(1, 4)}, 4, "begins at byte 1, the one before ends at 0"),
        ({"a": _entry(0, 4)}, 5, "1 bytes belong to no tensor"),
        ({"a": _entry(0, 4)}, 3, "ends at byte 4 of 3"),
        ({"a": _entry(0, 4, [5])}, 4, "needs 5 bytes, it has 4"),
        ({"a": _entry(0, 4, [-4])}, 4, "its shape cannot be"),
        ({"a": _entry(0, 4, [True, 4])}, 4, "its shape cannot be"),
        ({"a": _entry(0, 4, [4.0])}, 4, "its shape cannot be"),
        ({"a": _entry(0, 4, [1 << 62, 1 << 62])}, 4, "needs"),
        ({"a": _entry(0, 4, [4], "F128")}, 4, "its type 'F128' is not known"),
        ({"a": _entry(0, 4, [4], ["U8"])}, 4, "is not known"),
        ({"a": {"dtype": "U8", "shape": [4]}}, 4, "must have dtype, shape and data_offsets"),
        ({"a": {**_entry(0, 4), "more": 1}}, 4, "and nothing else"),
        ({"a": {**_entry(0, 4), "data_offsets": [4, 0]}}, 4, "its data_offsets cannot be"),
        ({"a": {**_entry(0, 4), "data_offsets": [0, 2, 4]}}, 4, "its data_offsets cannot be"),
        ({"a": 3}, 4, "must have dtype"),
        ({"__metadata__": {"a": 1}}, 0, "its metadata are not texts"),
        ({"__metadata__": []}, 0, "its metadata are not texts"),
        (b'{"a":1,"a":1}', 0, "a key stands there twice"),
        (b'{"a":NaN}', 0, "NaN is not a number"),
        (b"[]", 0, "the header is not an object"),
        (b"{" + b'"a":{' * 5000, 0, "cannot be read"),
        (b'{"a":"\xff"}', 0, "cannot be read"),
        (b'{"\\ud800":' + json.dumps(_entry(0, 0)).encode() + b"}", 0, "surrogates"),
    ],
)
def test_damage_is_one_error(document: object, data: int, what: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=f"m.safetensors: not a sound safetensors file: .*{what}"):
        read_header(_file(tmp_path / "m.safetensors", document, bytes(data)))


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 100_000_001, (1 << 64) - 1])
def test_lengths_that_cannot_be(length: int, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=f"a header of {length} bytes in a file of 10"):
        read_header(_file(tmp_path / "m.safetensors", b"{}", length=length))


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    for name in ("short", "missing", "."):
        with pytest.raises(HubpubError):
            read_header(tmp_path / name)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 30), changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), max_size=4)
)
def test_any_damage_is_an_error_or_a_sound_file(seed: int, changes: list[tuple[int, int]], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path, weights(), {"format": "pt"})
    whole = bytearray(path.read_bytes())
    for at, byte in changes:
        whole[at % len(whole) if seed % 2 else at % 700] = byte
    path.write_bytes(whole[: len(whole) - seed % 5 % 3])
    try:
        header = read_header(path)
    except StepError:
        return
    end = max(entry.data.offset + entry.data.length for entry in header.entries if entry.data)
    assert end == path.stat().st_size
    assert sum(entry.nbytes for entry in header.entries) == sum(e.data.length for e in header.entries if e.data)


_NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")
_SHAPE = st.lists(st.integers(0, 5), max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(_NAME, st.tuples(st.sampled_from(sorted(BITS)), _SHAPE), max_size=6),
    metadata=st.dictionaries(_NAME, st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3),
)
def test_what_is_laid_out_is_read_back(
    tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str], tmp_path: Path
) -> None:
    entries = [Entry(name, dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()]
    head, begins = lay_out(entries, metadata)
    assert len(head) % 8 == 0
    path = tmp_path / "m.safetensors"
    path.write_bytes(head + bytes(sum(entry.nbytes for entry in entries)))
    header = read_header(path)
    assert header.metadata == metadata
    assert {(e.name, e.dtype, e.shape) for e in header.entries} == {(e.name, e.dtype, e.shape) for e in entries}
    assert {e.name: e.data.offset for e in header.entries if e.data} == begins
    assert lay_out(reversed(entries), dict(reversed(metadata.items())))[0] == head


# ----------------------------------------------------------------------------------------------------------- machine

_IN_A_PROCESS = """
    import re, sys
    from pathlib import Path
    import numpy
    from hubpub.transform import _blocks, _int8_values, _safetensors
    from hubpub.transform.safetensors_int8 import SafetensorsInt8

    def status(field):
        return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    before = status("VmRSS")
    SafetensorsInt8(include=("*",)).apply(Path(sys.argv[1]), Path(sys.argv[2]), lambda _: None)
    print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak RSS of a process is read from /proc")
def test_memory_is_bounded_by_a_piece(tmp_path: Path) -> None:
    """A matrix of 400 MB in a file with a hole, and another of 40 MB that is not zero."""
    head, begins = lay_out([Entry("a", "F32", (10_000, 10_000)), Entry("b", "F32", (1_000, 10_000))], {})
    with (tmp_path / "m.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(begins["b"])
        file.seek(begins["b"])
        file.write(np.random.default_rng(0).standard_normal((1_000, 10_000), np.float32).tobytes())
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_IN_A_PROCESS), tmp_path / "m.safetensors", tmp_path / "o.safetensors"],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 200_000_000


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    save(tmp_path / "m.safetensors", weights())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(StepError, match="cannot be written: File too large"):
            SafetensorsInt8(**_PARAMS).apply(tmp_path / "m.safetensors", tmp_path / "o.safetensors", lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_it_is_a_transform_of_the_recipe() -> None:
    made: Any = TypeAdapter(Transform).validate_python({"transform": "safetensors_int8", "include": ["*"]})
    assert isinstance(made, SafetensorsInt8)
    assert made.model_validate(made.model_dump(mode="json")) == made

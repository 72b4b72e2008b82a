"""Compressed constants, against coremltools' own decompression; and open shapes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import get_new_symbol
from coremltools.converters.mil.mil import types as mil_types
from coremltools.optimize import _utils as packing
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_programs import IOS, Chance, build, exported, mb, run

from hubpub.coremlfile.mil import Program
from hubpub.errors import CoremlFileError

RNG = Chance()
FEW = settings(max_examples=20, deadline=None, derandomize=True)
X = np.zeros(1, np.float32)


@pytest.fixture(autouse=True)
def _anew() -> None:
    RNG.anew()


def decompressed(function: Any, ios: int, precision: Any = "fp32") -> tuple[np.ndarray, np.ndarray]:
    """A constant as our program has it, and as coremltools materializes it."""
    expected: list[np.ndarray] = []

    def body(x: Any) -> Any:
        made = function()
        value = made.op.materialized_val_inference()
        expected.append(value[1] if isinstance(value, tuple) else value)
        flat = mb.reshape(x=made, shape=[-1])
        return mb.cast(x=flat, dtype="fp32") if made.dtype != mil_types.fp32 else flat

    (found,) = run(body, {"x": X}, ios=ios, precision=precision)
    return found.reshape(expected[-1].shape), expected[-1].astype(np.float32)


@FEW
@given(st.sampled_from([1, 2, 4, 6, 8]), st.lists(st.integers(1, 7), min_size=1, max_size=4), st.booleans())
def test_tables_of_ios16(bits: int, shape: list[int], half: bool) -> None:
    RNG.anew()
    dtype = np.float16 if half else np.float32
    lut = RNG.normal(size=2**bits).astype(dtype)
    indices = RNG.integers(0, 2**bits, int(np.prod(shape))).astype(np.uint8)
    packed = packing.pack_elements_into_bits(indices, bits)
    given_ = {"lut": lut, "indices": packed, "shape": np.array(shape, np.uint32)}
    found, expected = decompressed(lambda: mb.constexpr_lut_to_dense(**given_), 16)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found.reshape(-1), lut[indices].astype(np.float32))


@FEW
@given(st.data())
def test_tables_of_ios18(data: st.DataObject) -> None:
    """Of 1 to 8 bits, a table for each block of any axes, of numbers or of vectors."""
    RNG.anew()
    bits = data.draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    rank = data.draw(st.integers(1, 4))
    tables = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    shape = [count * data.draw(st.integers(1, 3)) for count in tables]
    vector = data.draw(st.sampled_from([1, 1, 2, 3]))
    lut = RNG.normal(size=(*tables, 2**bits, vector)).astype(np.float16)
    kind = mil_types.type_mapping.string_to_nptype(f"uint{bits}") if bits < 8 else np.uint8
    indices = RNG.integers(0, 2**bits, shape).astype(kind)
    given_: dict[str, Any] = {"indices": indices, "lut": lut}
    if vector > 1:
        given_["vector_axis"] = data.draw(st.integers(-rank, rank - 1))
    found, expected = decompressed(lambda: mb.constexpr_lut_to_dense(**given_), 18)
    np.testing.assert_array_equal(found, expected)


@FEW
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_sparse_constants_of_ios16(shape: list[int], seed: int) -> None:
    RNG.anew()
    rng = np.random.default_rng(seed)
    mask = rng.random(int(np.prod(shape))) < 0.6
    values = rng.normal(size=int(mask.sum())).astype(np.float32)
    if not len(values):
        return
    given_ = {"nonzero_data": values, "mask": np.packbits(mask, bitorder="little")}
    found, expected = decompressed(lambda: mb.constexpr_sparse_to_dense(shape=np.array(shape, np.uint32), **given_), 16)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_affine_constants(dtype: Any, axis: int | None) -> None:
    data = RNG.integers(-100 if dtype == np.int8 else 0, 100, (3, 4, 5)).astype(dtype)
    count = () if axis is None else (data.shape[axis],)
    scale = np.asarray(RNG.uniform(0.1, 1, count), np.float16)
    zero = np.asarray(RNG.integers(0, 9, count), dtype)
    given_ = {"quantized_data": data, "scale": scale[()], "zero_point": zero[()], "axis": axis or 0}
    found, expected = decompressed(lambda: mb.constexpr_affine_dequantize(**given_), 16)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@FEW
@given(st.data())
def test_blockwise_constants(data: st.DataObject) -> None:
    RNG.anew()
    rank = data.draw(st.integers(1, 4))
    blocks = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    shape = [count * data.draw(st.integers(1, 3)) for count in blocks]
    kind = data.draw(st.sampled_from(["int4", "uint4", "int8", "uint8"]))
    nptype = mil_types.type_mapping.string_to_nptype(kind)
    low, high = (-8, 8) if kind == "int4" else (0, 16) if kind == "uint4" else (0, 100)
    given_: dict[str, Any] = {
        "data": RNG.integers(low, high, shape).astype(nptype),
        "scale": RNG.uniform(0.1, 1, blocks).astype(np.float16),
    }
    if data.draw(st.booleans()):
        given_["offset"] = RNG.integers(low, high, blocks).astype(nptype)
    found, expected = decompressed(lambda: mb.constexpr_blockwise_shift_scale(**given_), 18)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("vector", [1, 2])
def test_sparse_tables(vector: int) -> None:
    one, two = (mil_types.type_mapping.string_to_nptype(f"uint{bits}") for bits in (1, 2))
    mask = (RNG.random((4, 6)) < 0.5).astype(one)
    lut = RNG.normal(size=(1, 1, 4, vector)).astype(np.float16)
    indices = RNG.integers(0, 4, int(np.count_nonzero(mask.astype(int)))).astype(two)

    def function() -> Any:
        extra = {} if vector == 1 else {"vector_axis": 0}
        wide, values = mb.constexpr_lut_to_sparse(indices_mask=mask, indices_nonzero_data=indices, lut=lut, **extra)
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=wide)

    found, expected = decompressed(function, 18)
    np.testing.assert_array_equal(found, expected)


def test_sparse_blocks() -> None:
    one = mil_types.type_mapping.string_to_nptype("uint1")
    mask = (RNG.random((4, 4)) < 0.5).astype(one)
    values = RNG.integers(0, 100, int(np.count_nonzero(mask.astype(int)))).astype(np.int8)
    scale, offset = RNG.uniform(0.1, 1, (1, 4)).astype(np.float16), RNG.integers(0, 9, (1, 4)).astype(np.int8)

    def function() -> Any:
        wide, found = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=values, scale=scale, offset=offset
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=found, mask=wide)

    found, expected = decompressed(function, 18)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_constants_that_are_cast() -> None:
    value = RNG.normal(size=(3, 4)).astype(np.float16)
    found, expected = decompressed(lambda: mb.constexpr_cast(source_val=value, output_dtype="fp32"), 16)
    np.testing.assert_array_equal(found, expected)


def test_a_table_that_is_too_short_is_one_line() -> None:
    lut, indices = np.arange(16, dtype=np.float32), packing.pack_elements_into_bits(np.arange(16, dtype=np.uint8), 4)

    def body(x: Any) -> Any:
        weight = mb.constexpr_lut_to_dense(lut=lut, indices=indices, shape=np.array([4, 4], np.uint32), name="w")
        return mb.linear(x=x, weight=weight)

    x = np.zeros((1, 4), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        message, read = exported(build(body, {"x": x}, 16), 16, Path(folder))
        block = next(iter(message.functions["main"].block_specializations.values()))
        (table,) = (each for each in block.operations if each.type.startswith("constexpr"))
        table.attributes["lut"].type.tensorType.dimensions[0].constant.size = 8
        del table.attributes["lut"].immediateValue.tensor.floats.values[8:]
        with pytest.raises(CoremlFileError, match=r"constexpr_lut_to_dense \(output w\)") as error:
            Program(message, read)
        assert "\n" not in str(error.value)


def test_shapes_that_are_open() -> None:
    """A sequence of any length through attention, a reshape, a slice and a norm."""
    weight = RNG.normal(scale=0.3, size=(8, 8)).astype(np.float32)
    length = get_new_symbol()
    specs = [mb.TensorSpec(shape=(1, length, 8))]

    @mb.program(input_specs=specs, opset_version=IOS[17])
    def prog(x: Any) -> Any:
        y = mb.linear(x=x, weight=weight)
        heads = mb.transpose(x=mb.reshape(x=y, shape=[1, -1, 2, 4]), perm=[0, 2, 1, 3])
        scores = mb.softmax(x=mb.matmul(x=heads, y=heads, transpose_y=True), axis=-1)
        merged = mb.reshape(x=mb.transpose(x=mb.matmul(x=scores, y=heads), perm=[0, 2, 1, 3]), shape=[1, -1, 8])
        normed = mb.layer_norm(x=mb.add(x=merged, y=x), axes=[-1])
        return mb.slice_by_index(x=normed, begin=[0, 1, 0], end=[0, 0, 0], begin_mask=[True, False, True],
                                 end_mask=[True, True, True])  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        message, read = exported(prog, 17, Path(folder))
        program = Program(message, read)
    for frames in (2, 5, 9):
        x = RNG.normal(size=(1, frames, 8)).astype(np.float32)
        heads = (x @ weight.T).reshape(1, frames, 2, 4).transpose(0, 2, 1, 3)
        scores = np.exp(heads @ heads.swapaxes(-1, -2))
        merged = (scores / scores.sum(-1, keepdims=True) @ heads).transpose(0, 2, 1, 3).reshape(1, frames, 8) + x
        wanted = (merged - merged.mean(-1, keepdims=True)) / np.sqrt(merged.var(-1, keepdims=True) + 1e-5)
        (found,) = program.run({"x": x}).values()
        np.testing.assert_allclose(found, wanted[:, 1:], rtol=2e-3, atol=2e-4)

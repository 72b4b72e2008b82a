"""Operations that move elements, against coremltools' own value inference or NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_programs import Chance, check, infer, like, mb, run

RNG = Chance()
FEW = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def _anew() -> None:
    RNG.anew()


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """All different, none of them zero, and each exact in half precision."""
    return (RNG.permutation(math.prod(shape)).reshape(shape) + 1).astype(dtype)


def places(*shape: int, below: int, dtype: Any = np.int32) -> np.ndarray:
    return np.asarray(RNG.integers(0, below, size=shape)).astype(dtype)


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
KINDS = (np.float32, np.int32, np.bool_)


@pytest.mark.parametrize("dtype", [*KINDS, np.float16])
def test_what_moves_takes_every_type(dtype: Any) -> None:
    x = numbers(2, 3, 4).astype(dtype)
    check(lambda x: mb.transpose(x=x, perm=[2, 0, 1]), {"x": x})
    check(lambda x: mb.reshape(x=x, shape=[4, 6]), {"x": x})
    check(lambda x: mb.expand_dims(x=x, axes=[0, -1]), {"x": x})
    check(lambda x: mb.tile(x=x, reps=[1, 2, 1]), {"x": x})
    check(lambda x: mb.reverse(x=x, axes=[1]), {"x": x})
    check(lambda x: mb.concat(values=(x, x), axis=1), {"x": x}, [np.concatenate([x, x], axis=1)])
    check(lambda x: mb.stack(values=(x, x), axis=1), {"x": x}, [np.stack([x, x], axis=1)])
    check(lambda x: mb.split(x=x, num_splits=2, axis=2), {"x": x})
    check(lambda x: mb.slice_by_index(x=x, begin=[0, 1, 0], end=[2, 3, 4]), {"x": x})


@pytest.mark.parametrize("shape", [[24], [4, 6], [0, -1], [2, 0, 2, 2], [-1, 1, 3, 4], [1, 24, 1]])
def test_reshape(shape: list[int]) -> None:
    start = (2, 12) if len(shape) == 2 else (2, 3, 2, 2) if 0 in shape else (2, 3, 4)
    check(lambda x: mb.reshape(x=x, shape=shape), {"x": numbers(*start)})


def test_reshape_to_a_computed_shape() -> None:
    x, reference = numbers(2, 6), numbers(3, 4)
    check(lambda x, y: mb.reshape(x=x, shape=mb.shape(x=y)), {"x": x, "y": reference}, [x.reshape(3, 4)])

    def function(x: Any, y: Any) -> Any:
        return mb.reshape_like(x=x, ref_tensors=(y, y), begins=(0, 1), ends=(1, 2), end_masks=(False, True))

    check(function, {"x": x, "y": reference}, [x.reshape(3, 4)])


@FEW
@given(SHAPES, st.data())
def test_transpose(shape: list[int], data: st.DataObject) -> None:
    RNG.anew()
    perm = data.draw(st.permutations(range(len(shape))))
    signed = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in perm]
    check(lambda x: mb.transpose(x=x, perm=signed), {"x": numbers(*shape)}, half=False)


@pytest.mark.parametrize(("shape", "axes"), [((1, 2, 1, 3), None), ((1, 2, 1, 3), [0]), ((1, 2, 1, 3), [-2, 0])])
def test_squeeze(shape: tuple[int, ...], axes: list[int] | None) -> None:
    check(lambda x: mb.squeeze(x=x, **({} if axes is None else {"axes": axes})), {"x": numbers(*shape)})


def test_squeeze_leaves_what_is_larger_than_one() -> None:
    x = numbers(2, 1, 4)
    check(lambda x: mb.squeeze(x=x, axes=[0, 1]), {"x": x}, [x[:, 0]])


@pytest.mark.parametrize("axis", [1, -1, 2])
def test_flatten(axis: int) -> None:
    check(lambda x: mb.flatten2d(x=x, axis=axis), {"x": numbers(2, 3, 4)})


@pytest.mark.parametrize("axes", [None, [0], [-1, 0]])
def test_reverse(axes: list[int] | None) -> None:
    check(lambda x: mb.reverse(x=x, **({} if axes is None else {"axes": axes})), {"x": numbers(2, 3, 4)})


@pytest.mark.parametrize(("seq", "batch"), [(1, 0), (0, 1), (2, 0), (1, 2)])
def test_reverse_sequence(seq: int, batch: int) -> None:
    x = numbers(3, 4, 5)
    lengths = RNG.integers(0, x.shape[seq] + 1, x.shape[batch]).astype(np.int32)
    wanted = x.copy()
    for item, length in enumerate(lengths):
        part = [slice(None)] * 3
        part[batch] = slice(item, item + 1)
        part[seq] = slice(0, length)
        wanted[tuple(part)] = np.flip(x[tuple(part)], axis=seq)
    check(
        lambda x, lengths: mb.reverse_sequence(x=x, lengths=lengths, seq_axis=seq, batch_axis=batch),
        {"x": x, "lengths": lengths},
        [wanted],
    )


@FEW
@given(SHAPES, st.data())
def test_slice_by_index(shape: list[int], data: st.DataObject) -> None:
    """Each axis open or closed at either end, forwards or backwards, or a single place of it."""
    RNG.anew()
    begin, end, stride, masks = [], [], [], ([], [], [])
    for size in shape:
        step = data.draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        low = data.draw(st.integers(0, size - 1))
        high = data.draw(st.integers(low + 1, size))
        single, first, last = (data.draw(st.booleans()) for _ in range(3))
        step = 1 if single else step
        if step < 0:
            last = True if low == 0 else last
            begin.append(high - 1)
            end.append(low - 1 if low else 0)
        else:
            begin.append(low - size if data.draw(st.booleans()) else low)
            end.append(high)
        stride.append(step)
        for mask, value in zip(masks, (first and not single, last, single), strict=True):
            mask.append(value)
    if all(masks[2]):
        masks[2][0] = False
    slices = []
    for axis, (b, e, s) in enumerate(zip(begin, end, stride, strict=True)):
        if masks[2][axis]:
            slices.append(b % shape[axis])
        else:
            slices.append(slice(None if masks[0][axis] else b, None if masks[1][axis] else e, s))
    x = numbers(*shape)
    given_ = {"stride": stride, "begin_mask": masks[0], "end_mask": masks[1], "squeeze_mask": masks[2]}
    wanted = [np.ascontiguousarray(x[tuple(slices)])]
    check(lambda x: mb.slice_by_index(x=x, begin=begin, end=end, **given_), {"x": x}, wanted)
    computed = {"x": x, "begin": np.array(begin, np.int32), "end": np.array(end, np.int32)}
    found = run(lambda x, begin, end: mb.slice_by_index(x=x, begin=begin, end=end, **given_), computed)
    np.testing.assert_array_equal(found[0], wanted[0])


def test_the_last_place_alone() -> None:
    x = numbers(3, 4)
    given_ = {"squeeze_mask": [True, False], "begin_mask": [False, True], "end_mask": [False, True]}
    check(lambda x: mb.slice_by_index(x=x, begin=[-1, 0], end=[0, 0], **given_), {"x": x}, [x[-1]])
    begin = np.array([-1, 0], np.int32)
    found = run(lambda x, begin: mb.slice_by_index(x=x, begin=begin, end=[0, 0], **given_), {"x": x, "begin": begin})
    np.testing.assert_array_equal(found[0], x[-1])


@pytest.mark.parametrize(
    ("begin", "size"), [([0, 1, 0], [2, 2, 4]), ([1, -2, 0], [-1, 2, 3]), ([0, 0, -1], [1, -1, 1])]
)
def test_slice_by_size(begin: list[int], size: list[int]) -> None:
    x = numbers(2, 3, 4)
    check(lambda x: mb.slice_by_size(x=x, begin=begin, size=size), {"x": x})
    computed = np.array(begin, np.int32)
    found = run(lambda x, begin: mb.slice_by_size(x=x, begin=begin, size=size), {"x": x, "begin": computed})
    np.testing.assert_array_equal(found[0], infer(lambda x: mb.slice_by_size(x=x, begin=begin, size=size), {"x": x})[0])


@pytest.mark.parametrize("stride", [[1, 1], [2, 1], [1, 2]])
def test_slice_update(stride: list[int]) -> None:
    x = numbers(4, 5)
    update = -numbers(*x[0 : 4 : stride[0], 1 : 5 : stride[1]].shape)
    check(
        lambda x, update: mb.slice_update(x=x, update=update, begin=[0, 1], end=[4, 5], stride=stride),
        {"x": x, "update": update},
        ios=18,
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [(), (2,), (2, 3)])
def test_gather(axis: int, indices: tuple[int, ...]) -> None:
    x = numbers(3, 4, 3)
    given_ = places(*indices, below=3)
    check(lambda x: mb.gather(x=x, indices=_const(given_), axis=axis), {"x": x})
    check(lambda x, indices: mb.gather(x=x, indices=indices, axis=axis), {"x": x, "indices": given_})


def _const(value: np.ndarray) -> Any:
    return value[()] if value.shape == () else value


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint8, np.int8])
def test_gather_by_small_integers(dtype: Any) -> None:
    x = numbers(5, 2)
    indices = np.array([4, 0, 3], dtype)
    check(lambda x: mb.gather(x=x, indices=indices, axis=0), {"x": x}, [x[indices.astype(int)]])


@pytest.mark.parametrize(("axis", "batch", "shape", "indices"), [
    (1, 1, (2, 4, 3), (2, 5)),
    (2, 1, (2, 3, 4), (2, 5)),
    (2, 2, (2, 3, 4, 2), (2, 3, 2)),
    (2, 1, (2, 3, 4, 2), (2, 2, 3)),
    (3, 2, (2, 2, 3, 4, 2), (2, 2, 5)),
    (1, 1, (2, 4), (2,)),
])  # fmt: skip
def test_gather_with_batches(axis: int, batch: int, shape: tuple[int, ...], indices: tuple[int, ...]) -> None:
    given_ = places(*indices, below=4)
    given_.reshape(-1)[0] -= 4  # from the end
    x = numbers(*shape)
    check(lambda x: mb.gather(x=x, indices=given_, axis=axis, batch_dims=batch), {"x": x})


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_along_axis(axis: int) -> None:
    x = numbers(3, 4, 3)
    shape = list(x.shape)
    shape[axis] = 2
    given_ = places(*shape, below=3)
    check(lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=axis), {"x": x, "i": given_})


@pytest.mark.parametrize("batch", [0, 1])
def test_gather_nd(batch: int) -> None:
    x = numbers(2, 3, 4)
    if batch:
        indices = places(2, 5, 1, below=3)
        wanted = np.stack([x[item][indices[item, :, 0]] for item in range(2)])
    else:
        indices = np.stack([places(5, below=2), places(5, below=3)], axis=1)
        wanted = x[indices[:, 0], indices[:, 1]]
    check(lambda x, i: mb.gather_nd(x=x, indices=i, batch_dims=batch), {"x": x, "i": indices}, [wanted])


MODES = {
    "update": lambda old, new: new,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter(mode: str, axis: int) -> None:
    data, indices = numbers(4, 5, 4), np.array([3, 0, 2], np.int32)
    shape = list(data.shape)
    shape[axis] = 3
    updates = numbers(*shape) / 8
    wanted = np.moveaxis(data.copy(), axis, 0)
    wanted[indices] = MODES[mode](wanted[indices], np.moveaxis(updates, axis, 0))
    check(
        lambda data, indices, updates: mb.scatter(data=data, indices=indices, updates=updates, axis=axis, mode=mode),
        {"data": data, "indices": indices, "updates": updates},
        [np.moveaxis(wanted, 0, axis)],
    )
    along = np.moveaxis(np.broadcast_to(indices[:, None, None], np.moveaxis(updates, axis, 0).shape), 0, axis)
    check(
        lambda data, i, updates: mb.scatter_along_axis(data=data, indices=i, updates=updates, axis=axis, mode=mode),
        {"data": data, "i": along.astype(np.int32), "updates": updates},
        [np.moveaxis(wanted, 0, axis)],
    )


@pytest.mark.parametrize("mode", list(MODES))
def test_scatter_nd(mode: str) -> None:
    data, indices = numbers(3, 4, 2), np.array([[0, 1], [2, 3], [1, 0]], np.int32)
    updates = numbers(3, 2) / 8
    wanted = data.copy()
    wanted[indices[:, 0], indices[:, 1]] = MODES[mode](wanted[indices[:, 0], indices[:, 1]], updates)
    check(
        lambda data, indices, updates: mb.scatter_nd(data=data, indices=indices, updates=updates, mode=mode),
        {"data": data, "indices": indices, "updates": updates},
        [wanted],
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("interleave", [False, True])
def test_concat(axis: int, interleave: bool) -> None:
    x, y = numbers(2, 3, 4), -numbers(2, 3, 4)
    wanted = np.concatenate([x, y], axis=axis)
    if interleave:
        shape = list(x.shape)
        shape[axis] *= 2
        wanted = np.stack([x, y], axis=axis % 3 + 1).reshape(shape)
    check(lambda x, y: mb.concat(values=(x, y), axis=axis, interleave=interleave), {"x": x, "y": y}, [wanted])


def test_parts_of_unequal_sizes() -> None:
    x = numbers(2, 7)
    check(lambda x: mb.split(x=x, split_sizes=[1, 4, 2], axis=1), {"x": x}, half=False)
    y = numbers(2, 3)
    check(lambda x, y: mb.concat(values=(x, y), axis=1), {"x": x, "y": y}, [np.concatenate([x, y], axis=1)])


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("pad", [[1, 2], [2, 1, 0, 3], [1, 0, 0, 0, 2, 2]])
def test_pad(mode: str, pad: list[int]) -> None:
    def function(x: Any) -> Any:
        value = {"constant_val": like(x, 1.5)} if mode == "constant" else {}
        return mb.pad(x=x, pad=pad, mode=mode, **value)

    check(function, {"x": numbers(3, 4, 5)})


def test_pad_by_a_computed_amount() -> None:
    x = numbers(2, 3)
    found = run(lambda x, pad: mb.pad(x=x, pad=pad), {"x": x, "pad": np.array([1, 0, 0, 2], np.int32)})
    np.testing.assert_array_equal(found[0], np.pad(x, [(1, 0), (0, 2)]))


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_order(ascending: bool, axis: int, dtype: Any) -> None:
    x = numbers(3, 4, 5, dtype=dtype)
    check(lambda x: mb.argsort(x=x, axis=axis, ascending=ascending), {"x": x})
    check(lambda x: mb.topk(x=x, k=2, axis=axis, ascending=ascending), {"x": x})
    check(lambda x: mb.topk(x=x, k=3, axis=axis, return_indices=False), {"x": x}, half=False)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_running_sums(axis: int, reverse: bool, dtype: Any) -> None:
    x = numbers(2, 3, 4, dtype=dtype)
    check(lambda x: mb.cumsum(x=x, axis=axis, reverse=reverse), {"x": x})
    # coremltools' own inference fails for the exclusive form
    flipped = np.flip(x, axis) if reverse else x
    wanted = np.cumsum(flipped, axis=axis, dtype=dtype) - flipped
    wanted = np.flip(wanted, axis) if reverse else wanted
    check(lambda x: mb.cumsum(x=x, axis=axis, reverse=reverse, exclusive=True), {"x": x}, [wanted])


@pytest.mark.parametrize("value", [1.5, 3, True])
def test_fill(value: float) -> None:
    x = numbers(2, 3)
    wanted = [np.full((2, 3), value)]
    check(lambda x: mb.fill(shape=mb.shape(x=x), value=value), {"x": x}, wanted)
    check(lambda x: mb.fill_like(ref_tensor=x, value=value), {"x": x}, wanted)


@pytest.mark.parametrize(("start", "end", "step"), [(0, 5, 1), (7, 1, -2), (-3, 4, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_ranges(start: int, end: int, step: int, dtype: Any) -> None:
    def function(x: Any) -> Any:
        return mb.range_1d(start=dtype(start), end=x, step=dtype(step))

    check(function, {"x": np.array(end, dtype)}, [np.arange(start, end, step).astype(dtype)])


@pytest.mark.parametrize(("lower", "upper"), [(-1, -1), (0, -1), (-1, 0), (0, 0), (1, 2), (2, 0)])
def test_bands(lower: int, upper: int) -> None:
    check(lambda x: mb.band_part(x=x, lower=lower, upper=upper), {"x": numbers(2, 4, 5)})


def test_bands_of_other_types() -> None:
    for dtype in (np.int32, np.bool_):
        x = numbers(3, 4).astype(dtype)
        check(lambda x: mb.band_part(x=x, lower=0, upper=1), {"x": x}, [np.triu(np.tril(x, 1)).astype(dtype)])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis: int) -> None:
    indices = places(2, 3, below=4)
    wanted = np.moveaxis(np.where(np.eye(4, dtype=bool)[indices], 2.5, -1), -1, axis).astype(np.float32)
    check(
        lambda indices: mb.one_hot(
            indices=indices, one_hot_vector_size=4, axis=axis, on_value=np.float32(2.5), off_value=np.float32(-1)
        ),
        {"indices": indices},
        [wanted],
    )


def test_non_zero() -> None:
    x = np.array([[0, 1, 0], [2, 0, 3]], np.float32)
    check(lambda x: mb.non_zero(x=x), {"x": x}, half=False)


def test_shape() -> None:
    x = numbers(2, 3, 4)
    found = run(lambda x: mb.mul(x=mb.shape(x=x), y=2), {"x": x})
    np.testing.assert_array_equal(found[0], [4, 6, 8])


@pytest.mark.parametrize(("axis", "size", "stride"), [(0, 2, 1), (1, 3, 2), (-1, 2, 2)])
def test_sliding_windows(axis: int, size: int, stride: int) -> None:
    x = numbers(4, 7, 4)
    windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=axis)  # the window last
    windows = np.moveaxis(windows, -1, axis % 3 + 1).take(range(0, x.shape[axis] - size + 1, stride), axis=axis % 3)
    check(lambda x: mb.sliding_windows(x=x, axis=axis, size=size, stride=stride), {"x": x}, [windows])


def test_crop() -> None:
    x = numbers(1, 2, 5, 6)
    check(lambda x: mb.crop(x=x, crop_height=[1, 0], crop_width=[2, 3]), {"x": x}, [x[:, :, 1:, 2:3]])


@pytest.mark.parametrize("block", [2, 3])
def test_depth_and_space(block: int) -> None:
    n, c, h, w = 2, 2, 2, 3
    deep = numbers(n, c * block * block, h, w)
    first = deep.reshape(n, block, block, c, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c, h * block, w * block)
    last = deep.reshape(n, c, block, block, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h * block, w * block)
    check(lambda x: mb.depth_to_space(x=x, block_size=block), {"x": deep}, [first])
    check(lambda x: mb.space_to_depth(x=x, block_size=block), {"x": first}, [deep])
    check(lambda x: mb.pixel_shuffle(x=x, upscale_factor=block), {"x": deep}, [last])
    check(lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(block)), {"x": last}, [deep])


def test_batch_and_space() -> None:
    x = numbers(1, 2, 3, 4)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (2, 0)])
    wanted = np.concatenate([padded[:, :, i::2, j::3] for i in range(2) for j in range(3)])
    pads = np.array([[1, 0], [2, 0]], np.int32)
    check(lambda x: mb.space_to_batch(x=x, block_shape=[2, 3], paddings=pads), {"x": x}, [wanted])
    check(lambda x: mb.batch_to_space(x=x, block_shape=[2, 3], crops=pads), {"x": wanted}, [x])


def test_identity_of_an_input_is_an_output_of_another_name() -> None:
    x = numbers(2, 3)
    check(lambda x: mb.identity(x=x), {"x": x}, [x])

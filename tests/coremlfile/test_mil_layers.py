"""Convolutions, pools, norms and recurrent layers, against NumPy in double precision."""

from __future__ import annotations

from typing import Any

import mil_layers as layers
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mil_programs import Chance, check, like, mb, run

RNG = Chance()
FEW = settings(max_examples=30, deadline=None, derandomize=True)
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(autouse=True)
def _anew() -> None:
    RNG.anew()


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return np.asarray(RNG.normal(scale=scale, size=shape), np.float32)


KINDS = ["valid", "same", "same_lower", "custom"]


@FEW
@given(st.data())
def test_conv(data: st.DataObject) -> None:
    """One to three axes; kernels, strides, dilations, groups, every padding."""
    RNG.anew()
    rank = data.draw(st.integers(1, 3))
    groups, each_in, each_out = (data.draw(st.integers(1, 2)) for _ in range(3))
    sizes = [data.draw(st.integers(5, 8)) for _ in range(rank)]
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    kind, pad = data.draw(st.sampled_from(KINDS)), [data.draw(st.integers(0, 2)) for _ in range(2 * rank)]
    x = normal(data.draw(st.integers(1, 2)), groups * each_in, *sizes)
    weight = normal(groups * each_out, each_in, *kernel)
    bias = normal(groups * each_out) if data.draw(st.booleans()) else None
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = layers.paddings(kind, sizes, spans, strides, pad)
    wanted = layers.conv(x, weight, bias, strides, dilations, groups, pads).astype(np.float32)
    extra: dict[str, Any] = {"bias": bias} if bias is not None else {}
    if kind == "custom":
        extra["pad"] = pad

    def function(x: Any) -> Any:
        given_ = {"strides": strides, "dilations": dilations, "groups": groups, "pad_type": kind}
        return mb.conv(x=x, weight=weight, **given_, **extra)

    check(function, {"x": x}, [wanted], **CLOSE)


@pytest.mark.parametrize("kind", ["same", "same_lower"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"), [(5, 2, 1, 1), (6, 3, 2, 1), (7, 4, 1, 1), (6, 2, 1, 3)]
)
def test_padding_that_is_uneven(kind: str, size: int, kernel: int, stride: int, dilation: int) -> None:
    """What is left over goes behind, or in front."""
    x, weight = normal(1, 2, size), normal(2, 2, kernel)
    before, after = layers.same_pads(size, (kernel - 1) * dilation + 1, stride, kind == "same_lower")
    assert before != after
    wanted = layers.conv(x, weight, None, [stride], [dilation], 1, [(before, after)]).astype(np.float32)
    given_ = {"strides": [stride], "dilations": [dilation], "pad_type": kind}
    check(lambda x: mb.conv(x=x, weight=weight, **given_), {"x": x}, [wanted], **CLOSE)
    if dilation == 1:
        wide = np.pad(x, [(0, 0), (0, 0), (before, after)], constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(wide, kernel, axis=2)[:, :, ::stride]
        pool = {"kernel_sizes": [kernel], "strides": [stride], "pad_type": kind}
        check(lambda x: mb.max_pool(x=x, **pool), {"x": x}, [windows.max(axis=-1)], **CLOSE)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 1), (5, 2), (2, 1), (2, 3), (3, 2)])
def test_conv_transpose_with_the_padding_of_its_inverse(kernel: int, stride: int) -> None:
    """It is the gradient of a convolution of that padding: so each pair of places meets in both of them alike."""
    size = 4
    weight = normal(1, 1, kernel)
    image = np.eye(size * stride, dtype=np.float32)[:, None]  # each place of the longer side once
    pads = layers.same_pads(size * stride, kernel, stride, False)
    there = layers.conv(image, weight, None, [stride], [1], 1, [pads])[:, 0]
    given_ = {"strides": [stride], "pad_type": "same"}
    back = np.eye(size, dtype=np.float32)[:, None]
    check(
        lambda x: mb.conv_transpose(x=x, weight=weight, **given_),
        {"x": back},
        [there.T[:, None].astype(np.float32)],
        **CLOSE,
    )


def test_conv_by_a_computed_weight() -> None:
    x, weight = normal(1, 2, 6), normal(3, 2, 3)
    wanted = layers.conv(x, weight, None, [1], [1], 1, [(0, 0)]).astype(np.float32)
    check(
        lambda x, weight: mb.conv(x=x, weight=weight, pad_type="valid"), {"x": x, "weight": weight}, [wanted], **CLOSE
    )


@FEW
@given(st.data())
def test_conv_transpose(data: st.DataObject) -> None:
    RNG.anew()
    rank = data.draw(st.integers(1, 2))
    groups, each_in, each_out = (data.draw(st.integers(1, 2)) for _ in range(3))
    sizes = [data.draw(st.integers(2, 5)) for _ in range(rank)]
    kernel = [data.draw(st.integers(1, 4)) for _ in range(rank)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    x, weight = normal(1, groups * each_in, *sizes), normal(groups * each_in, each_out, *kernel)
    bias = normal(groups * each_out) if data.draw(st.booleans()) else None
    whole = layers.conv_transpose(x, weight, strides, dilations, groups)
    kind = data.draw(st.sampled_from(["valid", "same", "custom", "output_shape"]))
    extra: dict[str, Any] = {} if bias is None else {"bias": bias}
    if kind == "valid":
        wanted = whole
    elif kind == "same":
        # The inverse of the padding of a convolution from size * stride to size, rows that are missing being zero.
        over = [full - size * step for full, size, step in zip(whole.shape[2:], sizes, strides, strict=True)]
        wanted = np.pad(whole, [(0, 0), (0, 0), *((0, max(0, -each)) for each in over)])
        cut = tuple(slice(max(0, o) // 2, max(0, o) // 2 + n * s) for o, n, s in zip(over, sizes, strides, strict=True))
        wanted = wanted[(slice(None), slice(None), *cut)]
    else:
        pad = [data.draw(st.integers(0, max(0, (size - 1) // 2))) for size in whole.shape[2:] for _ in range(2)]
        more = [data.draw(st.integers(0, 1)) if kind == "output_shape" else 0 for _ in range(rank)]
        extra["pad"] = pad
        ends = [full - after + add for full, after, add in zip(whole.shape[2:], pad[1::2], more, strict=True)]
        wanted = np.pad(whole, [(0, 0), (0, 0), *((0, add) for add in more)])
        wanted = wanted[(slice(None), slice(None), *(slice(b, e) for b, e in zip(pad[::2], ends, strict=True)))]
        if kind == "output_shape":
            extra["output_shape"] = list(wanted.shape)
    if bias is not None:
        wanted = wanted + bias.reshape(-1, *[1] * rank)

    def function(x: Any) -> Any:
        given_ = {"strides": strides, "dilations": dilations, "groups": groups}
        pad_type = "custom" if kind == "output_shape" else kind
        return mb.conv_transpose(x=x, weight=weight, pad_type=pad_type, **given_, **extra)

    check(function, {"x": x}, [wanted.astype(np.float32)], **CLOSE)


@FEW
@given(st.data())
def test_pools(data: st.DataObject) -> None:
    RNG.anew()
    rank = data.draw(st.integers(1, 3))
    sizes = [data.draw(st.integers(4, 7)) for _ in range(rank)]
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    kind, ceil = data.draw(st.sampled_from(KINDS)), rank < 3 and data.draw(st.booleans())
    ceil = ceil and kind in ("valid", "custom")
    pad = []
    for size in kernel:
        before = data.draw(st.integers(0, size // 2))
        pad += [before, before if ceil else data.draw(st.integers(0, size // 2))]
    pads = layers.paddings(kind, sizes, kernel, strides, pad)
    # Without padding coremltools declares a last window even where it would begin beyond the input, as no runtime does.
    each = zip(sizes, kernel, strides, strict=True)
    assume(not ceil or any(pad) or all(-(-(n - k) // s) * s < n for n, k, s in each))
    x = normal(1, 2, *sizes)
    given_: dict[str, Any] = {"kernel_sizes": kernel, "strides": strides, "pad_type": kind, "ceil_mode": ceil}
    if kind == "custom":
        given_["pad"] = pad

    def of(reduce: Any) -> list[np.ndarray]:
        return [layers.pool(x, kernel, strides, pads, ceil, reduce).astype(np.float32)]

    check(lambda x: mb.max_pool(x=x, **given_), {"x": x}, of(lambda v, i: v[i == 1].max()), **CLOSE)
    for excluded in (False, True):
        least = 1 if excluded else 0
        check(
            lambda x, e=excluded: mb.avg_pool(x=x, exclude_padding_from_average=e, **given_),
            {"x": x},
            of(lambda v, i, n=least: v.sum() / (i >= n).sum()),
            **CLOSE,
        )
    if rank < 3 and not ceil:
        check(lambda x: mb.l2_pool(x=x, **given_), {"x": x}, of(lambda v, i: np.sqrt((v * v).sum())), **CLOSE)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "count"),
    [(5, 2, 2, 0, 3), (6, 3, 2, 1, 4), (7, 3, 3, 0, 3), (7, 2, 3, 0, 3), (5, 3, 2, 1, 3)],
)
def test_a_last_window_that_is_not_full(size: int, kernel: int, stride: int, pad: int, count: int) -> None:
    """It has what there is of it; what lies beyond the padding never counts."""
    x = normal(1, 2, size)
    pads = [(pad, pad)]
    given_ = {"kernel_sizes": [kernel], "strides": [stride], "pad_type": "custom", "pad": [pad, pad], "ceil_mode": True}

    def of(reduce: Any) -> list[np.ndarray]:
        return [layers.pool(x, [kernel], [stride], pads, True, reduce).astype(np.float32)]

    wanted = of(lambda v, i: v[i == 1].max())
    assert wanted[0].shape[-1] == count
    check(lambda x: mb.max_pool(x=x, **given_), {"x": x}, wanted, **CLOSE)
    check(lambda x: mb.avg_pool(x=x, **given_), {"x": x}, of(lambda v, i: v.sum() / (i >= 0).sum()), **CLOSE)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 2), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("scaled", [False, True])
def test_batch_norm(shape: tuple[int, ...], scaled: bool) -> None:
    x, mean, variance = normal(*shape), normal(3), np.abs(normal(3)) + 0.1
    gamma, beta = normal(3), normal(3)
    extra = {"gamma": gamma, "beta": beta} if scaled else {}
    column = (-1, *[1] * (len(shape) - 2))
    wanted = (x - mean.reshape(column)) / np.sqrt(variance.reshape(column) + 1e-3)
    if scaled:
        wanted = wanted * gamma.reshape(column) + beta.reshape(column)
    check(
        lambda x: mb.batch_norm(x=x, mean=mean, variance=variance, epsilon=np.float32(1e-3), **extra),
        {"x": x},
        [wanted],
        **CLOSE,
    )


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 2)])
@pytest.mark.parametrize("scaled", [False, True])
def test_instance_norm(shape: tuple[int, ...], scaled: bool) -> None:
    x, gamma, beta = normal(*shape), normal(3), normal(3)
    over, column = tuple(range(2, len(shape))), (-1, *[1] * (len(shape) - 2))
    wanted = (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + 1e-3)
    extra = {"gamma": gamma, "beta": beta} if scaled else {}
    if scaled:
        wanted = wanted * gamma.reshape(column) + beta.reshape(column)
    check(lambda x: mb.instance_norm(x=x, epsilon=np.float32(1e-3), **extra), {"x": x}, [wanted], **CLOSE)


@pytest.mark.parametrize("axes", [[-1], [1], [2, 3], [1, 3], [0, 1, 2, 3], [-2], [0, 2]])
@pytest.mark.parametrize("scaled", [False, True])
def test_layer_norm(axes: list[int], scaled: bool) -> None:
    shape = (2, 3, 4, 5)
    sizes = [shape[axis] for axis in sorted(axis % 4 for axis in axes)]
    gamma, beta = normal(*sizes), normal(*sizes)

    def function(x: Any) -> Any:
        extra = {"gamma": like(x, gamma), "beta": like(x, beta)} if scaled else {}
        return mb.layer_norm(x=x, axes=axes, epsilon=like(x, 1e-3), **extra)

    check(function, {"x": normal(*shape)}, half=False, **CLOSE)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 2, 3, 4)])
def test_l2_norm(shape: tuple[int, ...]) -> None:
    check(lambda x: mb.l2_norm(x=x, epsilon=like(x, 1e-2)), {"x": normal(*shape)}, **CLOSE, half=False)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_norm(size: int) -> None:
    x = normal(2, 6, 3, 2)
    squares = np.pad(x.astype(np.float64) ** 2, [(0, 0), (size // 2, size // 2), (0, 0), (0, 0)])
    sums = sum(squares[:, first : first + 6] for first in range(size))
    wanted = x / (1.5 + 0.3 / size * sums) ** 0.6
    given_ = {"alpha": np.float32(0.3), "beta": np.float32(0.6), "k": np.float32(1.5)}
    check(lambda x: mb.local_response_norm(x=x, size=size, **given_), {"x": x}, [wanted.astype(np.float32)], **CLOSE)


S, B, WIDTH, H = 5, 2, 3, 4


def recurrent(gates: int, directions: int = 1) -> list[dict[str, np.ndarray]]:
    return [
        {
            "w": normal(gates * H, WIDTH, scale=0.5),
            "r": normal(gates * H, H, scale=0.5),
            "b": normal(gates * H),
            "p": normal(3 * H),
        }
        for _ in range(directions)
    ]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_lstm(direction: str, sequence: bool, full: bool) -> None:
    both = direction == "bidirectional"
    sides = recurrent(4, 2 if both else 1)
    x, h, c = normal(S, B, WIDTH), normal(B, H * len(sides)), normal(B, H * len(sides))
    given_: dict[str, Any] = {"direction": direction, "output_sequence": sequence}
    for side, suffix in zip(sides, ("", "_back"), strict=False):
        given_ |= {f"weight_ih{suffix}": side["w"], f"weight_hh{suffix}": side["r"]}
        if full:
            given_ |= {f"bias{suffix}": side["b"], f"peephole{suffix}": side["p"]}
    runs = []
    for number, side in enumerate(sides):
        flipped = direction == "reverse" or number == 1
        part = slice(number * H, (number + 1) * H)
        zeros = 1.0 if full else 0.0
        steps, last_h, last_c = layers.lstm(
            x[::-1] if flipped else x,
            h[:, part],
            c[:, part],
            side["w"],
            side["r"],
            zeros * side["b"],
            zeros * side["p"],
        )
        # Each direction of a bidirectional layer in the order of the input, a reverse layer in its own.
        runs.append((steps[::-1] if number == 1 else steps, last_h, last_c))
    steps, last_h, last_c = (np.concatenate(parts, axis=-1) for parts in zip(*runs, strict=True))
    wanted = [steps if sequence else last_h[None], last_h, last_c]
    check(
        lambda x, h, c: mb.lstm(x=x, initial_h=h, initial_c=c, **given_),
        {"x": x, "h": h, "c": c},
        [each.astype(np.float32) for each in wanted],
        **CLOSE,
    )


@pytest.mark.parametrize("names", [("hard_sigmoid", "tanh", "linear"), ("sigmoid", "relu", "scaled_tanh")])
def test_other_activations_of_an_lstm(names: tuple[str, str, str]) -> None:
    (side,) = recurrent(4)
    x, h, c = normal(S, B, WIDTH), normal(B, H), normal(B, H)
    wanted = layers.lstm(x, h, c, side["w"], side["r"], side["b"], 0 * side["p"], names)
    keys = dict(zip(("recurrent_activation", "cell_activation", "activation"), names, strict=True))
    given_ = {"weight_ih": side["w"], "weight_hh": side["r"], "bias": side["b"], "output_sequence": True}
    check(
        lambda x, h, c: mb.lstm(x=x, initial_h=h, initial_c=c, **given_, **keys),
        {"x": x, "h": h, "c": c},
        [each.astype(np.float32) for each in wanted],
        **CLOSE,
    )


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("names", [("sigmoid", "tanh"), ("hard_sigmoid", "relu")])
def test_gru(direction: str, sequence: bool, names: tuple[str, str]) -> None:
    (side,) = recurrent(3)
    x, h = normal(S, B, WIDTH), normal(B, H)
    steps, last = layers.gru(x if direction == "forward" else x[::-1], h, side["w"], side["r"], side["b"], names)
    keys = dict(zip(("recurrent_activation", "activation"), names, strict=True))
    given_ = {"weight_ih": side["w"], "weight_hh": side["r"], "bias": side["b"], "direction": direction}
    check(
        lambda x, h: mb.gru(x=x, initial_h=h, output_sequence=sequence, **given_, **keys),
        {"x": x, "h": h},
        [(steps if sequence else last[None]).astype(np.float32), last.astype(np.float32)],
        **CLOSE,
    )


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_rnn(direction: str, sequence: bool, activation: str) -> None:
    (side,) = recurrent(1)
    x, h = normal(S, B, WIDTH), normal(B, H)
    steps, last = layers.rnn(x if direction == "forward" else x[::-1], h, side["w"], side["r"], side["b"], activation)
    given_ = {"weight_ih": side["w"], "weight_hh": side["r"], "bias": side["b"], "direction": direction}
    check(
        lambda x, h: mb.rnn(x=x, initial_h=h, output_sequence=sequence, activation=activation, **given_),
        {"x": x, "h": h},
        [(steps if sequence else last[None]).astype(np.float32), last.astype(np.float32)],
        **CLOSE,
    )


def interpolated(x: np.ndarray, points: np.ndarray, axis: int) -> np.ndarray:
    def line(values: np.ndarray) -> np.ndarray:
        return np.interp(points, np.arange(len(values)), values)

    return np.apply_along_axis(line, axis, x.astype(np.float64))


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(("high", "wide"), [(2, 3), (1, 2), (2.5, 1.5)])
def test_upsample_bilinear(corners: bool, high: float, wide: float) -> None:
    """Against SciPy's or the definition's grid: with aligned corners the ends stay where they are."""
    x = normal(1, 2, 3, 4)
    wanted = x
    for axis, factor in ((2, high), (3, wide)):
        size = x.shape[axis]
        target = int(size * factor)
        if corners:
            points = np.linspace(0, size - 1, target)
        else:
            points = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        wanted = interpolated(wanted, points, axis)
    check(
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=high, scale_factor_width=wide, align_corners=corners),
        {"x": x},
        [wanted.astype(np.float32)],
        **CLOSE,
    )


GRIDS = {
    # Those that the documentation of resize_bilinear lists for two points made five or six.
    ("STRICT_ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1],
    ("ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1],
    ("DEFAULT", 5): [0, 0.4, 0.8, 1, 1],
    ("OFFSET_CORNERS", 5): [0.1, 0.3, 0.5, 0.7, 0.9],
    ("UNALIGN_CORNERS", 5): [0, 0.1, 0.5, 0.9, 1],
    ("STRICT_ALIGN_CORNERS", 6): [0, 0.2, 0.4, 0.6, 0.8, 1],
    ("DEFAULT", 6): [0, 1 / 3, 2 / 3, 1, 1, 1],
    ("OFFSET_CORNERS", 6): [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12],
    ("UNALIGN_CORNERS", 6): [0, 0, 1 / 3, 2 / 3, 1, 1],
}


@pytest.mark.parametrize(("mode", "target"), list(GRIDS))
def test_resize_bilinear(mode: str, target: int) -> None:
    x = np.tile(np.array([0, 1], np.float32), (1, 3, 1))
    wanted = np.tile(np.array(GRIDS[mode, target], np.float32), (1, 3, 1))
    given_ = {"target_size_height": 3, "target_size_width": target, "sampling_mode": mode}
    check(lambda x: mb.resize_bilinear(x=x, **given_), {"x": x}, [wanted], **CLOSE)
    check(lambda x: mb.resize(x=x, shape=[target], resized_dims=np.uint32(1), sampling_mode=mode), {"x": x}, [wanted])


def test_nearest_neighbours() -> None:
    x = normal(1, 2, 3, 4)
    wanted = x.repeat(2, axis=2).repeat(3, axis=3)
    check(lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3), {"x": x}, [wanted])
    check(lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=6, target_size_width=12), {"x": x}, [wanted])
    check(
        lambda x: mb.resize(x=x, shape=[6, 0], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
        {"x": x},
        [x.repeat(2, axis=2)],
    )


def test_layers_in_half_precision_are_rounded_at_their_end() -> None:
    x, weight = normal(1, 3, 8).astype(np.float16), normal(2, 3, 3).astype(np.float16)
    whole = layers.conv(x, weight, None, [1], [1], 1, [(1, 1)])
    (found,) = run(lambda x: mb.conv(x=x, weight=weight, pad_type="custom", pad=[1, 1]), {"x": x}, precision="fp16")
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float64), whole, rtol=2**-10, atol=1e-5)

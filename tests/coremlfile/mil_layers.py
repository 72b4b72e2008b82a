"""Layers in NumPy, in double precision and one element at a time: what the translations are compared with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray


def same_pads(size: int, span: int, stride: int, lower: bool) -> tuple[int, int]:
    total = max(0, (math.ceil(size / stride) - 1) * stride + span - size)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def paddings(
    kind: str, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int], pad: Sequence[int]
) -> list[tuple[int, int]]:
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        return [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(len(sizes))]
    each = zip(sizes, spans, strides, strict=True)
    return [same_pads(size, span, stride, kind == "same_lower") for size, span, stride in each]


def conv(
    x: Array,
    weight: Array,
    bias: Array | None,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    pads: Sequence[tuple[int, int]],
) -> Array:
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    kernel = weight.shape[2:]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [(size - span) // step + 1 for size, span, step in zip(x.shape[2:], spans, strides, strict=True)]
    found = np.zeros((x.shape[0], weight.shape[0], *sizes))
    each_in, each_out = weight.shape[1], weight.shape[0] // groups
    for place in itertools.product(*map(range, sizes)):
        where = tuple(slice(p * s, p * s + n, d) for p, s, n, d in zip(place, strides, spans, dilations, strict=True))
        window = x[(slice(None), slice(None), *where)]
        for group in range(groups):
            part = window[:, group * each_in : (group + 1) * each_in].reshape(len(x), -1)
            rows = weight[group * each_out : (group + 1) * each_out].reshape(each_out, -1).astype(np.float64)
            found[(slice(None), slice(group * each_out, (group + 1) * each_out), *place)] = part @ rows.T
    return found if bias is None else found + bias.reshape(-1, *[1] * len(sizes))


def conv_transpose(x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], groups: int) -> Array:
    """The whole of it, nothing cut off."""
    kernel = weight.shape[2:]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [(size - 1) * step + span for size, step, span in zip(x.shape[2:], strides, spans, strict=True)]
    each_in, each_out = x.shape[1] // groups, weight.shape[1]
    found = np.zeros((x.shape[0], each_out * groups, *sizes))
    for place in itertools.product(*map(range, x.shape[2:])):
        where = tuple(slice(p * s, p * s + n, d) for p, s, n, d in zip(place, strides, spans, dilations, strict=True))
        for group in range(groups):
            values = x[(slice(None), slice(group * each_in, (group + 1) * each_in), *place)].astype(np.float64)
            spread = np.tensordot(values, weight[group * each_in : (group + 1) * each_in].astype(np.float64), 1)
            found[(slice(None), slice(group * each_out, (group + 1) * each_out), *where)] += spread
    return found


def pool(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    ceil: bool,
    reduce: Callable[[Array, Array], float],
) -> Array:
    """``reduce`` is given the elements of a window, and whether each is of the input, of the padding, or of neither.

    These are 1, 0 and -1: what lies beyond the padding belongs to a last window that is not full.
    """
    sizes = []
    for size, span, step, (before, after) in zip(x.shape[2:], kernel, strides, pads, strict=True):
        room = size + before + after - span
        count = (math.ceil(room / step) if ceil else room // step) + 1
        if ceil and (count - 1) * step >= size + before:
            count -= 1
        sizes.append(count)
    room = [(b, a + k) for (b, a), k in zip(pads, kernel, strict=True)]
    inside = np.pad(np.ones(x.shape[2:], int), pads, constant_values=0)
    inside = np.pad(inside, [(0, k) for k in kernel], constant_values=-1)
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *room])
    found = np.zeros((*x.shape[:2], *sizes))
    for place in itertools.product(*map(range, sizes)):
        where = tuple(slice(p * s, p * s + k) for p, s, k in zip(place, strides, kernel, strict=True))
        for item, channel in np.ndindex(*x.shape[:2]):
            found[(item, channel, *place)] = reduce(padded[(item, channel, *where)], inside[where])
    return found


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}


def lstm(
    x: Array,
    h: Array,
    c: Array,
    w: Array,
    r: Array,
    b: Array,
    peephole: Array,
    activations: Sequence[str] = ("sigmoid", "tanh", "tanh"),
) -> tuple[Array, Array, Array]:
    gate, cell, out = (ACTIVATIONS[name] for name in activations)
    pi, pf, po = np.split(peephole, 3)
    steps = []
    for each in x.astype(np.float64):
        i, f, o, z = np.split(each @ w.T + h @ r.T + b, 4, axis=-1)
        kept, into = gate(f + c * pf), gate(i + c * pi)
        c = kept * c + into * cell(z)
        h = gate(o + c * po) * out(c)
        steps.append(h)
    return np.stack(steps), h, c


def gru(
    x: Array, h: Array, w: Array, r: Array, b: Array, activations: Sequence[str] = ("sigmoid", "tanh")
) -> tuple[Array, Array]:
    gate, out = (ACTIVATIONS[name] for name in activations)
    (wr, wo, wz), (rr, ro, rz), (br, bo, bz) = (np.split(each, 3) for each in (w, r, b))
    steps = []
    for each in x.astype(np.float64):
        reset, update = gate(each @ wr.T + h @ rr.T + br), gate(each @ wz.T + h @ rz.T + bz)
        new = out(each @ wo.T + (reset * h) @ ro.T + bo)
        h = (1 - update) * new + update * h
        steps.append(h)
    return np.stack(steps), h


def rnn(x: Array, h: Array, w: Array, r: Array, b: Array, activation: str) -> tuple[Array, Array]:
    steps = []
    for each in x.astype(np.float64):
        h = ACTIVATIONS[activation](each @ w.T + h @ r.T + b)
        steps.append(h)
    return np.stack(steps), h

"""Arithmetic, activations, reductions and products, against coremltools' own value inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mil_programs import Chance, check, like, mb, run

RNG = Chance()


@pytest.fixture(autouse=True)
def _anew() -> None:
    RNG.anew()


def normal(*shape: int, scale: float = 2.0) -> np.ndarray:
    return np.asarray(RNG.normal(scale=scale, size=shape), np.float32)


def uniform(*shape: int, low: float = -0.9, high: float = 0.9) -> np.ndarray:
    return np.asarray(RNG.uniform(low, high, size=shape), np.float32)


def integers(*shape: int, low: int = -9, high: int = 9) -> np.ndarray:
    return np.asarray(RNG.integers(low, high, size=shape), np.int32)


ANY = ["abs", "atan", "ceil", "cos", "erf", "exp", "exp2", "floor", "round", "sign", "sin", "square", "tanh"]
ANY += ["relu", "relu6", "sigmoid", "softplus", "softsign", "cosh", "sinh"]


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (1, 2, 3, 4), (2, 1, 3, 2, 2)])
def test_unary(name: str, shape: tuple[int, ...]) -> None:
    check(lambda x: getattr(mb, name)(x=x), {"x": normal(*shape)})


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("acos", -0.9, 0.9),
        ("asin", -0.9, 0.9),
        ("atanh", -0.9, 0.9),
        ("inverse", 0.5, 4),
        ("log", 0.1, 9),
        ("rsqrt", 0.1, 9),
        ("sqrt", 0.01, 9),
        ("tan", -1.2, 1.2),
    ],
)
def test_unary_where_it_is_defined(name: str, low: float, high: float) -> None:
    check(lambda x: getattr(mb, name)(x=x), {"x": uniform(3, 4, low=low, high=high)})


@pytest.mark.parametrize("name", ["log", "rsqrt", "inverse"])
@pytest.mark.parametrize("epsilon", [1e-3, 0.5])
def test_the_epsilon_counts(name: str, epsilon: float) -> None:
    check(lambda x: getattr(mb, name)(x=x, epsilon=epsilon), {"x": uniform(3, 4, low=0.3, high=2)})


def test_the_logarithm_of_zero_is_that_of_the_default_epsilon() -> None:
    (found,) = run(lambda x: mb.log(x=x), {"x": np.zeros(2, np.float32)})
    np.testing.assert_allclose(found, np.log(np.float32(1e-45)), rtol=1e-6)


def test_round_goes_to_the_even_neighbour() -> None:
    check(lambda x: mb.round(x=x), {"x": np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)})


@pytest.mark.parametrize("name", ["abs", "sign", "square"])
def test_unary_of_integers(name: str) -> None:
    check(lambda x: getattr(mb, name)(x=x), {"x": integers(3, 4)})


BINARY = ["add", "sub", "mul", "maximum", "minimum", "real_div", "floor_div", "mod"]
COMPARISONS = ["greater", "greater_equal", "less", "less_equal", "equal", "not_equal"]
SHAPES = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((1,), (2, 2)), ((), (3,)), ((3,), ())]


@pytest.mark.parametrize("name", BINARY + COMPARISONS)
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_binary(name: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    x, y = np.round(normal(*left, scale=4), 1), np.round(normal(*right, scale=4), 1)
    y = np.asarray(np.where(y == 0, np.float32(1.5), y), np.float32)
    exact = name not in ("mod", "floor_div", "real_div")  # a remainder of rounded numbers is another one
    check(lambda x, y: getattr(mb, name)(x=x, y=y), {"x": np.asarray(x, np.float32), "y": y}, half=exact)


@pytest.mark.parametrize("name", [each for each in BINARY if each != "real_div"] + COMPARISONS)
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_binary_of_integers(name: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    y = integers(*right)
    y = np.asarray(np.where(y == 0, 4, y), np.int32)
    check(lambda x, y: getattr(mb, name)(x=x, y=y), {"x": integers(*left), "y": y})


def test_powers() -> None:
    check(lambda x, y: mb.pow(x=x, y=y), {"x": uniform(3, 4, low=0.2, high=3), "y": uniform(4, low=-2, high=3)})
    check(lambda x: mb.pow(x=x, y=like(x, 2)), {"x": normal(3, 4)})


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4),
    st.sampled_from(["add", "mul", "sub", "maximum", "less"]),
    st.integers(0, 2**32 - 1),
)
def test_any_shapes_that_broadcast(shapes: Any, name: str, seed: int) -> None:
    RNG.anew()
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=shape).astype(np.float32) for shape in shapes.input_shapes)
    check(lambda x, y: getattr(mb, name)(x=x, y=y), {"x": np.asarray(x, "f"), "y": np.asarray(y, "f")})


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name: str) -> None:
    x, y = RNG.random((3, 4)) < 0.5, RNG.random(4) < 0.5
    check(lambda x, y: getattr(mb, name)(x=x, y=y), {"x": x, "y": y})
    check(lambda x: mb.logical_not(x=x), {"x": x})


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("clamped_relu", {"alpha": 0.3, "beta": 1.5}),
    ("clamped_relu", {"alpha": -0.3, "beta": 0.2}),
    ("elu", {"alpha": 0.7}),
    ("gelu", {}),
    ("gelu", {"mode": "EXACT"}),
    ("gelu", {"mode": "TANH_APPROXIMATION"}),
    ("gelu", {"mode": "SIGMOID_APPROXIMATION"}),
    ("leaky_relu", {"alpha": 0.2}),
    ("linear_activation", {"alpha": 1.7, "beta": -0.3}),
    ("prelu", {"alpha": np.array([0.1, 0.2, -0.3], np.float32)}),
    ("scaled_tanh", {"alpha": 1.2, "beta": 0.4}),
    ("sigmoid_hard", {"alpha": 0.3, "beta": 0.4}),
    ("softplus_parametric", {"alpha": np.full(3, 0.5, np.float32), "beta": np.array([0.1, 1, 2], np.float32)}),
    ("thresholded_relu", {"alpha": 0.5}),
    ("threshold", {"alpha": 0.25}),
    ("clip", {"alpha": -0.5, "beta": 1.25}),
    ("softmax", {}),
    ("softmax", {"axis": 1}),
    ("softmax", {"axis": -4}),
]


@pytest.mark.parametrize(("name", "parameters"), ACTIVATIONS)
def test_activations(name: str, parameters: dict[str, Any]) -> None:
    def function(x: Any) -> Any:
        kept = (str, int)  # modes and axes
        given_ = {key: value if isinstance(value, kept) else like(x, value) for key, value in parameters.items()}
        return getattr(mb, name)(x=x, **given_)

    check(function, {"x": normal(2, 3, 4, 2)})


def test_silu() -> None:
    x = normal(3, 5)
    check(lambda x: mb.silu(x=x), {"x": x}, [x / (1 + np.exp(-x))])


REDUCE = ["l1_norm", "l2_norm", "max", "mean", "min", "prod", "sum", "sum_square", "log_sum", "log_sum_exp"]


@pytest.mark.parametrize("name", REDUCE)
@pytest.mark.parametrize("axes", [None, [0], [-1], [0, 2], [1, -1]])
@pytest.mark.parametrize("keep", [False, True])
def test_reductions(name: str, axes: list[int] | None, keep: bool) -> None:
    given_: dict[str, Any] = {"keep_dims": keep} | ({} if axes is None else {"axes": axes})
    x = uniform(2, 3, 4, low=0.1, high=1.5)
    check(lambda x: getattr(mb, f"reduce_{name}")(x=x, **given_), {"x": x})


@pytest.mark.parametrize("name", ["max", "min", "sum", "prod"])
def test_reductions_of_integers(name: str) -> None:
    check(lambda x: getattr(mb, f"reduce_{name}")(x=x, axes=[1]), {"x": integers(2, 3, low=1, high=5)})


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keep", [False, True])
def test_where_the_extremes_are(name: str, axis: int, keep: bool) -> None:
    x = RNG.permutation(24).reshape(2, 3, 4).astype(np.float32)
    check(lambda x: getattr(mb, f"reduce_{name}")(x=x, axis=axis, keep_dims=keep), {"x": x})


@pytest.mark.parametrize("target", ["fp32", "fp16", "int32", "bool", "int8", "uint8", "int16", "uint16"])
def test_casts(target: str) -> None:
    x = np.array([-3.7, -0.2, 0.0, 0.9, 2.5, 100.3], np.float32)
    x = np.abs(x) if target.startswith("u") else x
    dtype = {"fp32": "float32", "fp16": "float32"}.get(target, target)
    wanted = x.astype(dtype)
    found = run(lambda x: mb.cast(x=x, dtype=target), {"x": x}, ios=17)[0]
    assert found.dtype == np.dtype({"fp16": "float16"}.get(target, dtype))
    np.testing.assert_allclose(found.astype(np.float64), wanted.astype(np.float64), rtol=1e-3)


def test_small_integers_wrap_around() -> None:
    x = np.array([300, -1, 127, 128], np.int32)
    for target in ("int8", "uint8", "int16", "uint16"):
        (found,) = run(lambda x, t=target: mb.cast(x=mb.cast(x=x, dtype=t), dtype="int32"), {"x": x}, ios=17)
        np.testing.assert_array_equal(found, x.astype(target).astype(np.int32))


def test_select() -> None:
    given_ = {"cond": RNG.random((2, 3)) < 0.5, "a": normal(2, 3), "b": normal(2, 3)}
    check(lambda cond, a, b: mb.select(cond=cond, a=a, b=b), given_)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 2, 4)])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    weight, offset = normal(5, 4, scale=0.5), normal(5)

    def function(x: Any) -> Any:
        return mb.linear(x=x, weight=like(x, weight), **({"bias": like(x, offset)} if bias else {}))

    check(function, {"x": normal(*shape)}, rtol=1e-4, atol=1e-5, half=False)


@pytest.mark.parametrize("transpose_x", [False, True])
@pytest.mark.parametrize("transpose_y", [False, True])
@pytest.mark.parametrize("lead", [((), ()), ((2,), (2,)), ((2, 1), (3,)), ((), (2, 2))])
def test_matmul(transpose_x: bool, transpose_y: bool, lead: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    x = normal(*lead[0], *((4, 3) if transpose_x else (3, 4)))
    y = normal(*lead[1], *((5, 4) if transpose_y else (4, 5)))
    check(
        lambda x, y: mb.matmul(x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y),
        {"x": x, "y": y},
        rtol=1e-4,
        atol=1e-5,
        half=False,
    )


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 2)),
        ("chw,whr->chr", (3, 4, 5), (5, 4, 2)),
        ("chw,whr->chr", (1, 2, 3), (3, 2, 6)),
    ],
)
def test_einsum(equation: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    x, y = normal(*left), normal(*right)
    check(lambda x, y: mb.einsum(values=(x, y), equation=equation), {"x": x, "y": y}, rtol=1e-4, atol=1e-5, half=False)


@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_attention(mask: str | None) -> None:
    given_: dict[str, Any] = {"query": normal(2, 3, 4), "key": normal(2, 5, 4), "value": normal(2, 5, 6)}
    if mask:
        allowed = RNG.random((2, 3, 5)) < 0.7
        allowed[..., 0] = True
        given_["attn_mask"] = allowed if mask == "bool" else normal(2, 3, 5)
    check(lambda **each: mb.scaled_dot_product_attention(**each), given_, ios=18, half=False)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_quantize(dtype: Any, axis: int | None) -> None:
    x = normal(3, 4, scale=40)
    count = 1 if axis is None else x.shape[axis]
    scale = np.asarray(RNG.uniform(0.3, 1, count), np.float32)
    zero = RNG.integers(0, 5, count).astype(dtype)
    extra: dict[str, Any] = {} if axis is None else {"axis": axis}
    if axis is None:
        scale, zero = scale[0], zero[0]
    name = np.dtype(dtype).name
    check(
        lambda x: mb.quantize(input=x, zero_point=zero, scale=scale, output_dtype=name, **extra), {"x": x}, half=False
    )
    data = RNG.integers(0, 100, (3, 4)).astype(dtype)
    along = np.asarray(scale) if axis is None else scale.reshape((-1, 1) if axis == 0 else (1, -1))
    zeros = np.asarray(zero) if axis is None else zero.reshape(along.shape)
    wanted = (data.astype(np.float32) - zeros.astype(np.float32)) * along
    check(lambda x: mb.dequantize(input=x, zero_point=zero, scale=scale, **extra), {"x": data}, [wanted])


def test_rounding_after_each_operation_is_that_of_half_precision() -> None:
    x = np.array([0.1, 1.0, 1000.0, 60000.0], np.float16)
    with np.errstate(over="ignore"):
        half = ((x * np.float16(3.3)) + x) * np.float16(0.5)

    def function(x: Any) -> Any:
        tripled = mb.mul(x=x, y=np.float16(3.3))
        return mb.mul(x=mb.add(x=tripled, y=x), y=np.float16(0.5))

    (rounded,) = run(function, {"x": x}, precision="fp16")
    np.testing.assert_array_equal(rounded, half)
    assert np.isinf(rounded[-1])
    (single,) = run(function, {"x": x}, precision="fp32")
    wanted = (x.astype(np.float32) * np.float32(np.float16(3.3)) + x.astype(np.float32)) * np.float32(0.5)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(single, wanted.astype(np.float16))
    assert (single != rounded).any()

"""Programs of inputs of any size do what the same programs do when the size is written into them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import get_new_symbol
from mil_programs import IOS, exported, run

from hubpub.coremlfile.mil import Program
from hubpub.errors import CoremlFileError

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 4, 3)).astype(np.float32)
WIDE = RNG.normal(size=(4, 4, 3, 3)).astype(np.float32)

FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int | None, ...]]] = {
    "attention": (lambda x: mb.scaled_dot_product_attention(query=x, key=x, value=x), (1, None, 6)),
    "conv": (lambda x: mb.conv(x=x, weight=KERNEL, pad_type="same", dilations=[2]), (1, 4, None)),
    "conv in steps": (lambda x: mb.conv(x=x, weight=KERNEL, pad_type="same", strides=[2]), (1, 4, None)),
    "conv, lower": (lambda x: mb.conv(x=x, weight=WIDE, pad_type="same_lower", strides=[3, 2]), (1, 4, None, 7)),
    "pool": (lambda x: mb.max_pool(x=x, kernel_sizes=[3], strides=[2], pad_type="same"), (1, 4, None)),
    "mean pool": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3], strides=[2], pad_type="same", exclude_padding_from_average=True),
        (1, 4, None),
    ),
    "conv_transpose": (
        lambda x: mb.conv_transpose(x=x, weight=KERNEL, strides=[2], pad_type="custom", pad=[1, 0]),
        (1, 4, None),
    ),
    "conv_transpose, same": (
        lambda x: mb.conv_transpose(x=x, weight=WIDE, strides=[2, 4], pad_type="same"),
        (1, 4, None, 5),
    ),
    "nearest": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=1.0, scale_factor_width=3.0),
        (1, 4, 2, None),
    ),
    "bands": (lambda x: mb.band_part(x=mb.matmul(x=x, y=x, transpose_y=True), lower=1, upper=0), (1, None, 6)),
    "windows": (lambda x: mb.sliding_windows(x=x, axis=1, size=3, stride=2), (1, None, 2)),
    "update": (
        lambda x: mb.slice_update(x=x, update=np.ones((1, 2, 2), np.float32), begin=[0, 1, 0], end=[1, 3, 2]),
        (1, None, 2),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_size_is_as_the_one_written_down(name: str) -> None:
    function, shape = FUNCTIONS[name]
    symbol = get_new_symbol()
    spec = mb.TensorSpec(shape=tuple(symbol if size is None else size for size in shape))
    program = mb.program(input_specs=[spec], opset_version=IOS[18])(lambda x: function(x))
    with tempfile.TemporaryDirectory() as folder:
        message, read = exported(program, 18, Path(folder))
        made = Program(message, read, threads=1)
    for size in (4, 7, 12):
        x = RNG.normal(size=[each or size for each in shape]).astype(np.float32)
        (found,), (wanted,) = made.run({"x": x}).values(), run(function, {"x": x}, ios=18)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_size_that_must_be_known_is_named() -> None:
    spec = mb.TensorSpec(shape=(1, 4, 2, get_new_symbol()))

    @mb.program(input_specs=[spec], opset_version=IOS[17])
    def program(x: Any) -> Any:
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=1.0, scale_factor_width=1.5, name="up")

    with tempfile.TemporaryDirectory() as folder:
        message, read = exported(program, 17, Path(folder))
        with pytest.raises(
            CoremlFileError, match=r"up\): the shape of `x`, fp32\[1, 4, 2, \?\], is known only when it"
        ):
            Program(message, read)

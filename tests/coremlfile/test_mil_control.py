"""Branches, loops and lists; and programs that cannot run, each in one line that names the operation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_programs import build, exported, like, mb, run

from hubpub.coremlfile.mil import Program
from hubpub.coremlfile.mil.decompress import DECOMPRESS
from hubpub.coremlfile.mil.operation import TRANSLATIONS
from hubpub.coremlfile.ops import OPERATIONS
from hubpub.errors import CoremlFileError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("yes", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_branches(yes: bool, precision: Any) -> None:
    def function(x: Any, pred: Any) -> Any:
        def double() -> Any:
            return mb.mul(x=x, y=like(x, 2)), mb.reduce_sum(x=x)

        def negate() -> Any:
            return mb.sub(x=like(x, 0), y=x), mb.reduce_max(x=x)

        return mb.cond(pred=pred, _true_fn=double, _false_fn=negate)

    found = run(function, {"x": X, "pred": np.array(yes)}, precision=precision)
    np.testing.assert_array_equal(found[0], X * 2 if yes else -X)
    assert found[1].shape == ()
    assert found[1] == (15 if yes else 5)


def test_a_branch_may_give_out_what_lies_outside() -> None:
    def function(x: Any, pred: Any) -> Any:
        return mb.cond(pred=pred, _true_fn=lambda: mb.identity(x=x), _false_fn=lambda: mb.relu(x=x))

    for yes in (False, True):
        found = run(function, {"x": X - 2, "pred": np.array(yes)})
        np.testing.assert_array_equal(found[0], X - 2 if yes else np.maximum(X - 2, 0))


@pytest.mark.parametrize("times", [0, 1, 5])
def test_loops(times: int) -> None:
    """What is computed outside is used inside, and names of the loop do not show outside it."""

    def function(x: Any, limit: Any) -> Any:
        outside = mb.mul(x=x, y=like(x, 0.5))

        def condition(i: Any, total: Any) -> Any:
            return mb.less(x=i, y=limit)

        def step(i: Any, total: Any) -> Any:
            return mb.add(x=i, y=1), mb.add(x=total, y=outside)

        i, total = mb.while_loop(_cond=condition, _body=step, loop_vars=(0, x))
        return i, mb.add(x=total, y=outside)

    found = run(function, {"x": X, "limit": np.array(times, np.int32)})
    assert int(found[0]) == times
    np.testing.assert_allclose(found[1], X + (times + 1) * 0.5 * X)


def test_names_of_a_loop_may_be_those_of_what_lies_outside() -> None:
    def function(x: Any) -> Any:
        def step(i: Any, total: Any) -> Any:
            return mb.add(x=i, y=1), mb.mul(x=total, y=like(total, 2))

        _, total = mb.while_loop(
            _cond=lambda i, total: mb.less(x=i, y=3), _body=step, loop_vars=(0, mb.add(x=x, y=like(x, 1)))
        )
        return mb.sub(x=total, y=x)

    def rename(block: Any) -> None:
        (loop,) = (each for each in block.operations if each.type == "while_loop")
        for inner in loop.blocks:
            old = inner.inputs[1].name
            inner.inputs[1].name = "x"
            for operation in inner.operations:
                for given_ in operation.inputs.values():
                    for each in given_.arguments:
                        each.name = "x" if each.name == old else each.name

    found = program(function, {"x": X}, rename).run({"x": X})
    np.testing.assert_allclose(next(iter(found.values())), (X + 1) * 8 - X)


def test_a_loop_in_a_branch_in_a_loop() -> None:
    def function(x: Any) -> Any:
        def condition(i: Any, total: Any) -> Any:
            return mb.less(x=i, y=4)

        def step(i: Any, total: Any) -> Any:
            def twice() -> Any:
                _, found = mb.while_loop(
                    _cond=lambda j, inner: mb.less(x=j, y=2),
                    _body=lambda j, inner: (mb.add(x=j, y=1), mb.add(x=inner, y=x)),
                    loop_vars=(0, total),
                )
                return found

            even = mb.equal(x=mb.mod(x=i, y=2), y=0)
            total = mb.cond(pred=even, _true_fn=twice, _false_fn=lambda: mb.identity(x=total))
            return mb.add(x=i, y=1), total

        _, total = mb.while_loop(_cond=condition, _body=step, loop_vars=(0, x))
        return total

    np.testing.assert_allclose(run(function, {"x": X})[0], X * 5)


@pytest.mark.parametrize("length", [1, 4])
def test_lists(length: int) -> None:
    """A list that a loop writes, whether it was long enough from the start or grows."""

    def function(x: Any) -> Any:
        items = mb.make_list(init_length=length, dynamic_length=length == 1, elem_shape=(3,), dtype="fp32")

        def step(i: Any, items: Any) -> Any:
            row = mb.squeeze(x=mb.gather(x=x, indices=mb.mod(x=i, y=2), axis=0), axes=[0])
            return mb.add(x=i, y=1), mb.list_write(ls=items, index=i, value=row)

        _, items = mb.while_loop(
            _cond=lambda i, items: mb.less(x=mb.squeeze(x=i), y=4), _body=step, loop_vars=([0], items)
        )
        return mb.list_gather(ls=items, indices=[3, 0]), mb.list_read(ls=items, index=1), mb.list_length(ls=items)

    found = run(function, {"x": X})
    np.testing.assert_array_equal(found[0], X[[1, 0]])
    np.testing.assert_array_equal(found[1], X[1])
    assert int(found[2]) == 4


def test_a_list_that_is_scattered_to() -> None:
    def function(x: Any) -> Any:
        items = mb.make_list(init_length=1, dynamic_length=True, elem_shape=(3,), dtype="fp32")
        items = mb.list_scatter(ls=items, indices=[2, 0], value=x)
        return mb.list_gather(ls=items, indices=[0, 1, 2])

    np.testing.assert_array_equal(run(function, {"x": X})[0], [X[1], [0, 0, 0], X[0]])


UNABLE = {
    "affine",
    "classify",
    "conv_quantized",
    "crop_resize",
    "custom_layer",
    "non_maximum_suppression",
    "random_bernoulli",
    "random_categorical",
    "random_normal",
    "random_uniform",
    "read_state",
    "resample",
    "write_state",
}
"""Images, chance, state, and what only an app has: no speech model of fixed outputs is made of it."""


def test_which_operations_there_are() -> None:
    able = {*TRANSLATIONS, *DECOMPRESS, "const"}
    assert set(OPERATIONS) - able == UNABLE
    assert able <= set(OPERATIONS)


def program(function: Any, inputs: dict[str, np.ndarray], change: Any = None, ios: int = 17, **options: Any) -> Program:
    with tempfile.TemporaryDirectory() as folder:
        message, read = exported(build(function, inputs, ios), ios, Path(folder))
        if change:
            change(next(iter(message.functions["main"].block_specializations.values())))
        return Program(message, read, **options)


def test_an_operation_that_is_missing_is_named() -> None:
    def function(x: Any) -> Any:
        noise = mb.random_normal(shape=[2, 3], seed=1, name="noise")
        return mb.cond(
            pred=mb.less(x=mb.reduce_sum(x=x), y=1.0),
            _true_fn=lambda: mb.add(x=x, y=noise),
            _false_fn=lambda: mb.random_uniform(shape=[2, 3], seed=1, name="other_noise"),
        )

    with pytest.raises(CoremlFileError) as error:
        program(function, {"x": X})
    assert "random_normal (output noise), random_uniform (output other_noise)" in str(error.value)
    assert "measure this model on macOS" in str(error.value)


def test_a_state_is_named() -> None:
    def function(x: Any) -> Any:
        return mb.identity(x=x)

    with tempfile.TemporaryDirectory() as folder:
        message, read = exported(build(function, {"x": X}, 18), 18, Path(folder))
        given = message.functions["main"].inputs[0].type
        tensor = type(given)()
        tensor.CopyFrom(given)
        given.stateType.wrappedType.CopyFrom(tensor)
        with pytest.raises(CoremlFileError, match="input x: a value is a state"):
            Program(message, read)


def _without(parameter: str) -> Any:
    def change(block: Any) -> None:
        for operation in block.operations:
            operation.inputs.pop(parameter, None)

    return change


def _unmade(block: Any) -> None:
    block.operations[-1].inputs["x"].arguments[0].name = "nobody"


def _declared(block: Any) -> None:
    block.operations[-1].outputs[0].type.tensorType.dimensions[0].constant.size = 7


def _more_outputs(block: Any) -> None:
    block.operations[-1].outputs.add().CopyFrom(block.operations[-1].outputs[0])


def _mode(block: Any) -> None:
    for operation in block.operations:
        texts = operation.attributes["val"].immediateValue.tensor.strings.values
        if list(texts) == ["EXACT"]:
            texts[0] = "MOON"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_without("x"), "gelu (output named): it has no `x`; the model is damaged"),
        (_unmade, "gelu (output named): nobody is not made before it is used"),
        (_more_outputs, "gelu (output named): it declares 2 outputs and has 1"),
        (_mode, "gelu (output named): its mode MOON is not known"),
    ],
)
def test_a_damaged_program_is_one_line(change: Any, line: str) -> None:
    with pytest.raises(CoremlFileError) as error:
        program(lambda x: mb.gelu(x=x, mode="EXACT", name="named"), {"x": X}, change)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shape_that_is_not_what_was_declared() -> None:
    found = program(lambda x: mb.gelu(x=x, name="named"), {"x": X}, _declared)
    with pytest.raises(CoremlFileError, match=r"named is declared as fp32\[7, 3\] and comes out as \[2, 3\]"):
        found.run({"x": X})


def test_inputs_are_checked() -> None:
    found = program(lambda x: mb.relu(x=x, name="named"), {"x": X})
    with pytest.raises(CoremlFileError, match=r"the input x is missing; give it as fp32\[2, 3\]"):
        found.run({})
    with pytest.raises(CoremlFileError, match=r"the input x has the shape \[3, 2\]; give fp32\[2, 3\]"):
        found.run({"x": X.T})
    np.testing.assert_array_equal(found.run({"x": X.astype(np.float64)})["named"], X)


def test_what_fails_only_when_it_runs_is_one_line() -> None:
    found = program(lambda x, i: mb.gather(x=x, indices=i, axis=0), {"x": X, "i": np.array([0], np.int32)})
    with pytest.raises(CoremlFileError, match="it fails when it runs") as error:
        found.run({"x": X, "i": np.array([9], np.int32)})
    assert "\n" not in str(error.value)


def test_values_of_the_inside_can_be_had() -> None:
    def function(x: Any) -> Any:
        return mb.relu(x=mb.sub(x=x, y=like(x, 2), name="inside"))

    found = program(function, {"x": X}, also=["inside"])
    np.testing.assert_array_equal(found.run({"x": X})["inside"], X - 2)
    with pytest.raises(CoremlFileError, match="nowhere is not made"):
        program(function, {"x": X}, also=["nowhere"])

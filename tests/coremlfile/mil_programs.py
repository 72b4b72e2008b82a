"""Programs of a few operations, built by coremltools, run by us, and inferred by coremltools itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import types as mil_types

from hubpub.coremlfile.blob import BlobFile
from hubpub.coremlfile.mil import Precision, Program
from hubpub.coremlfile.values import shape_of, tensor_type, unpacked

Array = np.ndarray
IOS = {15: ct.target.iOS15, 16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}
SPECIFICATION = {15: 6, 16: 7, 17: 8, 18: 9}


class Chance:
    """NumPy's generator, started anew before each test and each example of one, so that a failure comes again."""

    def __init__(self) -> None:
        self.anew()

    def anew(self) -> None:
        self._numbers = np.random.default_rng(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._numbers, name)


def outputs_of(found: Any) -> list[Any]:
    return list(found) if isinstance(found, (tuple, list)) else [found]


def like(x: Any, value: Any) -> Any:
    """A number or an array in the element type of a variable, as the builder wants its parameters."""
    found = np.asarray(value).astype(mil_types.nptype_from_builtin(x.dtype))
    return found[()] if found.shape == () else found


def build(function: Callable[..., Any], inputs: Mapping[str, Array], ios: int) -> Any:
    """A pymil program whose inputs are like these arrays."""
    specs = [
        mb.TensorSpec(shape=value.shape or (1,), dtype=mil_types.numpy_type_to_builtin_type(value.dtype))
        for value in inputs.values()
    ]

    def body(*arguments: Any) -> Any:
        given = dict(zip(inputs, arguments, strict=True))
        for name, value in inputs.items():
            if value.shape == ():  # which no input may be
                given[name] = mb.squeeze(x=given[name])
        return function(**given)

    # The builder takes the names of the inputs from the function's parameters.
    scope: dict[str, Any] = {"body": body}
    names = ", ".join(inputs)
    exec(f"def program({names}):\n    return body({names})", scope)
    return mb.program(input_specs=specs, opset_version=IOS[ios])(scope["program"])


def exported(program: Any, ios: int, folder: Path) -> tuple[Any, Callable[[Any, str], Array]]:
    """As a protobuf message, and what reads its constants."""
    found = MILProtoExporter(program, str(folder), SPECIFICATION[ios]).export()
    weights = folder / "weight.bin"

    def read(value: Any, what: str) -> Array:
        if value.WhichOneof("value") != "blobFileValue":
            return unpacked(value, what, "program")
        kind, shape = tensor_type(value, what, "program"), shape_of(value, what, "program")
        assert kind is not None
        count = int(np.prod(shape))
        blob = BlobFile(weights, "weights").blob(value.blobFileValue.offset, kind, count, what)
        return kind.unpack(blob.read(), count).reshape(shape)

    return found, read


def run(
    function: Callable[..., Any],
    inputs: Mapping[str, Array],
    *,
    ios: int = 17,
    precision: Precision = "fp32",
) -> list[Array]:
    """What we make of the program, each output of the type and shape that it declares."""
    with tempfile.TemporaryDirectory() as folder:
        message, read = exported(build(function, inputs, ios), ios, Path(folder))
        program = Program(message, read, precision=precision, threads=1)
    return list(program.run({name: np.atleast_1d(value) for name, value in inputs.items()}).values())


def infer(function: Callable[..., Any], inputs: Mapping[str, Array], *, ios: int = 17) -> list[Array]:
    """What coremltools' own value inference makes of it."""
    found: list[Any] = []

    def constant(**_: Any) -> Any:
        made = outputs_of(function(**{name: mb.const(val=_scalar(value)) for name, value in inputs.items()}))
        found.extend(each.val for each in made)
        return made[0]

    build(constant, {"unused": np.zeros(1, np.float32)}, ios)
    assert all(each is not None for each in found), "coremltools has no value inference for this"
    return [np.asarray(each) for each in found]


def check(
    function: Callable[..., Any],
    inputs: Mapping[str, Array],
    expected: list[Array] | None = None,
    *,
    ios: int = 17,
    rtol: float = 2e-5,
    atol: float = 2e-6,
    half: bool = True,
) -> None:
    """Compare with ``expected`` or with value inference, in single precision, and rounded to fp16 where it is float.

    In half precision the reference is that of the rounded inputs in double, itself rounded at the end: what the
    Neural Engine may differ from in the last place.
    """
    wanted = infer(function, inputs, ios=ios) if expected is None else expected
    assert_close(run(function, inputs, ios=ios), wanted, rtol, atol)
    if half and expected is None and all(value.dtype != np.float64 for value in inputs.values()):
        halves = {name: _half(value) for name, value in inputs.items()}
        if any(value.dtype == np.float16 for value in halves.values()):
            singles = {n: v.astype(np.float32) if v.dtype == np.float16 else v for n, v in halves.items()}
            found = run(function, halves, ios=ios, precision="fp16")
            with np.errstate(over="ignore"):
                rounded = [
                    each.astype(np.float16) if each.dtype.kind == "f" else each
                    for each in infer(function, singles, ios=ios)
                ]
            assert_close(found, rounded, 3e-3, 2e-3)


def _scalar(value: Array) -> Any:
    return value[()] if value.shape == () else value


def _half(value: Array) -> Array:
    return value.astype(np.float16) if value.dtype == np.float32 else value


def assert_close(found: list[Array], wanted: list[Array], rtol: float, atol: float) -> None:
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert mine.dtype.kind == theirs.dtype.kind
        np.testing.assert_allclose(mine.astype(np.float64), theirs.astype(np.float64), rtol=rtol, atol=atol)

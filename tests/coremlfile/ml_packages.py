"""Small Core ML packages, written by coremltools itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.coremlfile import Package, Part, label, main_blocks, operations


def _program(target: Any, half: bool, seed: int, wide: int) -> Any:
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    random = np.random.default_rng(seed)
    dtype = np.float16 if half else np.float32

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return (random.normal(size=shape) * 0.1).astype(dtype)

    mixing, up, down = normal(48, 48), normal(wide, 48), normal(32, wide)
    forward, backward = normal(64, 32, 3), normal(64, 16, 3)
    spec = mb.TensorSpec(shape=(1, 8, 48), dtype=types.fp16 if half else types.fp32)

    @mb.program(input_specs=[spec], opset_version=target)
    def program(x: Any) -> Any:
        y = mb.matmul(x=x, y=mixing, name="mixing")
        y = mb.linear(x=y, weight=up, bias=normal(wide), name="up")
        y = mb.silu(x=y, name="bend")
        y = mb.linear(x=y, weight=down, bias=np.arange(32).astype(dtype), name="down")
        y = mb.transpose(x=y, perm=[0, 2, 1], name="turn")
        y = mb.conv(x=y, weight=forward, pad_type="same", name="forward")
        return mb.conv_transpose(x=y, weight=backward, name="backward")

    return program


def convert(ios: str, path: Path, *, half: bool = True, seed: int = 0, wide: int = 64) -> Any:
    """Write a package of five weights of more than 512 elements; the model."""
    import coremltools

    target = getattr(coremltools.target, ios)
    precision = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
    program = _program(target, half, seed, wide)
    model = coremltools.convert(
        program, convert_to="mlprogram", minimum_deployment_target=target, compute_precision=precision
    )
    model.save(str(path))
    return model


def convert_linear(path: Path, weight: np.ndarray[Any, Any], *, twice: bool = False) -> None:
    """Write a package of iOS 18 of one layer in single precision, and one that leads back."""
    import coremltools
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    target = coremltools.target.iOS18
    spec = mb.TensorSpec(shape=(1, weight.shape[1]), dtype=types.fp32)

    @mb.program(input_specs=[spec], opset_version=target)
    def program(x: Any) -> Any:
        y = mb.linear(x=x, weight=weight, name="first")
        return mb.linear(x=y, weight=weight.T * 2, name="second") if twice else y

    coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=coremltools.precision.FLOAT32,
    ).save(str(path))


def convert_pipeline(path: Path) -> None:
    """Write a pipeline of two programs, the second of which hands on what the first gives."""
    import coremltools
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    target = coremltools.target.iOS17
    random = np.random.default_rng(3)
    first, second = ((random.normal(size=(40, 40)) * 0.2).astype(np.float32) for _ in range(2))
    models = []
    for name, given, weight in (("emb", "chunk", first), ("preds", "emb", second)):
        spec = mb.TensorSpec(shape=(1, 6, 40), dtype=types.fp32)

        def body(weight: Any = weight, name: str = name, **inputs: Any) -> Any:
            (x,) = inputs.values()
            return mb.linear(x=x, weight=weight, bias=np.ones(40, np.float32), name=name)

        source = f"lambda {given}: body({given}={given})"
        program = mb.program(input_specs=[spec], opset_version=target)(eval(source, {"body": body}))
        models.append(
            coremltools.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=target,
                compute_precision=coremltools.precision.FLOAT16,
            )
        )
    head = models[1].get_spec()
    head.description.output.add().CopyFrom(head.description.input[0])
    for function in head.mlProgram.functions.values():
        function.block_specializations[function.opset].outputs.append("emb")
    models[1] = coremltools.models.MLModel(head, weights_dir=models[1].weights_dir, skip_model_load=True)
    coremltools.utils.make_pipeline(*models).save(str(path))


def write_embedder(path: Path) -> None:
    """Write a package that gives eight numbers for features ``[1, 100, 80]``."""
    import coremltools
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    target = coremltools.target.iOS17
    weight = np.random.default_rng(5).normal(size=(8, 80)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 100, 80), dtype=types.fp32)], opset_version=target)
    def program(features: Any) -> Any:
        loud = mb.reduce_mean(x=mb.abs(x=features), axes=[1], keep_dims=False)
        return mb.linear(x=loud, weight=weight, name="embeddings")

    coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=coremltools.precision.FLOAT16,
    ).save(str(path))


@dataclass(frozen=True)
class Packages:
    """The packages, by what they are for."""

    ios16: Path
    ios18: Path
    single: Path
    """Weights of float32, iOS 17."""
    pipeline: Path


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    folder = tmp_path_factory.mktemp("ml-packages")
    made = Packages(*(folder / f"{name}.mlpackage" for name in ("ios16", "ios18", "single", "pipeline")))
    convert("iOS16", made.ios16)
    convert("iOS18", made.ios18)
    convert("iOS17", made.single, half=False)
    convert_pipeline(made.pipeline)
    return made


@pytest.fixture
def copied(packages: Packages, tmp_path: Path) -> Path:
    """A copy of the iOS 16 package, to be damaged."""
    return Path(shutil.copytree(packages.ios16, tmp_path / "copied.mlpackage"))


def dense(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of every program of a package, by the name of what takes them, lookup tables looked up."""
    package = Package.open(path)
    found = {}
    for part in package.programs:
        given = {
            label(each): each
            for _, _, block in main_blocks(part.program)
            for each in operations(block)
            if each.type.startswith("const")
        }
        for operation, parameter, name in _taken(part):
            if name in given:
                found[f"{part.index}:{label(operation)}.{parameter}"] = _lookup(package, given, name)
    return found


def _taken(part: Part) -> Iterator[tuple[Any, str, str]]:
    for _, _, block in main_blocks(part.program):
        for operation in operations(block):
            for parameter in ("weight", "y"):
                for binding in operation.inputs[parameter].arguments if parameter in operation.inputs else ():
                    yield operation, parameter, binding.name


def _lookup(package: Package, given: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    """By NumPy alone, from the definitions of the operations."""
    operation = given[name]
    if operation.type == "const":
        return package.array(operation.attributes["val"], name)
    if "indices" in operation.attributes:
        shape = tuple(package.array(operation.attributes["shape"], name))
        table = package.array(operation.attributes["lut"], name)
        packed = package.array(operation.attributes["indices"], name)
        bits = int(np.log2(len(table)))
        flat = np.unpackbits(packed, bitorder="little")[: int(np.prod(shape)) * bits].reshape(-1, bits)
        return table[(flat << np.arange(bits)).sum(axis=1)].reshape(shape)
    operands = {}
    for parameter, argument in operation.inputs.items():
        (binding,) = argument.arguments
        operands[parameter] = (
            _lookup(package, given, binding.name)
            if binding.name
            else package.array(binding.value, f"{name}.{parameter}")
        )
    if operation.type == "constexpr_blockwise_shift_scale":
        return operands["data"] * operands["scale"]
    indices, tables = operands["indices"], operands["lut"]
    groups = tables.shape[: indices.ndim]
    where = tuple(
        np.arange(size).reshape([-1 if axis == at else 1 for at in range(indices.ndim)]) // (size // groups[axis])
        for axis, size in enumerate(indices.shape)
    )
    result: np.ndarray[Any, Any] = tables[(*where, indices, 0)]
    return result

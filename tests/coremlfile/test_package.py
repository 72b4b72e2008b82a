"""What is read from a package is what coremltools reads from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_packages import Packages

from hubpub.coremlfile import BY_NAME, BlobFile, BlobWriter, Package, check_program, values
from hubpub.coremlfile.dtypes import ELEMENT_TYPES
from hubpub.coremlfile.ops import OPERATIONS
from hubpub.errors import CoremlFileError

STORED = [kind for kind in ELEMENT_TYPES if kind.blob is not None]


def test_every_constant_is_what_coremltools_loads(packages: Packages) -> None:
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    for path in (packages.ios16, packages.ios18, packages.single):
        model = coremltools.models.MLModel(str(path), skip_model_load=True)
        program = load(model.get_spec(), model.get_spec().specificationVersion, model.weights_dir)
        theirs = {
            operation.outputs[0].name: operation.outputs[0].val
            for operation in program.functions["main"].operations
            if operation.op_type == "const"
        }
        package = Package.open(path)
        (part,) = package.parts
        check_program(package, part)
        read = 0
        for what, value in values(part.program):
            name, _, attribute = what.rpartition(".")
            if attribute == "val":
                array = package.array(value, what)
                if array.dtype == object:
                    assert array.item() == theirs[name]
                else:
                    np.testing.assert_array_equal(array, theirs[name], strict=False)
                read += 1
        assert read == len(theirs) > 20


def test_pipeline_is_listed_and_its_programs_are_found_by_place(packages: Packages) -> None:
    package = Package.open(packages.pipeline)
    assert package.is_pipeline
    assert [part.kind for part in package.parts] == ["mlProgram", "mlProgram"]
    assert package.part(1).interface()[0] == {"emb": "float32[1, 6, 40]"}
    assert list(package.weight_files()) == ["@model_path/weights/0-weight.bin", "@model_path/weights/1-weight.bin"]
    with pytest.raises(CoremlFileError, match=r"pipeline.mlpackage: has no single model 2; there are: 0, 1"):
        package.part(2)
    with pytest.raises(CoremlFileError, match="has no single model 'head'"):
        package.part("head")
    package.spec.pipeline.names.extend(["pre_encoder", "head"])
    renamed = Package(package.path, package.manifest, package.spec, tuple(_parts(package)))
    assert renamed.part("head").index == 1


def _parts(package: Package) -> Any:
    from hubpub.coremlfile.package import parts_of

    return parts_of(package.spec, "it")


def test_known_operations_are_those_of_coremltools() -> None:
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    theirs = {name for name in SSAOpRegistry.core_ops if not name.startswith("_")}
    assert theirs | {"write_state", "custom_layer"} == OPERATIONS


def test_opening_does_not_import_coremltools(packages: Packages) -> None:
    code = (
        "import sys; from pathlib import Path; from hubpub.coremlfile import Package\n"
        f"package = Package.open(Path({str(packages.ios18)!r}))\n"
        "print(package.parts[0].kind, 'coremltools' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("mlProgram False\n", "")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(STORED), st.data())
def test_elements_survive_packing(kind: Any, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 70))
    raw = data.draw(st.binary(min_size=kind.nbytes(count), max_size=kind.nbytes(count)))
    unpacked = kind.unpack(raw, count)
    assert unpacked.shape == (count,)
    again = kind.unpack(kind.pack(unpacked), count)
    assert again.tobytes() == unpacked.tobytes()
    if kind.bits < 8:
        low, high = (-(1 << (kind.bits - 1)), (1 << (kind.bits - 1)) - 1) if kind.signed else (0, (1 << kind.bits) - 1)
        assert all(low <= value <= high for value in unpacked.tolist())


def test_blobs_are_laid_out_as_coremltools_lays_them_out(tmp_path: Path) -> None:
    from coremltools.libmilstoragepython import _BlobStorageWriter

    random = np.random.default_rng(0)
    writers = {
        "fp32": ("float", np.float32), "fp16": ("fp16", np.float16), "uint8": ("uint8", np.uint8),
        "int8": ("int8", np.int8), "int16": ("int16", np.int16), "uint16": ("uint16", np.uint16),
        "int32": ("int32", np.int32), "uint32": ("uint32", np.uint32), "int4": ("int4", np.int8),
        "uint1": ("uint1", np.uint8), "uint2": ("uint2", np.uint8), "uint3": ("uint3", np.uint8),
        "uint4": ("uint4", np.uint8), "uint6": ("uint6", np.uint8),
    }  # fmt: skip
    theirs, ours = _BlobStorageWriter(str(tmp_path / "theirs.bin")), BlobWriter(tmp_path / "ours.bin")
    offsets, expected = [], []
    with ours:
        for name, (method, dtype) in writers.items():
            kind = BY_NAME[name]
            for count in (11, 64, 97):
                low = -8 if kind.signed else 0
                values = random.integers(low, min(1 << kind.bits, 100) if not kind.signed else 8, count).astype(dtype)
                stored = values.view(np.uint16) if name == "fp16" else values
                expected.append(getattr(theirs, f"write_{method}_data")(stored))
                offsets.append((ours.add(kind, count, kind.pack(values)), kind, values))
    del theirs
    assert [offset for offset, _, _ in offsets] == expected
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()
    file = BlobFile(tmp_path / "ours.bin", "ours.bin")
    for offset, kind, values in offsets:
        blob = file.blob(offset, kind, len(values), "it")
        np.testing.assert_array_equal(kind.unpack(blob.read(), len(values)), values)


def test_file_that_shrinks_while_it_is_read_is_an_error_not_a_crash(copied: Path) -> None:
    package = Package.open(copied)
    (part,) = package.parts
    value = next(value for _, value in values(part.program) if value.WhichOneof("value") == "blobFileValue")
    _, _, blob = package.blob(value, "it")
    os.truncate(blob.path, blob.start + 10)
    with pytest.raises(CoremlFileError, match="was longer when it was opened; let nothing write to it"):
        blob.read()

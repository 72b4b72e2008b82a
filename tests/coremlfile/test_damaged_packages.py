"""Each way in which a package can be damaged ends in one line that says what, where, and what to do."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubpub.coremlfile import Package, check_program, messages, values
from hubpub.errors import CoremlFileError, HubpubError
from hubpub.transform.palettize import Palettize

Damage = Callable[[Path], None]

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def manifest(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(package: Path) -> None:
        document = json.loads((package / "Manifest.json").read_text())
        changed = change(document)
        (package / "Manifest.json").write_text(json.dumps(document if changed is None else changed))

    return damage


def item(ending: str, **fields: Any) -> Damage:
    """Change the entry whose path ends so."""

    def change(document: dict[str, Any]) -> None:
        for entry in document["itemInfoEntries"].values():
            if entry["path"].endswith(ending):
                entry.update(fields)

    return manifest(change)


def without_item(ending: str) -> Damage:
    def change(document: dict[str, Any]) -> None:
        entries = document["itemInfoEntries"]
        document["itemInfoEntries"] = {
            key: entry for key, entry in entries.items() if not entry["path"].endswith(ending)
        }

    return manifest(change)


def spec(change: Callable[[Any], Any]) -> Damage:
    def damage(package: Path) -> None:
        model = messages().Model.FromString((package / MODEL).read_bytes())
        change(model)
        (package / MODEL).write_bytes(model.SerializeToString())

    return damage


def block(change: Callable[[Any], Any]) -> Damage:
    def of_spec(model: Any) -> None:
        function = model.mlProgram.functions["main"]
        change(function.block_specializations[function.opset])

    return spec(of_spec)


def operation(kind: str, change: Callable[[Any], Any]) -> Damage:
    """Change the first operation of a kind; ``blob`` is a constant of the weight file."""

    def of_block(main: Any) -> None:
        for each in main.operations:
            in_file = each.type == "const" and each.attributes["val"].WhichOneof("value") == "blobFileValue"
            if each.type == kind or (kind == "blob" and in_file):
                change(each)
                return
        raise AssertionError(kind)

    return block(of_block)


def offset(value: int) -> Damage:
    return operation("blob", lambda each: setattr(each.attributes["val"].blobFileValue, "offset", value))


def file_name(value: str) -> Damage:
    return operation("blob", lambda each: setattr(each.attributes["val"].blobFileValue, "fileName", value))


def patch(where: int, data: bytes) -> Damage:
    def damage(package: Path) -> None:
        with (package / WEIGHTS).open("r+b") as file:
            file.seek(where)
            file.write(data)

    return damage


def truncate(name: str, size: int) -> Damage:
    return lambda package: os.truncate(package / name, size)


def write(name: str, data: bytes) -> Damage:
    return lambda package: (package / name).write_bytes(data) and None


def remove(name: str) -> Damage:
    def damage(package: Path) -> None:
        path = package / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def a_folder(name: str) -> Damage:
    """In the place of a file."""

    def damage(package: Path) -> None:
        (package / name).unlink()
        (package / name).mkdir()

    return damage


def link(name: str, target: str) -> Damage:
    """Put a link in the place of a file or folder."""

    def damage(package: Path) -> None:
        remove(name)(package)
        (package / name).symlink_to(target)

    return damage


def kept_elsewhere(name: str) -> Damage:
    """As a link to the same bytes outside the package."""

    def damage(package: Path) -> None:
        outside = package.parent / "outside"
        (package / name).rename(outside)
        (package / name).symlink_to(outside)

    return damage


def dimensions(*sizes: int) -> Callable[[Any], None]:
    def change(each: Any) -> None:
        for typed in (each.attributes["val"], each.outputs[0]):
            del typed.type.tensorType.dimensions[:]
            typed.type.tensorType.rank = len(sizes)
            for size in sizes:
                typed.type.tensorType.dimensions.add().constant.size = size

    return change


def element(code: int) -> Callable[[Any], None]:
    def change(each: Any) -> None:
        each.attributes["val"].type.tensorType.dataType = code
        each.outputs[0].type.tensorType.dataType = code

    return change


def functions(change: Callable[[Any], Any]) -> Damage:
    return spec(lambda model: change(model.mlProgram.functions))


def renamed_opset(found: Any) -> None:
    found["main"].opset = "CoreML99"


def again(main: Any) -> None:
    twice = main.operations.add()
    twice.CopyFrom(next(each for each in main.operations if each.type == "silu"))


def nested(model: Any) -> None:
    inner = messages().Model.FromString(model.SerializeToString())
    model.Clear()
    model.specificationVersion = 7
    pipeline = model.pipeline.models.add()
    pipeline.specificationVersion = 7
    pipeline.pipeline.models.add().CopyFrom(inner)


def neural_network(model: Any) -> None:
    model.neuralNetwork.layers.add().name = "layer"


def encrypted(model: Any) -> None:
    model.serializedModel.identifier = "com.example"
    model.serializedModel.model = b"\x00" * 64


def tree(model: Any) -> None:
    model.treeEnsembleClassifier.SetInParent()


def pipeline_of_networks(model: Any) -> None:
    model.pipeline.models.add().neuralNetwork.SetInParent()


def compiled(package: Path) -> None:
    shutil.rmtree(package)
    package.mkdir()
    (package / "coremldata.bin").write_bytes(b"\x00" * 100)
    (package / "model.mil").write_text("program(1.0) {}")


def compiled_and_encrypted(package: Path) -> None:
    compiled(package)
    (package / "encryptionInfo").write_bytes(b"\x00")


def a_file(package: Path) -> None:
    shutil.rmtree(package)
    package.write_bytes(b"PK\x03\x04")


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no manifest": (remove("Manifest.json"), "has no Manifest.json"),
    "manifest is a folder": (
        a_folder("Manifest.json"),
        "is not a regular file",
    ),
    "manifest is a link": (kept_elsewhere("Manifest.json"), "cannot be read"),
    "manifest is not JSON": (write("Manifest.json", b"{"), "is not JSON"),
    "manifest is not UTF-8": (write("Manifest.json", b"\xff\xfe"), "is not JSON"),
    "manifest is a list": (write("Manifest.json", b"[]"), "lacks itemInfoEntries"),
    "manifest is deep": (write("Manifest.json", b"[" * 200_000), "is not JSON"),
    "manifest is huge": (write("Manifest.json", b" " * (1 << 21)), "more than 1048576"),
    "manifest of another version": (manifest(lambda document: {**document, "fileFormatVersion": "9"}), "known is"),
    "no entry of the model": (without_item("model.mlmodel"), "which it says is the model"),
    "no entry of the weights": (without_item("weights"), "Manifest.json has no entry for com.apple.CoreML/weights"),
    "no root": (manifest(lambda document: document.pop("rootModelIdentifier") and None), "lacks itemInfoEntries"),
    "root unknown": (manifest(lambda document: {**document, "rootModelIdentifier": "X"}), "has no entry 'X'"),
    "item without a path": (
        manifest(lambda document: {**document, "itemInfoEntries": {"A": {"name": "x"}}}),
        "lacks itemInfoEntries",
    ),
    "item with a number as path": (item("weights", path=7), "lacks itemInfoEntries"),
    "item leaves the folder": (item("weights", path="../../../etc"), "leaves the package"),
    "model leaves the folder": (item("model.mlmodel", path="com.apple.CoreML/../../../x"), "leaves the package"),
    "item is absolute": (item("weights", path="/etc"), "leaves the package"),
    "item with backslashes": (item("weights", path="..\\..\\x"), "leaves the package"),
    "item with NUL": (item("weights", path="a\0b"), "refers outside the package"),
    "item is not there": (item("weights", path="com.apple.CoreML/nothing"), "is missing from the package"),
    "model is not there": (remove(MODEL), "is missing from the package"),
    "model is a folder": (item("model.mlmodel", path="com.apple.CoreML"), "is not a regular file"),
    "model is a link": (kept_elsewhere(MODEL), "goes through a link"),
    "weights are a link": (kept_elsewhere(WEIGHTS), "goes through a link"),
    "folder of weights is a link": (kept_elsewhere("Data/com.apple.CoreML/weights"), "goes through a link"),
    "link to nowhere": (link(WEIGHTS, "/nowhere/at/all"), "goes through a link"),
    "model is empty": (truncate(MODEL, 0), "holds no model of a kind that is known"),
    "model is cut off": (truncate(MODEL, 3000), "is not a sound Core ML model"),
    "model is noise": (write(MODEL, bytes(range(256)) * 8), "is not a sound Core ML model"),
    "model is an LFS pointer": (
        write(MODEL, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "is a Git LFS pointer",
    ),
    "neural network": (spec(neural_network), "is a neural network of before ML programs; convert it again"),
    "encrypted": (spec(encrypted), "is serialized or encrypted"),
    "trees": (spec(tree), "is a model of the kind treeEnsembleClassifier"),
    "pipeline without a program": (spec(pipeline_of_networks), "is a pipeline without an ML program"),
    "pipeline in a pipeline": (spec(nested), "is a pipeline within a pipeline"),
    "compiled": (compiled, "is a compiled model, which cannot be transformed; start from the .mlpackage"),
    "compiled and encrypted": (compiled_and_encrypted, "is a compiled and encrypted model"),
    "an archive": (a_file, "is a file; an ML package is a folder"),
    "no functions": (functions(lambda found: found.clear()), "the program has no function"),
    "opset without a block": (functions(renamed_opset), "has no block for its own opset 'CoreML99'"),
    "unknown operation": (
        operation("silu", lambda each: setattr(each, "type", "silux")),
        "bend: unknown operation 'silux'; did you mean 'silu'?",
    ),
    "input that nothing gives": (
        operation("silu", lambda each: setattr(each.inputs["x"].arguments[0], "name", "ghost")),
        "x is 'ghost', which nothing gives",
    ),
    "output that nothing gives": (block(lambda main: main.outputs.append("ghost")), "the output 'ghost' is given by"),
    "described output is another": (
        spec(lambda model: setattr(model.description.output[0], "name", "other")),
        "its outputs are not those that it describes",
    ),
    "described input is another": (
        spec(lambda model: setattr(model.description.input[0], "name", "other")),
        "its inputs are not those that it describes",
    ),
    "one name twice": (block(again), "two operations give 'bend'"),
    "constant without a value": (
        operation("const", lambda each: each.attributes.pop("val") and None),
        "is a const without a value",
    ),
    "constant of another shape": (
        operation("blob", lambda each: setattr(each.outputs[0].type.tensorType.dimensions[0].constant, "size", 7)),
        "has another type or shape than its output",
    ),
    "constant of an unknown type": (operation("blob", element(99)), "elements of the type 99, which is not known"),
    "constant of a type that files lack": (operation("blob", element(12)), "of a type that weight files cannot hold"),
    "constant of another type": (operation("blob", element(11)), "the program expects fp32"),
    "constant of a gigantic shape": (operation("blob", dimensions(1 << 40, 1 << 40)), "asks for"),
    "constant larger than its blob": (operation("blob", dimensions(480, 48)), "the program expects 23040 x fp16"),
    "rank is a lie": (
        operation("blob", lambda each: setattr(each.attributes["val"].type.tensorType, "rank", 5)),
        "2 dimensions and rank 5",
    ),
    "offset past the end": (offset(1 << 40), "offset 1099511627776 is past the end"),
    "offset near 2^64": (offset((1 << 64) - 64), "is past the end"),
    "offset in the header": (offset(0), "offset 0 is none of a blob"),
    "offset not aligned": (offset(65), "offset 65 is none of a blob"),
    "offset into data": (offset(128), "no blob begins at offset 128"),
    "weights elsewhere": (file_name("@model_path/../../../../etc/passwd"), "refers outside the package"),
    "weights at an absolute path": (file_name("/etc/passwd"), "does not begin with @model_path/"),
    "weights of no such name": (file_name("@model_path/weights/other.bin"), "is missing from the package"),
    "weights are a folder": (file_name("@model_path/weights"), "is not a regular file"),
    "weights are missing": (remove(WEIGHTS), "is missing from the package"),
    "weights are empty": (truncate(WEIGHTS, 0), "fewer than the header"),
    "weights are cut off": (truncate(WEIGHTS, 20_000), "it was cut off"),
    "weights end in metadata": (truncate(WEIGHTS, 100), "is past the end"),
    "weights of another version": (patch(4, struct.pack("<I", 1)), "is not a weight file of version 2"),
    "weights with a wrong magic": (patch(64, b"\0\0\0\0"), "its mark is missing"),
    "weights with a wrong type": (patch(68, struct.pack("<I", 2)), "has elements of type 2"),
    "weights with a wrong size": (patch(72, struct.pack("<Q", 1 << 50)), "the program expects 2304 x fp16"),
    "weights with a wrong place": (patch(80, struct.pack("<Q", 1 << 50)), "it was cut off"),
    "weights with unused bits": (patch(88, struct.pack("<Q", 3)), "3 bits unused"),
    "weights are an LFS pointer": (
        write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n" + b"\n" * 20),
        "is a Git LFS pointer",
    ),
}


def test_there_are_enough_of_them() -> None:
    assert len(DAMAGES) >= 50


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_ends_in_one_clear_line(name: str, copied: Path, tmp_path: Path) -> None:
    damage, said = DAMAGES[name]
    damage(copied)
    with pytest.raises(CoremlFileError) as caught:
        Palettize(bits=4).apply(copied, tmp_path / "made.mlpackage", lambda _: None)
    line = str(caught.value)
    assert said in line
    assert line.startswith("copied.mlpackage")
    assert "\n" not in line
    assert str(tmp_path) not in line
    assert not (tmp_path / "made.mlpackage").exists()


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(["Manifest.json", MODEL, WEIGHTS]), data=st.data())
def test_any_byte_may_be_wrong(copied: Path, name: str, data: st.DataObject) -> None:
    path = copied / name
    sound = path.read_bytes()
    raw = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(1, len(raw)))]) if data.draw(st.booleans()) else raw)
    lines = ""
    try:
        package = Package.open(copied)
        for part in package.programs:
            check_program(package, part)
            for what, value in values(part.program):
                if value.type.WhichOneof("type") == "tensorType":
                    package.array(value, what)
    except HubpubError as error:
        lines = str(error)
    path.write_bytes(sound)
    assert "\n" not in lines

"""A Core ML package stands for its files."""

from __future__ import annotations

from hubpub.recipe import known_as, members

FILES = ("a/x.mlpackage/Manifest.json", "a/x.mlpackage/Data/w.bin", "a/x.mlpackage.txt", "b/model.onnx", "b/other.onnx")


def test_members() -> None:
    assert members("a/x.mlpackage", FILES) == ("a/x.mlpackage/Data/w.bin", "a/x.mlpackage/Manifest.json")
    assert members("b/model.onnx", FILES) == ("b/model.onnx",)
    assert members("b", FILES) == ("b",)  # any other folder is none that stands for its files
    assert members("a/y.mlpackage", FILES) == ("a/y.mlpackage",)
    assert members("z.mlpackage", ["z.mlpackage", "z.mlpackage/x"]) == ("z.mlpackage",)


def test_known_as() -> None:
    assert known_as("a/x.mlpackage/Data/w.bin") == ("a/x.mlpackage/Data/w.bin", "a/x.mlpackage")
    assert known_as("b/model.onnx") == ("b/model.onnx",)

"""A drop-in keeps file names, graphs, configuration keys, and names that loaders can tell apart."""

# ruff: noqa: E501 (what is said, line by line)
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from check_tools import adopt, publishable, put, reasons, release, replaced, rewrite
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from toy import Finished, Project

from hubpub.errors import OnnxFileError
from hubpub.manifest import DropInRecord, read_manifest
from hubpub.measure.clients.ort import OnnxRuntime
from hubpub.onnxfile.interface import Interface, Port, interface_of
from hubpub.publish.dropin import MAX_PROTOBUF, broken, promised_names

__all__ = ["publishable", "release", "replaced"]

Change = Callable[[onnx.GraphProto], object]


def fixed(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 16000


def other_type(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def one_more_input(graph: onnx.GraphProto) -> None:
    graph.input.insert(0, helper.make_tensor_value_info("length", TensorProto.INT64, [1]))


def one_more_output_behind(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))


def one_more_output_before(graph: onnx.GraphProto) -> None:
    graph.output.insert(0, helper.make_tensor_value_info("y", TensorProto.FLOAT, None))


def other_rank(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1


def other_size(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9


def other_symbol(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_param = "samples"


def renamed(graph: onnx.GraphProto) -> None:
    graph.input[0].name = graph.node[0].input[0] = "audio"


GRAPHS: list[tuple[Change, list[str]]] = [
    (fixed, ["input waveform has size 16000 at axis 1 and had any size"]),
    (other_type, ["output features is float16 and was float"]),
    (one_more_input, ["wants the input length, which is not"]),
    (one_more_output_behind, []),
    (one_more_output_before, ["has its outputs in another order (y, features) than"]),
    (other_rank, ["output features has 4 dimensions and had 3"]),
    (other_size, ["output features has size 9 at axis 1 and had 8"]),
    (other_symbol, []),
    (renamed, ["has no input waveform, which is", "wants the input audio, which is not"]),
]


@pytest.mark.parametrize(("change", "expected"), GRAPHS, ids=[change.__name__ for change, _ in GRAPHS])
def test_graphs(release: Path, change: Change, expected: list[str]) -> None:
    model = onnx.load(release / "model.onnx")
    change(model.graph)
    onnx.save(model, release / "model.onnx")
    adopt(release, "model.onnx")
    fix = "in ../data; mend it, or do not replace that repo"
    assert reasons(release) == [f"model.onnx: {why} {fix}" for why in expected]
    assert reasons(release, drop_in_for=None) == []


def test_the_promise_is_in_the_manifest(publishable: Finished) -> None:
    promise = read_manifest(publishable.release).drop_in
    assert promise is not None
    assert (promise.source, promise.files, promise.keys) == ("data", ("model.onnx", "notes.txt"), {})
    waveform = Port(name="waveform", type="float", shape=(1, "n"))
    features = Port(name="features", type="float", shape=(1, 8, "t"))
    assert promise.graphs == {"model.onnx": Interface(inputs=(waveform,), outputs=(features,))}


def test_files_that_upstream_has_must_be_there(release: Path) -> None:
    manifest = read_manifest(release)
    assert manifest.drop_in is not None
    files = ("LICENSE", ".gitattributes", "README.md", "hubpub.json", "recipe/toy.yaml", "note.txt", "notes.txt")
    rewrite(release, drop_in=manifest.drop_in.model_copy(update={"files": files}))
    assert reasons(release) == [
        "LICENSE: ../data has this file, and its users load it by that name; publish it too",
        "note.txt: ../data has this file, and its users load it by that name; publish it too; did you mean 'notes.txt'?",
    ]


def test_keys_of_the_configuration_stay(replaced: Project, publishable: Finished) -> None:
    (replaced.folder / "data" / "config.json").write_text(
        json.dumps({"stride": 1, "model_type": "x", "features_size": 8})
    )
    sources = replaced.recipe["sources"]
    data = {**sources["data"], "include": ["*.onnx", "*.txt", "*.json"]}
    replaced.recipe = {**replaced.recipe, "sources": {**sources, "data": data}}
    replaced.save()
    built = replaced.build(publishable.store)
    assert built.manifest.drop_in is not None
    assert built.manifest.drop_in.keys == {"config.json": ("features_size", "model_type", "stride")}
    assert reasons(built.folder) == [
        "config.json: lacks features_size, model_type, which ../data has there; keep these keys"
    ]


def test_upstream_graphs_are_fetched_though_nothing_else_needs_them(replaced: Project, publishable: Finished) -> None:
    model = onnx.load(replaced.folder / "data" / "model.onnx")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, replaced.folder / "data" / "encoder.int8.onnx")
    replaced.path.with_suffix(".lock").unlink()
    built = replaced.build(publishable.store)
    assert built.manifest.drop_in is not None
    assert built.manifest.drop_in.graphs["encoder.int8.onnx"].outputs[0].type == "int8"
    assert "encoder.int8.onnx" not in built.manifest.sources["data"].files
    (line,) = reasons(built.folder)
    assert line.startswith("encoder.int8.onnx: ../data has this file")


def test_a_release_of_another_recipe(release: Path) -> None:
    assert reasons(release, drop_in_for="speech") == [
        "publish.drop_in_for: speech: the release does not record what that source promises its users; "
        "build it again with this recipe"
    ]
    assert reasons(release, drop_in_for="dta") == [
        "publish.drop_in_for: the release has no source 'dta'; did you mean 'data'?; correct it"
    ]


def test_a_partial_build_promises_nothing(replaced: Project, publishable: Finished) -> None:
    assert replaced.build(publishable.store, only="notes.txt").manifest.drop_in is None


def test_names_of_a_package_count_from_its_deepest_folder() -> None:
    files = ("pkg/data/onnx/model.onnx", "pkg/data/config.json", "pkg/data/README.md")
    promise = DropInRecord(source="x", files=files, graphs={}, keys={})
    assert promised_names(promise, "pypi") == {
        "pkg/data/onnx/model.onnx": "onnx/model.onnx",
        "pkg/data/config.json": "config.json",
    }
    assert list(promised_names(promise, "hub").values()) == [
        "pkg/data/onnx/model.onnx",
        "pkg/data/config.json",
        "pkg/data/README.md",
    ]
    one = DropInRecord(source="x", files=("pkg/model.onnx",), graphs={}, keys={})
    assert promised_names(one, "pypi") == {"pkg/model.onnx": "model.onnx"}


@pytest.mark.parametrize(
    ("one", "other", "confused"),
    [
        ("encoder-model.int8.onnx", "encoder-model_int8.onnx", True),
        ("encoder-model.int8.onnx", "encoder-model.int4.onnx", False),
        ("encoder-model.onnx", "encoder-model.int8.onnx", False),
        ("encoder-model.onnx", "sharded/encoder-model.onnx", False),
        ("encoder-model.int8.onnx", "sharded/encoder-model_int8.onnx", False),
        ("model.int8.smoothquant.onnx", "model_int8.smoothquant.onnx", True),
    ],
)
def test_names_that_onnx_asr_confuses(release: Path, one: str, other: str, confused: bool) -> None:
    content = (release / "model.onnx").read_bytes()
    for name in (one, other):
        put(release, name, content)
    said = [line for line in reasons(release) if "onnx-asr takes either" in line]
    assert len(said) == confused
    assert not said or said[0].startswith(f"{one} and {other}: ")


def test_sharded_copies_do_not_shadow_for_whisper(release: Path) -> None:
    """Its files are looked for in every folder; those of other families in the first one only."""
    content = (release / "model.onnx").read_bytes()
    for name in ("encoder_model.onnx", "sharded/encoder_model.onnx", "sharded/encoder_model.sharded.onnx"):
        put(release, name, content)
    assert reasons(release) == []
    recipe = release / "recipe" / "toy.yaml"
    text = recipe.read_text()
    whisper = "  extra:\n    files: [model.onnx]\n    via: {client: onnx-asr, model: whisper}\n    corpus: chords\n    metrics: [rtf]\n"
    recipe.write_text(text.replace("measure:\n", f"measure:\n{whisper}"))
    adopt(release, "recipe/toy.yaml")
    (line,) = reasons(release)
    assert line.startswith("encoder_model.onnx and sharded/encoder_model.onnx: onnx-asr takes either for the other")


def test_external_data_that_is_not_there(release: Path) -> None:
    (release / "sharded" / "model.onnx.data.000").unlink()
    lines = reasons(release)
    assert "sharded/model.onnx.data.000 is missing; build it again" in lines
    assert any(line.startswith("sharded/model.onnx: tensor 'first'") and "is missing" in line for line in lines)


def test_a_protobuf_that_nobody_reads(release: Path) -> None:
    with (release / "model.onnx").open("r+b") as file:
        file.truncate(MAX_PROTOBUF + 1)
    lines = reasons(release)
    assert any(line.startswith(f"model.onnx: has {MAX_PROTOBUF + 1} bytes, and no reader takes") for line in lines)


PORTS = st.builds(
    Port,
    name=st.sampled_from("abcd"),
    type=st.sampled_from(["float", "int64"]),
    shape=st.none() | st.lists(st.sampled_from([1, 2, "n", None]), max_size=3).map(tuple),
)
GRAPH = st.builds(
    Interface,
    inputs=st.lists(PORTS, max_size=3, unique_by=lambda port: port.name).map(tuple),
    outputs=st.lists(PORTS, max_size=3, unique_by=lambda port: port.name).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(GRAPH)
def test_every_graph_can_stand_for_itself(graph: Interface) -> None:
    assert list(broken(graph, graph)) == []


@settings(max_examples=500, deadline=None)
@given(GRAPH, GRAPH)
def test_whatever_feeds_the_old_graph_feeds_the_new_one(theirs: Interface, ours: Interface) -> None:
    """Checked the other way round: a feed by name, of any size that the old graph takes, must fit the new one."""
    if list(broken(theirs, ours)):
        return
    mine: dict[str, Any] = {port.name: port for port in ours.inputs}
    assert set(mine) == {port.name for port in theirs.inputs}
    for port in theirs.inputs:
        now = mine[port.name]
        assert now.type == port.type
        if port.shape is not None and now.shape is not None:
            for was, size in zip(port.shape, now.shape, strict=True):
                assert not isinstance(size, int) or size == was
    assert [port.name for port in ours.outputs][: len(theirs.outputs)] == [port.name for port in theirs.outputs]


def test_interfaces_of_files_that_are_none(tmp_path: Path) -> None:
    for name, content in (("a.onnx", b""), ("b.onnx", b"\x08\x07"), ("c.onnx", b"version https://git-lfs")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OnnxFileError):
            interface_of(tmp_path / name)
    with pytest.raises(OnnxFileError):
        interface_of(tmp_path / "missing.onnx")


def test_what_cannot_be_loaded_back_here_is_not_published_from_here(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before the commit, not after it."""
    monkeypatch.setattr(OnnxRuntime, "not_here", lambda self: "it needs a Mac")
    assert reasons(release) == [
        f"run {name}: `publish.load` names it, and it cannot load anything back here: it needs a Mac; publish where it can"
        for name in ("whole", "sharded")
    ]

"""What palettize writes is what coremltools writes, with better tables, and the same from every process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parents[1] / "coremlfile"))

from ml_packages import Packages, convert, convert_linear, dense, packages

from hubpub.coremlfile import Package, find_aliases, label, main_blocks, messages, operations
from hubpub.errors import CoremlFileError, StepError
from hubpub.transform import _kmeans, _luts, _palettes
from hubpub.transform.palettize import MixedBits, Palettize

__all__ = ["packages"]

WEIGHTS = "Data/com.apple.CoreML/weights"


def palettized(source: Path, target: Path, **params: Any) -> dict[str, Any]:
    return Palettize(**params).apply(source, target, lambda _: None)


def by_coremltools(source: Path, target: Path, **options: Any) -> None:
    import coremltools
    from coremltools.optimize import coreml

    model = coremltools.models.MLModel(str(source), skip_model_load=True)
    config = coreml.OptimizationConfig(global_config=coreml.OpPalettizerConfig(weight_threshold=512, **options))
    coreml.palettize_weights(model, config).save(str(target))


def structure(path: Path) -> dict[str, Any]:
    """Per operation: type, and type and shape of all that it takes and gives; names without what coremltools adds."""
    package = Package.open(path)
    (part,) = package.parts

    def name(text: str) -> str:
        return text.removesuffix("_palettized")

    def typed(message: Any) -> tuple[int, list[int]]:
        tensor = message.type.tensorType
        return tensor.dataType, [dimension.constant.size for dimension in tensor.dimensions]

    found = {}
    for _, function, block in main_blocks(part.program):
        for operation in operations(block):
            attributes = {
                key: (*typed(value), value.WhichOneof("value"))
                for key, value in operation.attributes.items()
                if key != "name"
            }
            inputs = {
                key: [
                    name(each.name) or (*typed(each.value), each.value.WhichOneof("value")) for each in value.arguments
                ]
                for key, value in operation.inputs.items()
            }
            found[name(label(operation))] = (operation.type, typed(operation.outputs[0]), attributes, inputs)
        found["function"] = (function.opset, [typed(each) for each in function.inputs], list(block.outputs))
    found["version"] = package.spec.specificationVersion
    return found


CASES = {
    "iOS 16, 4 bits": ("ios16", {"bits": 4}, {"nbits": 4}),
    "iOS 16, 1 bit": ("ios16", {"bits": 1}, {"nbits": 1}),
    "iOS 16, 8 bits": ("ios16", {"bits": 8}, {"nbits": 8}),
    "iOS 17, fp32, 6 bits": ("single", {"bits": 6}, {"nbits": 6}),
    "iOS 17, fp32, 2 bits": ("single", {"bits": 2}, {"nbits": 2}),
    "iOS 18, 3 bits": ("ios18", {"bits": 3}, {"nbits": 3}),
    "iOS 18, groups of 8": (
        "ios18",
        {"bits": 6, "granularity": "per_grouped_channel", "group_size": 8},
        {"nbits": 6, "granularity": "per_grouped_channel", "group_size": 8},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_structure_is_that_of_coremltools_and_the_error_no_larger(
    case: str, packages: Packages, tmp_path: Path
) -> None:
    import coremltools

    which, params, options = CASES[case]
    source = getattr(packages, which)
    ours, theirs = tmp_path / "ours.mlpackage", tmp_path / "theirs.mlpackage"
    facts = palettized(source, ours, **params)
    by_coremltools(source, theirs, **options)
    assert structure(ours) == structure(theirs)
    assert (ours / WEIGHTS / "weight.bin").stat().st_size == (theirs / WEIGHTS / "weight.bin").stat().st_size
    plain, mine, other = dense(source), dense(ours), dense(theirs)
    assert len(facts["layers"]) == 5
    for name, values in plain.items():
        exact = values.astype(np.float64)
        error, their_error = (float(np.square(each[name] - exact).sum()) for each in (mine, other))
        assert 0 < error <= their_error * (1 + 1e-9)
    # coremltools takes it, and sees the same weights.
    model = coremltools.models.MLModel(str(ours), skip_model_load=True)
    from coremltools.optimize.coreml import decompress_weights

    decompress_weights(model).save(str(tmp_path / "decompressed.mlpackage"))
    for name, values in dense(tmp_path / "decompressed.mlpackage").items():
        np.testing.assert_array_equal(values, mine[name])


@pytest.mark.parametrize("ios", ["iOS18", "iOS26"])
def test_scales_are_per_output_channel(ios: str, tmp_path: Path) -> None:
    """Coremltools takes the largest magnitude along the channels instead of per channel, so only types are compared."""
    source, ours, theirs = (tmp_path / f"{name}.mlpackage" for name in ("source", "ours", "theirs"))
    convert(ios, source)
    facts = palettized(source, ours, bits=4, per_channel_scale=True)
    by_coremltools(source, theirs, nbits=4, enable_per_channel_scale=True)

    def kinds(path: Path) -> list[Any]:
        blocks = [block for part in Package.open(path).parts for _, _, block in main_blocks(part.program)]
        return [
            (
                operation.type,
                sorted((key, value.arguments[0].WhichOneof("binding")) for key, value in operation.inputs.items()),
            )
            for block in blocks
            for operation in operations(block)
            if operation.type.startswith("constexpr_")
        ]

    assert kinds(ours) == kinds(theirs)
    package = Package.open(ours)
    scales = {
        label(each): [size.constant.size for size in each.inputs["scale"].arguments[0].value.type.tensorType.dimensions]
        for _, _, block in main_blocks(package.parts[0].program)
        for each in operations(block)
        if each.type == "constexpr_blockwise_shift_scale"
    }
    after = [1, 1] if ios == "iOS18" else []  # a scale of tables has their axes too
    assert sorted(scales.values()) == sorted(
        [*shape, *after] for shape in ([1, 48], [64, 1], [32, 1], [64, 1, 1], [1, 16, 1])
    )
    plain, mine = dense(source), dense(ours)
    noises = [float(np.square(mine[name] - values, dtype=np.float64).sum()) for name, values in plain.items()]
    told = [row["snr_db"] for row in facts["layers"]]
    for (_, values), noise, decibels in zip(plain.items(), noises, told, strict=True):
        assert 10 * np.log10(float(np.square(values, dtype=np.float64).sum()) / noise) == pytest.approx(
            decibels, abs=0.05
        )


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_bytes_from_every_process(packages: Packages, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hubpub.transform.palettize import Palettize\n"
        "Palettize(bits=6, split_aliases=True).apply(Path(sys.argv[1]), Path(sys.argv[2]), lambda _: None)"
    )
    for source in (packages.ios16, packages.pipeline):
        trees = []
        for seed in ("1", "2"):
            target = tmp_path / seed / source.name
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            subprocess.run([sys.executable, "-c", code, source, target], check=True, env=environment)
            trees.append(tree(target))
        assert trees[0] == trees[1]
        assert {"Manifest.json", "Data/com.apple.CoreML/model.mlmodel"} < trees[0].keys()
    made = Package.open(tmp_path / "1" / packages.ios16.name)
    assert "com.github.apple.coremltools.conversion_date" not in made.spec.description.metadata.userDefined


def test_identifiers_follow_the_content(packages: Packages, tmp_path: Path) -> None:
    manifests = []
    for bits in (4, 6):
        palettized(packages.ios16, tmp_path / f"{bits}.mlpackage", bits=bits)
        manifests.append(json.loads((tmp_path / f"{bits}.mlpackage" / "Manifest.json").read_text()))
    assert not manifests[0]["itemInfoEntries"].keys() & manifests[1]["itemInfoEntries"].keys()
    for manifest in manifests:
        paths = {entry["path"] for entry in manifest["itemInfoEntries"].values()}
        assert paths == {"com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"}


def test_weights_of_a_family_are_clustered_once(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clustered: list[int] = []
    inner = _kmeans.cluster
    monkeypatch.setattr(_luts, "cluster", lambda *args: clustered.append(args[-1]) or inner(*args))
    monkeypatch.setattr(_luts, "_kept", type(_luts._kept)())
    palettized(packages.ios16, tmp_path / "one.mlpackage", bits=6)
    assert clustered == [64] * 5
    palettized(packages.ios18, tmp_path / "two.mlpackage", bits=6)  # the same weights in another program
    assert clustered == [64] * 5
    ours = dense(tmp_path / "one.mlpackage")
    assert all((ours[name] == values).all() for name, values in dense(tmp_path / "two.mlpackage").items())
    palettized(packages.ios16, tmp_path / "three.mlpackage", bits=4)
    assert clustered == [64] * 5 + [16] * 5


def test_pipeline_stays_one_and_only_its_head_changes(packages: Packages, tmp_path: Path) -> None:
    target = tmp_path / "made.mlpackage"
    facts = palettized(packages.pipeline, target, bits=6, models=(1,), split_aliases=True)
    assert [(row["model"], row["shape"]) for row in facts["layers"]] == [("model 1", [40, 40])]
    assert facts["split"] == ["model 1: emb"]
    assert facts["needs"] == "iOS 17, macOS 14"
    first = "0-weight.bin"
    assert (target / WEIGHTS / first).read_bytes() == (packages.pipeline / WEIGHTS / first).read_bytes()
    source, made = Package.open(packages.pipeline), Package.open(target)
    assert made.is_pipeline
    for side in ("input", "output"):
        assert getattr(made.spec.description, side) == getattr(source.spec.description, side)
    assert [alias.name for alias in find_aliases(source)] == ["emb"]
    assert find_aliases(made) == []
    assert made.part(0).interface() == ({"chunk": "float32[1, 6, 40]"}, {"emb_in": "float32[1, 6, 40]"})
    assert list(made.part(1).interface()[0]) == ["emb_in"]
    assert sorted(made.part(1).interface()[1]) == ["emb", "preds"]
    identities = [
        (operation.inputs["x"].arguments[0].name, operation.outputs[0].name)
        for _, _, block in main_blocks(made.part(1).program)
        for operation in operations(block)
        if operation.type == "identity"
    ]
    assert identities == [("emb_in", "emb")]
    import coremltools

    loaded = coremltools.models.MLModel(str(target), skip_model_load=True)
    assert len(loaded.get_spec().pipeline.models) == 2


def test_alias_is_refused_unless_it_is_to_be_split(packages: Packages, tmp_path: Path) -> None:
    with pytest.raises(
        StepError, match=r"pipeline.mlpackage: 'emb' is input and output of model 1, .*; set split_alia"
    ):
        palettized(packages.pipeline, tmp_path / "x.mlpackage")
    lone = tmp_path / "lone.mlpackage"
    shutil.copytree(packages.ios16, lone)
    file = lone / "Data/com.apple.CoreML/model.mlmodel"
    spec = messages().Model.FromString(file.read_bytes())
    spec.description.output.add().CopyFrom(spec.description.input[0])
    spec.mlProgram.functions["main"].block_specializations["CoreML6"].outputs.append("x")
    file.write_bytes(spec.SerializeToString())
    with pytest.raises(CoremlFileError, match="comes from outside, so no identity can part them; convert it again"):
        palettized(lone, tmp_path / "x.mlpackage", split_aliases=True)


def test_files_that_do_not_shrink_are_refused_with_every_weight(packages: Packages, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"weight.bin did not shrink .*mixing_y_0 4608 to .*, .*; ask for fewer bits"):
        palettized(packages.ios18, tmp_path / "x.mlpackage", bits=8, per_channel_scale=True)


def test_plan_that_was_not_carried_out_is_noticed(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the attempt that "quantized" to the size it had."""
    monkeypatch.setattr(_palettes, "palettize_weight", lambda *_: None)
    with pytest.raises(StepError, match="5 weights were not palettized, model 0: mixing_y_0 among them"):
        palettized(packages.ios16, tmp_path / "x.mlpackage")
    monkeypatch.undo()
    monkeypatch.setattr(_palettes, "IMMEDIATE", 1 << 20)
    with pytest.raises(StepError, match=r"have \{'@model_path/weights/weight.bin': .* were planned: model 0: mixing"):
        palettized(packages.ios16, tmp_path / "y.mlpackage")


def test_weights_that_stay_and_why(packages: Packages, tmp_path: Path) -> None:
    facts = palettized(
        packages.ios18,
        tmp_path / "x.mlpackage",
        bits=4,
        granularity="per_grouped_channel",
        group_size=32,
        min_elements=20,
        exclude=("forward_*",),
    )
    reasons = {row["weight"]: row["reason"] for row in facts["skipped"]}
    assert reasons == {
        "mixing_y_0": "its 48 channels are no multiple of 32",
        "up_bias_0": "a vector",
        "down_bias_0": "a vector",
        "forward_weight_0": "excluded by name",
        "backward_weight_0": "its 16 channels are no multiple of 32",
    }
    assert [row["weight"] for row in facts["layers"]] == ["up_weight_0", "down_weight_0"]
    plain, made = dense(packages.ios18), dense(tmp_path / "x.mlpackage")
    assert {name for name, values in plain.items() if (values != made[name]).any()} == {"0:up.weight", "0:down.weight"}


def test_constants_with_infinities_stay(packages: Packages, tmp_path: Path) -> None:
    package = Package.open(packages.ios16)
    weight = next(iter(_palettes.weights_of(package, package.parts[0])))
    copy = Path(shutil.copytree(packages.ios16, tmp_path / "copy.mlpackage"))
    with (copy / WEIGHTS / "weight.bin").open("r+b") as file:
        file.seek(weight.ref.start)
        file.write(np.array([-np.inf], np.float16).tobytes())
    facts = palettized(copy, tmp_path / "x.mlpackage")
    assert {"weight": weight.name, "reason": "holds NaN or infinities"}.items() <= facts["skipped"][-1].items()
    assert len(facts["layers"]) == 4


def test_what_a_model_is_too_old_for_is_refused(packages: Packages, tmp_path: Path) -> None:
    target = tmp_path / "x.mlpackage"
    for params, said in (
        ({"bits": 3}, "opset CoreML6, and 3 bits are there from iOS 18 on"),
        ({"granularity": "per_grouped_channel"}, "tables per group of channels and scales per channel"),
        ({"per_channel_scale": True}, "tables per group of channels and scales per channel"),
    ):
        with pytest.raises(StepError, match=said):
            palettized(packages.ios16, target, **{"group_size": 8, **params})
    convert("iOS15", tmp_path / "old.mlpackage")
    with pytest.raises(StepError, match="opset CoreML5, and lookup tables are there from iOS 16 on; convert it again"):
        palettized(tmp_path / "old.mlpackage", target)
    with pytest.raises(StepError, match="no weight matches 'nothing'"):
        palettized(packages.ios16, target, include=("nothing",))
    with pytest.raises(StepError, match=r"to palettize \(7: fewer than 1000000 elements\); lower min_el"):
        palettized(packages.ios16, target, min_elements=10**6)
    with pytest.raises(CoremlFileError, match="has no single model 'head'"):
        palettized(packages.ios16, target, models=("head",))
    assert not target.exists()


def mean_noise(facts: dict[str, Any]) -> float:
    return float(np.mean([10 ** (-row["snr_db"] / 10) for row in facts["layers"]]))


def test_mixed_bits_keep_the_budget(packages: Packages, tmp_path: Path) -> None:
    uniform = {bits: palettized(packages.ios16, tmp_path / f"{bits}.mlpackage", bits=bits) for bits in (2, 4, 6, 8)}
    for budget in (uniform[4]["bytes_out"], uniform[6]["bytes_out"] + 500):
        mixed = MixedBits(bits=(8, 2, 4, 6), max_bytes=budget)
        facts = palettized(packages.ios16, tmp_path / f"to{budget}.mlpackage", mixed=mixed)
        assert facts["bytes_out"] <= budget
        assert facts["bytes_out"] > budget - 1500
    noises = {bits: mean_noise(facts) for bits, facts in uniform.items()}
    facts = palettized(
        packages.ios16, tmp_path / "noise.mlpackage", mixed=MixedBits(bits=(2, 4, 6, 8), max_noise=noises[4])
    )
    assert mean_noise(facts) <= noises[4] * 1.001
    assert facts["bytes_out"] < uniform[6]["bytes_out"]
    with pytest.raises(StepError, match="no choice of bits keeps the budget; allow more bytes, or fewer bits"):
        palettized(packages.ios16, tmp_path / "x.mlpackage", mixed=MixedBits(max_bytes=1000))
    with pytest.raises(StepError, match="no choice of bits keeps the budget; allow more noise, or more bits"):
        palettized(packages.ios16, tmp_path / "x.mlpackage", mixed=MixedBits(max_noise=1e-9))


@pytest.mark.parametrize(
    "params",
    [
        {"bits": 5},
        {"per_channel_scale": True, "granularity": "per_grouped_channel"},
        {"mixed": {"bits": [4, 6]}},
        {"mixed": {"bits": [4, 4], "max_noise": 0.1}},
        {"mixed": {"max_noise": 0.1, "max_bytes": 1000}},
    ],
)
def test_parameters_that_make_no_sense(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Palettize.model_validate({"transform": "palettize", **params})


def test_progress_is_the_bytes_written(packages: Packages, tmp_path: Path) -> None:
    told: list[int] = []
    facts = Palettize(bits=4).apply(packages.ios16, tmp_path / "x.mlpackage", told.append)
    assert 0 < sum(told) <= facts["bytes_out"]


def test_missing_library_is_one_line(packages: Packages, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hubpub.transform.palettize import Palettize\n"
        "sys.modules['numba'] = None\n"
        "try:\n    Palettize().apply(Path(sys.argv[1]), Path(sys.argv[2]), lambda _: None)\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    run = [sys.executable, "-c", code, packages.ios16, tmp_path / "x.mlpackage"]
    said = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert said == "StepError ios16.mlpackage: numba is not installed; pip install 'hubpub[coreml]'\n"


@pytest.mark.parametrize("params", [{"bits": 4}, {"bits": 2, "per_channel_scale": True}])
def test_functions_of_one_package_share_what_they_shared(tmp_path: Path, params: dict[str, Any]) -> None:
    """Their weights have the same names; two of them have the same bytes, the third another size."""
    import coremltools

    folder = tmp_path / "in"
    descriptor = coremltools.utils.MultiFunctionDescriptor()
    for name, options in (("one", {}), ("same", {}), ("other", {"wide": 96, "seed": 1})):
        convert("iOS18", folder / f"{name}.mlpackage", **options)
        descriptor.add_function(str(folder / f"{name}.mlpackage"), "main", name)
    descriptor.default_function_name = "one"
    coremltools.utils.save_multifunction(descriptor, str(tmp_path / "three.mlpackage"))
    facts = palettized(tmp_path / "three.mlpackage", tmp_path / "made.mlpackage", **params)
    assert len(facts["layers"]) == 15
    up = {row["weight"]: row["shape"] for row in facts["layers"] if row["weight"].endswith("up_weight_0")}
    assert up == {"one/up_weight_0": [64, 48], "same/up_weight_0": [64, 48], "other/up_weight_0": [96, 48]}
    loaded = coremltools.models.MLModel(str(tmp_path / "made.mlpackage"), skip_model_load=True, function_name="one")
    assert len(loaded.get_spec().mlProgram.functions) == 3
    few, many = (params | {"bits": bits} for bits in (1, params["bits"]))
    sizes = [
        palettized(tmp_path / "three.mlpackage", tmp_path / f"{each['bits']}.mlpackage", **each)["bytes_out"]
        for each in (few, many)
    ]
    mixed = MixedBits(bits=(1, params["bits"]), max_bytes=sum(sizes) // 2)
    facts = palettized(tmp_path / "three.mlpackage", tmp_path / "mixed.mlpackage", **params | {"mixed": mixed})
    assert sizes[0] < facts["bytes_out"] <= sum(sizes) // 2
    methods = {row["weight"]: row["method"] for row in facts["layers"]}
    for name in ("mixing_y_0", "up_weight_0", "down_weight_0", "forward_weight_0", "backward_weight_0"):
        assert methods[f"one/{name}"] == methods[f"same/{name}"]


def test_a_channel_that_all_but_vanishes_keeps_its_scale(tmp_path: Path) -> None:
    """Squares of scales are weights, and may lie further apart than the digits of a double."""
    weight = np.random.default_rng(7).normal(size=(32, 64)) * np.logspace(-40, 30, 32)[:, None]
    convert_linear(tmp_path / "x.mlpackage", weight.astype(np.float32))
    facts = palettized(tmp_path / "x.mlpackage", tmp_path / "made.mlpackage", bits=4, per_channel_scale=True)
    assert facts["layers"][0]["snr_db"] > 15


def test_constants_of_one_blob_may_have_two_shapes(tmp_path: Path) -> None:
    """Their groups of channels are not the same elements, so neither are their tables."""
    source, target = tmp_path / "x.mlpackage", tmp_path / "made.mlpackage"
    convert_linear(source, np.random.default_rng(7).normal(size=(32, 64)).astype(np.float32), twice=True)
    path = source / "Data/com.apple.CoreML/model.mlmodel"
    spec = messages().Model.FromString(path.read_bytes())
    ((_, _, block),) = main_blocks(spec.mlProgram)
    weights = [each.attributes["val"] for each in block.operations if each.type == "const"]
    first, second = (each.blobFileValue for each in weights if len(each.type.tensorType.dimensions) == 2)
    second.offset = first.offset
    path.write_bytes(spec.SerializeToString())
    facts = palettized(source, target, bits=6, granularity="per_grouped_channel", group_size=16)
    assert [row["method"] for row in facts["layers"]] == ["6 bits, 2 tables", "6 bits, 4 tables"]
    plain, mine = dense(source), dense(target)
    for name, values in plain.items():
        assert np.square(mine[name] - values).sum() < 2e-3 * np.square(values).sum()


def test_operations_without_names_stay_so(tmp_path: Path) -> None:
    """A name of an operation is a remark, which not every tool leaves."""
    source = tmp_path / "x.mlpackage"
    convert_linear(source, np.random.default_rng(7).normal(size=(32, 64)).astype(np.float32))
    path = source / "Data/com.apple.CoreML/model.mlmodel"
    spec = messages().Model.FromString(path.read_bytes())
    ((_, _, block),) = main_blocks(spec.mlProgram)
    for operation in block.operations:
        operation.attributes.pop("name", None)
    path.write_bytes(spec.SerializeToString())
    for number, params in enumerate(({}, {"bits": 2, "per_channel_scale": True})):
        target = tmp_path / f"{number}.mlpackage"
        palettized(source, target, **params)
        ((_, _, block),) = main_blocks(Package.open(target).parts[0].program)
        assert not any("name" in each.attributes for each in block.operations)


def test_what_is_compressed_already_stays_and_that_is_said(packages: Packages, tmp_path: Path) -> None:
    palettized(packages.ios18, tmp_path / "once.mlpackage", bits=4, min_elements=1)
    with pytest.raises(StepError, match=r"to palettize \(5: compressed already; 2: fewer than 513 .*; start from"):
        palettized(tmp_path / "once.mlpackage", tmp_path / "twice.mlpackage")
    weight = np.full((32, 64), np.nan, np.float32)
    convert_linear(tmp_path / "x.mlpackage", weight)
    with pytest.raises(StepError, match=r"to palettize \(.*1: holds NaN or infinities"):
        palettized(tmp_path / "x.mlpackage", tmp_path / "made.mlpackage")

"""shard: the same tensors bit for bit, the same graph, in files that clients find."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxfile.models import FEED_X, MODELS, Array, N, contents, feeds, plain, save, skeleton, tensor, values
from pydantic import ValidationError

from hubpub.errors import OnnxFileError, StepError
from hubpub.transform import shard
from hubpub.transform.shard import Shard

NAMINGS = get_args(shard.Naming)


def _apply(model: Path, target: Path, **params: Any) -> dict[str, Any]:
    target.parent.mkdir(exist_ok=True)
    seen: list[int] = []
    facts: dict[str, Any] = dict(Shard(**params).apply(model, target, seen.append))
    stored = sum(one["bytes"] for one in facts["shards"])
    assert facts["bytes_moved"] <= stored <= facts["bytes_moved"] + 4096 * facts["tensors_moved"]
    assert sum(seen) == facts["bytes_moved"] + target.stat().st_size
    return facts


def _outputs(path: Path, inputs: list[dict[str, Array]]) -> list[bytes]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [array.tobytes() for feed in inputs for array in session.run(None, feed)]


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("layout", ["inline", "external", "scattered"])
@pytest.mark.parametrize("name", MODELS)
def test_same_tensors_same_graph_same_outputs(name: str, layout: str, naming: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    save(MODELS[name](), tmp_path / "m.onnx", layout)
    target = tmp_path / "out" / "encoder-model.onnx"
    budget = 1_000_000 if naming == "single" else 6_000
    facts = _apply(tmp_path / "m.onnx", target, naming=naming, max_bytes=budget)
    assert facts["tensors_moved"] >= 1
    assert {p.name for p in target.parent.iterdir()} == {target.name, *(s["name"] for s in facts["shards"])}
    assert all(s["bytes"] <= budget for s in facts["shards"])
    written = onnx.load(target)
    assert contents(written) == contents(model)
    assert skeleton(written) == skeleton(model)
    # The source as it came need not load: onnxruntime refuses what onnx writes when even Slice's axes are external.
    save(MODELS[name](), tmp_path / "inline.onnx", "inline")
    expected = _outputs(tmp_path / "inline.onnx", feeds(model))
    assert _outputs(target, feeds(model)) == expected
    onnx.checker.check_model(str(target))
    for name, link in (("linked", Path.symlink_to), ("hard", Path.hardlink_to)):  # the Hub's cache, and a store
        (tmp_path / name).mkdir()
        for path in target.parent.iterdir():
            link(tmp_path / name / path.name, path)
        assert _outputs(tmp_path / name / target.name, feeds(model)) == expected


@pytest.mark.parametrize("opset", range(11, 24))
def test_opsets(opset: int, tmp_path: Path) -> None:
    save(plain(opset), tmp_path / "m.onnx", "inline")
    _apply(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", max_bytes=6000)
    assert contents(onnx.load(tmp_path / "out" / "m.onnx")) == contents(plain(opset))
    inputs = [{"x": FEED_X}, {"x": FEED_X, "w1": FEED_X}]
    assert _outputs(tmp_path / "out" / "m.onnx", inputs) == _outputs(tmp_path / "m.onnx", inputs)


def _speech_feeds(path: Path) -> list[dict[str, Array]]:
    """A Silero model's inputs, whichever it has, from one second of a tone."""
    tone = np.sin(np.arange(512, dtype=np.float32) * 0.1)[None]
    feed: dict[str, Array] = {}
    for value in onnx.load(path).graph.input:
        dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            feed[value.name] = np.array(16000)
        elif value.name == "input":
            feed[value.name] = np.resize(tone, [*dims[:-1], dims[-1] if dims[-1] > 1 else 576]) if dims else tone
        else:
            feed[value.name] = np.zeros(dims, np.float32)
    return [feed]


@pytest.mark.parametrize("naming", NAMINGS)
def test_real_models(naming: str, silero_onnx_dir: Path, tmp_path: Path) -> None:
    paths = sorted(silero_onnx_dir.glob("*.onnx"))
    assert paths
    ran = 0
    for path in paths:
        target = tmp_path / path.stem / path.name
        facts = _apply(path, target, naming=naming, max_bytes=600_000 if naming != "single" else 10_000_000)
        # That one has all its weights in the branches of an If.
        assert (facts["bytes_moved"] > 1_000_000) == (path.name != "silero_vad.onnx")
        assert contents(onnx.load(target)) == contents(onnx.load(path))
        assert skeleton(onnx.load(target)) == skeleton(onnx.load(path))
        try:
            expected = _outputs(path, _speech_feeds(path))
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
            expected = []  # a variant with other inputs; it must at least load
        if expected:
            assert _outputs(target, _speech_feeds(path)) == expected
            ran += 1
        else:
            onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    assert ran >= 1


@pytest.mark.parametrize(
    ("naming", "model", "names"),
    [
        ("numbered", "encoder-model.onnx", ["encoder-model.onnx.data.000", "encoder-model.onnx.data.001"]),
        ("optimum", "encoder_model.onnx", ["encoder_model.onnx_data", "encoder_model.onnx_data_1"]),
        ("single", "encoder-model.onnx", ["encoder-model.onnx.data"]),
    ],
)
def test_names_are_those_that_the_client_asks_for(naming: str, model: str, names: list[str], tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "inline")
    budget = 20_000 if naming == "single" else 10_000
    facts = _apply(tmp_path / "m.onnx", tmp_path / "out" / model, naming=naming, max_bytes=budget)
    assert [s["name"] for s in facts["shards"]] == names


def test_single_file_over_the_budget_is_refused(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "inline")
    with pytest.raises(StepError, match=r"its tensors have 12000 bytes, and naming: single .* 5000"):
        _apply(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", naming="single", max_bytes=5000)
    assert not list((tmp_path / "out").iterdir())


def test_tensor_over_the_budget_is_refused_by_name(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "inline")
    with pytest.raises(
        StepError, match=r"'w0' \(graph\[0\].initializer\[0\]\) has 2400 bytes, more than max_bytes = 2399"
    ):
        _apply(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", max_bytes=2399)


def test_damaged_source_is_one_error(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "external")
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(OnnxFileError, match="too short"):
        _apply(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx")


def test_shared_bytes_stay_shared_and_shards_can_be_sharded_again(tmp_path: Path) -> None:
    model = plain()
    save(model, tmp_path / "m.onnx", "external")
    shared = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    del shared.graph.initializer[3].external_data[:]
    shared.graph.initializer[3].external_data.extend(shared.graph.initializer[0].external_data)
    save(shared, tmp_path / "m.onnx", "inline")
    first = _apply(tmp_path / "m.onnx", tmp_path / "a" / "m.onnx", max_bytes=5000, alignment=64)
    assert first["tensors_moved"] == 5
    assert first["bytes_moved"] == 4 * 4 * N
    assert len(first["shards"]) == 2
    again = _apply(tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx", max_bytes=5000, alignment=64)
    assert again == first
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")
    assert contents(onnx.load(tmp_path / "b" / "m.onnx")) == contents(onnx.load(tmp_path / "m.onnx"))


def test_same_source_in_any_form_gives_the_same_bytes(tmp_path: Path) -> None:
    for layout in ("inline", "external", "scattered"):
        (tmp_path / layout).mkdir()
        save(MODELS["subgraphs"](), tmp_path / layout / "m.onnx", layout)
        _apply(tmp_path / layout / "m.onnx", tmp_path / f"{layout}_out" / "m.onnx", max_bytes=6000)
    assert (
        _digests(tmp_path / "inline_out") == _digests(tmp_path / "external_out") == _digests(tmp_path / "scattered_out")
    )


def test_small_tensors_stay_inline_and_come_inline(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "scattered")  # even the scalar lies in a file of its own
    facts = _apply(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", min_tensor_bytes=2401)
    assert facts == {"shards": [], "tensors_moved": 0, "bytes_moved": 0, "tensors_inline": 7}
    assert onnx.load(tmp_path / "out" / "m.onnx", load_external_data=False) == plain()


def test_attributes_that_kernels_read_themselves_stay_inline(tmp_path: Path) -> None:
    """Tensors of nodes other than Constant, in sparse tensors and in training graphs."""
    model = MODELS["sparse"]()
    big = tensor("big", values(1))
    model.graph.node.append(helper.make_node("Custom", [], ["z"], domain="x", table=big, tables=[big]))
    model.training_info.add().initialization.initializer.add().CopyFrom(big)
    save(model, tmp_path / "m.onnx", "inline")
    facts = _apply(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx")
    assert facts["tensors_moved"] == 1  # the dense initializer
    assert facts["tensors_inline"] == 7
    written = onnx.load(tmp_path / "out" / "m.onnx", load_external_data=False)
    assert written.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert skeleton(onnx.load(tmp_path / "out" / "m.onnx")) == skeleton(model)
    assert contents(onnx.load(tmp_path / "out" / "m.onnx")) == contents(model)


def test_run_twice_into_one_path_does_not_grow(tmp_path: Path) -> None:
    save(plain(), tmp_path / "m.onnx", "inline")
    target = tmp_path / "out" / "m.onnx"
    first = _apply(tmp_path / "m.onnx", target, max_bytes=6000)
    sizes = _digests(target.parent)
    assert _apply(tmp_path / "m.onnx", target, max_bytes=6000) == first
    assert _digests(target.parent) == sizes
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in target.parent.iterdir())


_IN_A_PROCESS = """
    import re, sys
    from pathlib import Path
    import numpy, onnx
    from hubpub.transform.shard import Shard

    def status(field):
        text = Path("/proc/self/status").read_text()
        return int(re.search(field + r":\\s+(\\d+) kB", text)[1]) * 1024

    model, target, budget = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    measure = sys.platform == "linux"
    before = status("VmRSS") if measure else 0
    Shard(max_bytes=budget).apply(model, target, lambda _: None)
    print(status("VmHWM") - before if measure else 0)
"""


def _apply_elsewhere(model: Path, target: Path, budget: int, hash_seed: str = "0") -> int:
    """Shard in a process of its own; the bytes by which its peak RSS, mapped pages counted, passed its start."""
    target.parent.mkdir()
    root = Path(shard.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_IN_A_PROCESS), model, target, str(budget)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


def test_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    save(MODELS["subgraphs"](), tmp_path / "m.onnx", "inline")
    for seed in ("1", "2"):
        _apply_elsewhere(tmp_path / "m.onnx", tmp_path / seed / "m.onnx", 6000, seed)
    assert _digests(tmp_path / "1") == _digests(tmp_path / "2")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak RSS of a process is read from /proc")
@pytest.mark.parametrize("layout", ["external", "inline"])
def test_memory_is_bounded_by_a_chunk(layout: str, tmp_path: Path) -> None:
    """300 MB in 25 tensors of 12 MB, one of them encoded number by number: less than two tensors more than at rest."""
    shape = [3, 1 << 20]
    nbytes = 4 * shape[0] * shape[1]
    rng = np.random.default_rng(0)
    with (tmp_path / "source.data").open("wb") as data:
        for _ in range(24):
            data.write(rng.bytes(nbytes))
    model = plain()
    for number in range(24):
        weights = TensorProto(name=f"big{number}", data_type=TensorProto.FLOAT, dims=shape)
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "source.data"), ("offset", number * nbytes), ("length", nbytes)):
            weights.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(weights)
    last = TensorProto(name="typed", data_type=TensorProto.INT32, dims=shape)
    last.int32_data.extend(rng.integers(-(2**31), 2**31, nbytes // 4).tolist())
    model.graph.initializer.append(last)
    save(model, tmp_path / "m.onnx", "inline")
    if layout == "inline":
        from hubpub.onnxfile import OnnxFile, write

        write(OnnxFile.open(tmp_path / "m.onnx"), tmp_path / "m.onnx")
        (tmp_path / "source.data").unlink()
    grown = _apply_elsewhere(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", 100_000_000)
    assert grown < 24_000_000
    out = onnx.load(tmp_path / "out" / "m.onnx", load_external_data=False)
    again = np.random.default_rng(0)
    for weights in out.graph.initializer[len(plain().graph.initializer) :][:24]:
        onnx.external_data_helper.load_external_data_for_tensor(weights, str(tmp_path / "out"))
        assert weights.raw_data == again.bytes(nbytes)
    typed = out.graph.initializer[-1]
    onnx.external_data_helper.load_external_data_for_tensor(typed, str(tmp_path / "out"))
    np.testing.assert_array_equal(numpy_helper.to_array(typed), numpy_helper.to_array(last))


@pytest.mark.parametrize(
    "params",
    [
        {"max_bytes": 0},
        {"max_bytes": 2**31 - 1},
        {"max_bytes": "2.2GB"},
        {"naming": "other"},
        {"alignment": 100},
        {"min_tensor_bytes": 0},
        {"unknown": 1},
    ],
)
def test_params_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Shard(**params)


def test_params_accepted() -> None:
    assert Shard().max_bytes == Shard(max_bytes="1.5GB").max_bytes == 1_500_000_000
    assert Shard.model_validate(Shard(naming="optimum").model_dump(mode="json")).naming == "optimum"

"""dynamic_int8: every place of a weight, what is left alone and why, the runtime's fusions, real models."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from pydantic import TypeAdapter
from transform.weights_graphs import CASES, QUIET, apply, case, graph, near, normal, op_counts, runs

from hubpub.errors import StepError
from hubpub.recipe.model import Transform
from hubpub.transform import _int8_values as ints
from hubpub.transform.dynamic_int8 import DynamicInt8
from hubpub.transform.weight_only import WeightOnly

STEP = DynamicInt8(op_types=("MatMul", "Gemm", "LSTM", "Gather", "Conv"), min_elements=1, **QUIET)


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 23])
@pytest.mark.parametrize("name", CASES)
def test_every_place_of_a_weight(name: str, opset: int, tmp_path: Path) -> None:
    model, feeds = case(name, opset)
    written, facts = apply(STEP, model, tmp_path)
    assert near(tmp_path, feeds) > 28
    assert written.opset_import[0].version == opset
    assert {layer["weight"] for layer in facts["layers"]} >= {"w"}
    assert all(layer["snr_db"] > 30 for layer in facts["layers"])
    floats = {t.name for t in written.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert not floats & {"w", "v", "r"}
    assert not any(node.op_type == "Constant" and node.output[0] == "w" for node in written.graph.node)
    assert facts["skipped"] == [] or all("no weight that is asked for" in skip["reason"] for skip in facts["skipped"])


def test_one_activation_is_quantized_once(tmp_path: Path) -> None:
    written, _ = apply(STEP, case("two MatMuls, one input")[0], tmp_path)
    assert op_counts(written)["DynamicQuantizeLinear"] == 1


@pytest.mark.parametrize("name", ["one weight, two MatMuls", "in an If", "tied", "tied by Identity"])
def test_a_shared_weight_is_stored_once(name: str, tmp_path: Path) -> None:
    written, facts = apply(STEP, case(name)[0], tmp_path)
    assert sum(t.data_type == TensorProto.INT8 and t.dims != [] for t in written.graph.initializer) == 1
    assert len(facts["layers"]) == 1


def test_the_integers_are_those_of_the_primitives(tmp_path: Path) -> None:
    weight = normal(48, 40)
    model = graph("g (float[T, 48] x) => (float[T, 40] y) { y = MatMul(x, w) }", w=weight)
    step = STEP.model_copy(update={"target": "x86_vnni"})
    written, facts = apply(step, model, tmp_path)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in written.graph.initializer}
    scale, zero = ints.scale_of(*ints.extremes(weight, 1), ints.INT8)
    np.testing.assert_array_equal(stored["w_scale"], scale)
    np.testing.assert_array_equal(stored["w_quantized"], ints.quantize(weight, scale, zero, ints.INT8, 1))
    assert facts["bytes_in"] == weight.nbytes
    assert facts["bytes_out"] == weight.size + scale.nbytes + 1


@pytest.mark.parametrize("name", ["MatMul", "Gemm, transB, no bias", "tied", "Conv", "LSTM"])
def test_no_pair_saturates_where_the_target_has_no_vnni(name: str, tmp_path: Path) -> None:
    written, _ = apply(STEP, case(name)[0], tmp_path)
    for tensor in written.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1 and tensor.name.endswith("_quantized"):
            values = onnx.numpy_helper.to_array(tensor)
            columns = values.reshape(len(values), -1).T if name in ("tied", "Conv") else values
            for matrix in columns.reshape(-1, *columns.shape[-2:]):
                assert ints.pairs_reach(matrix).max() <= ints.PAIR_LIMIT


def test_an_lstm_whose_gates_are_moved_as_pytorch_exports_them(tmp_path: Path) -> None:
    """Its matrices are a Slice of each gate, a Concat and an Unsqueeze of a constant; folded, they are quantized."""
    rows = ""
    for part in "wr":
        cut = " ".join(f"{part}{gate} = Slice(raw{part}, from{gate}, to{gate}, axis)" for gate in range(4))
        order = ", ".join(f"{part}{gate}" for gate in (0, 3, 1, 2))
        rows += f"{cut} {part}c = Concat<axis = 0>({order}) {part} = Unsqueeze({part}c, axis) "
    text = f"g (float[T, 2, 48] x) => (float[T, 1, 2, 32] y) {{ {rows} y = LSTM<hidden_size = 32>(x, w, r) }}"
    weights: dict[str, Any] = {"raww": normal(128, 48), "rawr": normal(128, 32), "axis": np.array([0])}
    for gate in range(4):
        weights |= {f"from{gate}": np.array([32 * gate]), f"to{gate}": np.array([32 * gate + 32])}
    written, facts = apply(DynamicInt8(min_elements=64), graph(text, **weights), tmp_path)
    assert op_counts(written) == {"DynamicQuantizeLSTM": 1}
    assert near(tmp_path, {"x": normal(7, 2, 48)}) > 28
    assert facts["bytes_out"] < 0.3 * facts["bytes_in"]


# ------------------------------------------------------------------------------------------------------- left alone


def _skipped(model: onnx.ModelProto, tmp_path: Path, **params: Any) -> dict[str, str]:
    """Reasons by weight; one more MatMul is there, so that something is quantized."""
    _, facts = apply(DynamicInt8(**{"min_elements": 1, **QUIET, **params}), model, tmp_path)
    return {skip["weight"]: skip["reason"] for skip in facts["skipped"]}


_WITH = "g (float[48, 48] x) => (float[48, 48] y) {{ a = MatMul(x, good) {} }}"


@pytest.mark.parametrize(
    ("text", "weight", "reason"),
    [
        ("y = MatMul(w, a)", normal(48, 48), "on the left of a MatMul"),
        ("y = Gemm<alpha = 0.5>(a, w)", normal(48, 48), "of a Gemm with transA, alpha or beta"),
        ("y = Gemm<transA = 1>(a, w)", normal(48, 48), "of a Gemm with transA, alpha or beta"),
        ("b = MatMul(a, w) y = Squeeze(b, zero)", normal(1, 48, 48), "of rank 3, not one matrix"),
        ("y = Add(a, w)", normal(48, 48), "no weight that is asked for (of Add)"),
        ("y = MatMul(a, w)", np.full((48, 48), np.nan, np.float32), "not finite (NaN or infinity)"),
        (
            "g = Gather<axis = 1>(w, ids) y = MatMul(a, g)",
            normal(48, 48),
            "looked up along another axis than the first",
        ),
        ("g = Gather(w, ids) b = Add(g, w) y = MatMul(a, b)", normal(48, 48), "a table that others use as it is"),
    ],
)
def test_what_is_left_alone_is_listed(text: str, weight: np.ndarray[Any, Any], reason: str, tmp_path: Path) -> None:
    model = graph(
        _WITH.format(text), good=normal(48, 48, seed=5), w=weight, zero=np.zeros(1, np.int64), ids=np.arange(48)
    )
    assert _skipped(model, tmp_path)["w"] == reason


def test_products_of_activations_are_left_alone(tmp_path: Path) -> None:
    model = graph(_WITH.format("t = Transpose<perm = [1, 0]>(x) y = MatMul(a, t)"), good=normal(48, 48))
    written, _ = apply(STEP, model, tmp_path)
    assert op_counts(written)["MatMul"] == 1


def test_an_initializer_that_is_an_input_is_left_to_the_caller(tmp_path: Path) -> None:
    model = graph(_WITH.format("y = MatMul(a, w)"), good=normal(48, 48), w=normal(48, 48, seed=1))
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, [48, 48]))
    assert _skipped(model, tmp_path) == {"w": "an input of the model too, so a caller may give another"}
    feeds = {"x": normal(48, 48, seed=2), "w": np.zeros((48, 48), np.float32)}
    assert not runs(tmp_path / "out" / "m.onnx", feeds)[0].any()


def test_before_ir_version_4_initializers_are_inputs_and_constant(tmp_path: Path) -> None:
    model, feeds = case("MatMul", 11)
    model.ir_version = 3
    model.opset_import[0].version = 11
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, [48, 40]))
    written, _ = apply(STEP, model, tmp_path)
    assert [value.name for value in written.graph.input] == ["x"]
    assert near(tmp_path, feeds) > 28


def test_exclude_matches_names_of_nodes_and_weights(tmp_path: Path) -> None:
    model, _ = case("two MatMuls, one input")
    model.graph.node[0].name = "/layers.0/fc1/MatMul"
    for glob, left in (("*/fc1/*", "w"), ("v", "v")):
        skipped = _skipped(model, tmp_path, exclude=(glob,))
        assert skipped == {left: f"excluded by {glob!r}"}


@pytest.mark.parametrize("step", [DynamicInt8, WeightOnly])
def test_a_glob_that_matches_nothing_is_a_fact(step: Any, tmp_path: Path) -> None:
    model, _ = case("two MatMuls, one input")
    model.graph.node[0].name = "/layers.0/fc1/MatMul"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for exclude, unmatched in ((("*/fc1/*", "typo", "*/fc1"), ["typo", "*/fc1"]), (("v",), None)):
        facts = step(exclude=exclude, min_elements=1).apply(tmp_path / "m.onnx", tmp_path / "out.onnx", lambda _: None)
        assert facts.get("unmatched") == unmatched


def test_small_weights_are_counted(tmp_path: Path) -> None:
    model = graph(_WITH.format("y = Add(a, b)"), good=normal(48, 48), b=normal(48))
    _, facts = apply(DynamicInt8(**QUIET), model, tmp_path)
    assert facts["small"] == {"tensors": 1, "bytes": 192}
    assert facts["skipped"] == []


def test_custom_operations_are_left_alone(tmp_path: Path) -> None:
    model = graph(_WITH.format("y = custom.MatMul(a, w)"), good=normal(48, 48), w=normal(48, 48))
    written, facts = apply(STEP, model, tmp_path)
    assert [node.op_type for node in written.graph.node if node.domain == "custom"] == ["MatMul"]
    assert [skip["weight"] for skip in facts["skipped"]] == ["w"]
    reported = DynamicInt8(min_elements=1).apply(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", lambda _: None)
    runtime: Any = reported["runtime"]
    assert "onnxruntime does not load it" in runtime["not_loaded"]


# ---------------------------------------------------------------------------------------------------------- refused


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    model = graph("g (float[8, 8] x) => (float[8, 8] y) { y = MatMul(x, x) }")
    with pytest.raises(StepError, match="holds no weight that can be quantized so; leave the step out"):
        apply(STEP, model, tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_why_nothing_is_quantized_is_said(tmp_path: Path) -> None:
    model = graph("g (float[48, 48] x) => (float[48, 48] y) { y = MatMul(w, x) }", w=normal(48, 48))
    with pytest.raises(StepError, match="the largest, 'w', is on the left of a MatMul"):
        apply(STEP, model, tmp_path)


def test_a_quantized_model_is_refused_unless_the_rest_is_asked_for(tmp_path: Path) -> None:
    model, feeds = case("two MatMuls, one input")
    apply(STEP.model_copy(update={"exclude": ("v",)}), model, tmp_path)
    once = tmp_path / "once.onnx"
    (tmp_path / "out" / "m.onnx").rename(once)
    with pytest.raises(
        StepError, match=r"quantized already \(1 DynamicQuantizeLinear, 1 MatMulInteger\).*quantized: rest"
    ):
        apply(STEP, once, tmp_path)
    written, _ = apply(STEP.model_copy(update={"quantized": "rest"}), once, tmp_path)
    assert op_counts(written)["MatMulInteger"] == 2
    assert near(tmp_path, feeds, once) > 28


@pytest.mark.parametrize("opset", [9, 10])
def test_old_opsets_are_refused(opset: int, tmp_path: Path) -> None:
    model, _ = case("MatMul")
    model.opset_import[0].version = opset
    with pytest.raises(StepError, match=f"has opset {opset}, 11 to"):
        apply(STEP, model, tmp_path)


# ---------------------------------------------------------------------------------------------------------- runtime


def test_the_runtime_fuses_what_was_written(tmp_path: Path) -> None:
    for name, expected in {
        "MatMul": {"DynamicQuantizeMatMul": 1},
        "two MatMuls, one input": {"MatMulIntegerToFloat": 2},
        "Gemm": {"DynamicQuantizeMatMul": 1},
        "LSTM": {"DynamicQuantizeLSTM": 1},
        "tied": {"DynamicQuantizeMatMul": 1},
    }.items():
        _, facts = apply(STEP.model_copy(update={"report_runtime": True}), case(name)[0], tmp_path)
        ops = facts["runtime"]["ops"]
        assert {op: ops.get(op) for op in expected} == expected
        assert not {"MatMul", "Gemm", "LSTM", "MatMulInteger"} & set(ops)


# --------------------------------------------------------------------------------------------------- generated graphs

_STEPS = (
    "MatMul({a}, {w})", "Gemm({a}, {w})", "Gemm<transB = 1>({a}, {w}, b)", "Gather({w}, order)",
    "Tanh({a})", "Add({a}, {c})", "Add({a}, {w})", "Transpose<perm = [1, 0]>({a})", "MatMul({a}, {c})", "Identity({w})",
)  # fmt: skip


@st.composite
def weight_graphs(draw: st.DrawFn) -> str:
    """Up to 8 steps on 32 × 32 values with three weights in every kind of place, branches included."""
    lines, values = ["start = Tanh(x)", "turned = Transpose<perm = [1, 0]>(u)"], ["start", "x"]
    for number in range(draw(st.integers(1, 8))):
        a, c = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        form = draw(st.sampled_from(_STEPS)).format(a=a, c=c, w=draw(st.sampled_from(["u", "v", "w", "turned"])))
        if draw(st.integers(0, 3)) == 0:
            then = f"then () => (float[A, B] t{number}) {{ t{number} = {form} }}"
            other = f"other () => (float[A, B] o{number}) {{ o{number} = Identity({c}) }}"
            form = f"If (yes) <then_branch = {then}, else_branch = {other}>"
        lines.append(f"p{number} = {form} v{number} = Tanh(p{number})")
        values.append(f"v{number}")
    lines.append(f"z = Add({values[-1]}, {draw(st.sampled_from(values))}) y = MatMul(z, w)")
    return "g (float[32, 32] x, bool yes) => (float[32, 32] y) {" + " ".join(lines) + "}"


def weight_model(text: str, opset: int) -> onnx.ModelProto:
    weights = {name: normal(32, 32, seed=seed) for seed, name in enumerate("uvw")}
    return graph(text, opset, 10 if opset >= 21 else 8, b=normal(32), order=np.arange(32)[::-1].copy(), **weights)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=weight_graphs(), opset=st.sampled_from([11, 17, 21]), yes=st.booleans(), seed=st.integers(0, 3))
def test_any_graph_loads_and_is_near(text: str, opset: int, yes: bool, seed: int, tmp_path: Path) -> None:
    """At most 10 roundings of 8 bits on the way, each of at least 28 dB or so."""
    apply(STEP, weight_model(text, opset), tmp_path)
    assert near(tmp_path, {"x": normal(32, 32, seed=seed + 9), "yes": np.array(yes)}) > 16


def test_it_is_a_transform_of_the_recipe() -> None:
    made: Any = TypeAdapter(Transform).validate_python({"transform": "dynamic_int8", "exclude": ["*/fc2"]})
    assert isinstance(made, DynamicInt8)
    assert made.model_validate(made.model_dump(mode="json")) == made


def test_the_result_does_not_depend_on_the_size_of_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = case("LSTM")
    _, facts = apply(STEP, model, tmp_path)
    whole = (tmp_path / "out" / "m.onnx").read_bytes()
    monkeypatch.setattr("hubpub.transform._dynamic._VALUES", 200)
    _, again = apply(STEP, model, tmp_path)
    assert (tmp_path / "out" / "m.onnx").read_bytes() == whole
    assert [layer["scales_sha256"] for layer in again["layers"]] == [
        layer["scales_sha256"] for layer in facts["layers"]
    ]


# --------------------------------------------------------------------------------------------------------- processes

_IN_A_PROCESS = """
    import re, sys
    from pathlib import Path
    import numpy, onnx, onnx.inliner, onnx.shape_inference, onnx.reference
    from hubpub.transform import _blocks, _convert, _dynamic, _int8_values, _stored
    from hubpub.transform.dynamic_int8 import DynamicInt8
    from hubpub.transform.weight_only import WeightOnly

    def status(field):
        text = Path("/proc/self/status").read_text()
        return int(re.search(field + r":\\s+(\\d+) kB", text)[1]) * 1024

    step, model, target = eval(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    measure = sys.platform == "linux"
    before = status("VmRSS") if measure else 0
    step.apply(model, target, lambda _: None)
    print(status("VmHWM") - before if measure else 0)
"""


def _elsewhere(step: str, model: Path, target: Path, hash_seed: str = "0") -> int:
    """Quantize in a process of its own; the bytes by which its peak RSS passed its start."""
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_IN_A_PROCESS), step, model, target],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


_BOTH = [
    "DynamicInt8(report_runtime=False, min_elements=1)",
    "WeightOnly(report_runtime=False, min_elements=1, form='matmulnbits', bits=4)",
]


@pytest.mark.parametrize("step", _BOTH)
def test_processes_with_other_hash_seeds_write_the_same_bytes(step: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(case("tied")[0].SerializeToString())
    digests = set()
    for seed in ("1", "2"):
        _elsewhere(step, tmp_path / "m.onnx", tmp_path / seed / "m.onnx", seed)
        digests.add(hashlib.sha256((tmp_path / seed / "m.onnx").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak RSS of a process is read from /proc")
@pytest.mark.parametrize("step", _BOTH)
def test_memory_is_bounded_by_the_largest_tensor(step: str, tmp_path: Path) -> None:
    """440 MB, the largest tensor 40 MB: less than five times that more than at rest (on a busy machine up to four)."""
    shapes = [(1024, 2560)] * 40 + [(1024, 10240)]
    model, end = graph("g (float[T, 1024] x) => (float[T, 1024] x) { }"), 0
    rng = np.random.default_rng(0)
    with (tmp_path / "source.data").open("wb") as data:
        for number, shape in enumerate(shapes):
            weight = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=shape)
            weight.data_location = TensorProto.EXTERNAL
            stored = rng.standard_normal(shape, np.float32)
            for key, value in (("location", "source.data"), ("offset", end), ("length", stored.nbytes)):
                weight.external_data.add(key=key, value=str(value))
            data.write(stored.data)
            end += stored.nbytes
            model.graph.initializer.append(weight)
            node = onnx.helper.make_node("MatMul", ["x", f"w{number}"], [f"m{number}"], name=f"n{number}")
            model.graph.node.append(node)
            info = onnx.helper.make_tensor_value_info(f"m{number}", TensorProto.FLOAT, ["T", shape[1]])
            model.graph.output.append(info)
    del model.graph.output[0]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert _elsewhere(step, tmp_path / "m.onnx", tmp_path / "out" / "m.onnx") < 210_000_000

"""float16 and bfloat16 models are calibrated as the float32 models that they came from; their interface stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from transform.fp16_graphs import graph, runs, snr
from transform.int8_graphs import Array, Sequences, block, weights

from hubpub.errors import StepError
from hubpub.transform.fp16 import Fp16
from hubpub.transform.smoothquant_int8 import SmoothQuantInt8
from hubpub.transform.static_int8 import StaticInt8

STEPS = [SmoothQuantInt8(min_elements=64), StaticInt8(min_elements=64)]


def half(folder: Path) -> Path:
    """What our own fp16 makes of the block: Casts at its ends and where it would overflow."""
    folder.mkdir(exist_ok=True)
    source, target = folder / "float.onnx", folder / "half" / "m.onnx"
    target.parent.mkdir(exist_ok=True)
    source.write_bytes(block().SerializeToString())
    Fp16().apply(source, target, lambda _: None)
    return target


def apply(step: Any, source: Path, folder: Path, windows: Any) -> tuple[Path, dict[str, Any]]:
    target = folder / "out" / "m.onnx"
    target.parent.mkdir(exist_ok=True)
    return target, dict(step.apply_calibrated(source, target, windows, None, lambda _: None))


@pytest.mark.parametrize("step", STEPS)
def test_a_half_precision_model_comes_out_as_the_float32_one(step: Any, tmp_path: Path) -> None:
    source = half(tmp_path)
    narrow = {t.data_type for t in onnx.load(source).graph.initializer}
    assert TensorProto.FLOAT16 in narrow
    target, facts = apply(step, source, tmp_path, Sequences())
    assert facts["widened"]["from"] == "float16"
    assert facts["widened"]["casts_removed"] == 1  # behind the input; that of the output says its type
    assert facts["fused"] == {"ops": {"MatMulIntegerToFloat": 6}, "layers": 6, "not_fused": []}
    (tmp_path / "two").mkdir()
    whole, _ = apply(step, tmp_path / "float.onnx", tmp_path / "two", Sequences())
    (window,) = Sequences(1, seed=9)
    expected = runs(tmp_path / "float.onnx", dict(window))[0]
    from_half, from_float = (snr(expected, runs(path, dict(window))[0]) for path in (target, whole))
    assert from_half > from_float - 1


@pytest.mark.parametrize(
    ("dtype", "element"), [(np.float16, TensorProto.FLOAT16), (ml_dtypes.bfloat16, TensorProto.BFLOAT16)]
)
@pytest.mark.parametrize("step", STEPS)
def test_narrow_inputs_and_outputs_stay(step: Any, dtype: Any, element: int, tmp_path: Path) -> None:
    """A model that is narrow all through, with a branch that reads a value from outside and one that casts."""
    text = """
    g (float[b, t, 32] x) => (float[b, t, 32] y, float[b, t, 32] a)
    {
      a = MatMul (x, wq)
      c = Cast <to = 1> (a)
      z = Constant <value = float {0.5}> ()
      s = Add (c, z)
      n = ReduceSum <keepdims = 0> (s)
      p = Greater (n, z)
      r = If (p) <then_branch = one () => (float[b, t, 32] o) { o = Mul (s, z) },
                  else_branch = two () => (float[b, t, 32] q) { q = Cast <to = 1> (a) }>
      y = MatMul (r, wo)
    }
    """
    wide = graph(text, wq=weights()["wq"], wo=weights()["wo"])
    (tmp_path / "float.onnx").write_bytes(wide.SerializeToString())
    model = narrowed(wide, dtype, element)
    source = tmp_path / "m.onnx"
    source.write_bytes(model.SerializeToString())

    class Narrow(Sequences):
        def __iter__(self) -> Any:
            return ({"x": window["x"].astype(dtype)} for window in super().__iter__())

    if element == TensorProto.BFLOAT16:  # onnxruntime's Python takes no bfloat16: the model is fed float32
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
        model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_narrow"], to=element))
        for node in model.graph.node:
            if node.op_type == "MatMul" and node.input[0] == "x":
                node.input[0] = "x_narrow"
        source.write_bytes(model.SerializeToString())
    windows = Narrow() if element == TensorProto.FLOAT16 else Sequences()
    target, facts = apply(step, source, tmp_path, windows)
    result = onnx.load(target)
    onnx.checker.check_model(result, full_check=True)
    assert [v.type.tensor_type.elem_type for v in (*result.graph.input, *result.graph.output)] == [
        v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)
    ]
    assert [v.name for v in result.graph.output] == ["y", "a"]
    assert facts["fused"]["layers"] == 2
    if element == TensorProto.FLOAT16:
        (window,) = Narrow(1, seed=9)
        expected = runs(tmp_path / "float.onnx", {"x": window["x"].astype(np.float32)})
        found = runs(target, dict(window))
        assert [each.dtype for each in found] == [np.float16] * 2
        assert min(snr(one, two.astype(np.float32)) for one, two in zip(expected, found, strict=True)) > 20


def narrowed(model: onnx.ModelProto, dtype: Any, element: int) -> onnx.ModelProto:
    """Every float of it in another type."""
    made = onnx.ModelProto()
    made.CopyFrom(model)

    def visit(inner: onnx.GraphProto) -> None:
        for value in (*inner.input, *inner.output, *inner.value_info):
            value.type.tensor_type.elem_type = element
        for tensor in inner.initializer:
            narrow(tensor)
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.name == "to":
                    attribute.i = element
                if attribute.HasField("t"):
                    narrow(attribute.t)
                if attribute.HasField("g"):
                    visit(attribute.g)

    def narrow(tensor: TensorProto) -> None:
        values: Array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))

    visit(made.graph)
    return made


def test_operations_of_another_domain_may_want_their_type(tmp_path: Path) -> None:
    model = narrowed(block(), np.float16, TensorProto.FLOAT16)
    model.graph.node.append(helper.make_node("Own", ["y"], ["y_own"], domain="custom"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for step in STEPS:
        with pytest.raises(StepError, match=r"m.onnx: holds float16 and operations of 'custom', which may be for that"):
            apply(step, tmp_path / "m.onnx", tmp_path, Sequences())


def test_the_default_of_an_input_keeps_its_type(tmp_path: Path) -> None:
    text = "g (float[n, 32] x, float[32] shift) => (float[n, 32] y) { s = Add (x, shift)  y = MatMul (s, wq) }"
    shift = np.linspace(-1, 1, 32, dtype=np.float32)
    model = narrowed(graph(text, wq=weights()["wq"], shift=shift), np.float16, TensorProto.FLOAT16)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    class Rows(Sequences):
        def __iter__(self) -> Any:
            return ({"x": window["x"][0].astype(np.float16)} for window in super().__iter__())

    target, _ = apply(STEPS[1], tmp_path / "m.onnx", tmp_path, Rows())
    onnx.checker.check_model(onnx.load(target), full_check=True)
    (window,) = Rows(1, seed=9)
    before = runs(tmp_path / "m.onnx", dict(window))[0].astype(np.float32)
    assert snr(before, runs(target, dict(window))[0].astype(np.float32)) > 25

"""ONNX's own backend test data: every model is quantized, loads and gives nearly the same, or is refused with a reason.

Most of the shipped models have opset 6 and their weights as inputs. So each is tried as it is, and once more brought to
opset 17, with its inputs but the first made constants. Memory and time are those of small models.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, version_converter
from onnx.backend.test.case.node import collect_testcases
from transform.weights_graphs import Array, runs, snr

from hubpub.errors import HubpubError
from hubpub.transform.dynamic_int8 import DynamicInt8
from hubpub.transform.weight_only import WeightOnly

_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
_MODELS = sorted(path.relative_to(_DATA).as_posix() for path in _DATA.rglob("*.onnx"))
_QUIET: dict[str, Any] = {"min_elements": 2, "report_runtime": False}
_STEPS: dict[str, tuple[DynamicInt8 | WeightOnly, float]] = {
    "dynamic": (DynamicInt8(op_types=("MatMul", "Gemm", "LSTM", "Gather", "Conv"), **_QUIET), 22),
    "dequantize": (WeightOnly(**_QUIET), 25),
    "matmulnbits": (WeightOnly(form="matmulnbits", symmetric=False, **_QUIET), 25),
}
_REASONS = ("11 to 2", "holds no weight that can be quantized so")


def _promoted(model: onnx.ModelProto, values: list[Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with its inputs but the first as constants, and what is left to feed."""
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    feeds = {value.name: array for value, array in zip(inputs, values, strict=False)}
    kept = inputs[:1]
    for value in inputs[1:]:
        if value.name in feeds and isinstance(feeds[value.name], np.ndarray):
            model.graph.initializer.append(numpy_helper.from_array(feeds.pop(value.name), value.name))
        else:
            kept.append(value)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model, feeds


def _try(step: DynamicInt8 | WeightOnly, source: Path, feeds: dict[str, Array], folder: Path) -> float | str:
    """SNR of the outputs, or the reason for which the model is refused or cannot be run as it is."""
    target = folder / "out.onnx"
    try:
        step.apply(source, target, lambda _: None)
    except HubpubError as error:
        if not any(reason in error.what for reason in _REASONS):
            raise
        return error.what
    try:
        before = runs(source, feeds)
    except Exception:  # the runtime lacks what the source asks for
        return "not run"
    worst = 300.0
    for one, two in zip(before, runs(target, feeds), strict=True):
        assert one.shape == two.shape
        if one.dtype.kind == "f" and one.size:
            wide, near = one.astype(np.float64), two.astype(np.float64)
            np.testing.assert_array_equal(np.isfinite(wide), np.isfinite(near))
            there = np.isfinite(wide)
            if np.abs(wide[there]).max(initial=0) > 1e-6:
                worst = min(worst, snr(wide[there], near[there]))
    return worst


@pytest.mark.parametrize("name", _MODELS)
def test_shipped_models(name: str, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    data = sorted(_DATA.joinpath(name).parent.glob("test_data_set_0/input_*.pb"), key=lambda p: int(p.stem[6:]))
    values = [numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) for path in data]
    for step, least in _STEPS.values():
        got = _try(step, _DATA / name, {}, tmp_path)
        assert isinstance(got, str) or got > least
    try:
        model = version_converter.convert_version(onnx.load(_DATA / name), 17)
        model, feeds = _promoted(model, values)
        source.write_bytes(model.SerializeToString())
        runs(source, feeds)
    except Exception as error:
        pytest.skip(f"not made a model of opset 17 that runs: {' '.join(str(error).split())[:80]}")
    got = {name_: _try(step, source, feeds, tmp_path) for name_, (step, _) in _STEPS.items()}
    assert all(isinstance(one, str) or one > _STEPS[name_][1] for name_, one in got.items())


_OPS = {
    "MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "LSTM", "GRU", "RNN",
    "Add", "Mul", "Where", "If", "Loop", "Scan",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_cases_of_operations(tmp_path: Path) -> None:
    """One test, since it takes onnx 10 s to make the cases of all its operations, and only all."""
    source = tmp_path / "m.onnx"
    wrong, quantized = [], Counter[str]()
    for case in collect_testcases():
        if case.model is None or not case.data_sets or not _OPS & {node.op_type for node in case.model.graph.node}:
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for entry in model.opset_import:  # the newest opset of onnx is newer than the runtime's
            entry.version = min(entry.version, 23) if entry.domain == "" else entry.version
        model.ir_version = min(model.ir_version, 10)
        model, feeds = _promoted(model, list(case.data_sets[0][0]))
        source.write_bytes(model.SerializeToString())
        for name, (step, least) in _STEPS.items():
            try:
                got = _try(step, source, feeds, tmp_path)
            except Exception as error:  # all of them are reported together
                got = f"fails: {' '.join(str(error).split())[:200]}"
            if isinstance(got, float) and got > least:
                quantized[name] += 1
            elif isinstance(got, float) or got.startswith("fails"):
                wrong.append((case.name, name, got))
    assert not wrong
    assert quantized["dynamic"] >= 20
    assert quantized["dequantize"] >= 100
    assert quantized["matmulnbits"] >= 100

"""The scan finds the layer that hurts, the search meets its budgets and says what it cost; table and plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transform.weights_graphs import Array, graph, normal

from hubpub.errors import StepError
from hubpub.transform.dynamic_int8 import DynamicInt8
from hubpub.transform.sensitivity import (
    Bench,
    Choice,
    Layer,
    Row,
    Scan,
    by_exclusion,
    exclude_until,
    layers_of,
    scan,
    to_db,
)
from hubpub.transform.weight_only import WeightOnly

_TEXT = (
    "g (float[T, 64] x) => (float[T, 64] y, int64[2] s) { a = MatMul(x, w0) b = Tanh(a) c = MatMul(b, w1) d = Tanh(c) \
y = MatMul(d, w2) s = Shape(y) }"
)


def _model(folder: Path) -> Path:
    """Three layers; in the first, one weight of each column is so large that 4 bits leave nothing of the others."""
    first = normal(64, 64)
    first[0] = 30 * np.abs(first).max()
    model = graph(_TEXT, w0=first, w1=normal(64, 64, seed=1), w2=normal(64, 64, seed=2))
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _windows(count: int = 2) -> list[dict[str, Array]]:
    windows = [{"x": normal(5 + n, 64, seed=9 + n)} for n in range(count)]
    for window in windows:
        window["x"][:, 0] = 0  # the large weights multiply nothing
    return windows


_STEP = WeightOnly(bits=4, form="matmulnbits", block_size=64, min_elements=1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    model = _model(tmp_path)
    (tmp_path / "work").mkdir()
    layers = layers_of(_STEP, model, tmp_path / "work")
    return Bench(model, by_exclusion(_STEP, model, layers), _windows(), tmp_path / "work", threads=1)


@pytest.fixture
def layers(bench: Bench) -> list[Layer]:
    return layers_of(_STEP, bench.model, bench.folder)


def test_layers_are_what_the_step_quantizes(layers: list[Layer]) -> None:
    assert [layer.name for layer in layers] == ["w0", "w1", "w2"]
    assert {layer.bytes_saved for layer in layers} == {64 * 64 * 4 - 64 * 64 // 2 - 64 * 4}


def test_the_worst_layer_comes_first(bench: Bench, layers: list[Layer]) -> None:
    ticks: list[int] = []
    scanned = scan(bench, layers, ticks.append)
    assert scanned.rows[0].layer.name == "w0"
    noises = [row.noise for row in scanned.rows]
    assert noises == sorted(noises, reverse=True)
    assert scanned.cost == {"quantizations": 4, "sessions": 5, "runs": 10}
    assert sum(ticks) == 4
    assert scanned.together_db <= scanned.rows[1].snr_db
    assert not list(bench.folder.iterdir())
    assert scan(bench, layers) == scanned


def test_noise_is_that_of_the_outputs(bench: Bench, layers: list[Layer]) -> None:
    import onnxruntime

    bench.quantize(frozenset({"w1"}), bench.folder / "q.onnx")
    error = signal = 0.0
    for window in bench.windows:
        before, after = (
            onnxruntime.InferenceSession(str(path)).run(["y"], dict(window))[0]
            for path in (bench.model, bench.folder / "q.onnx")
        )
        error += float(np.square(before.astype(np.float64) - after).sum())
        signal += float(np.square(before, dtype=np.float64).sum())
    assert bench.noise(frozenset({"w1"})) == pytest.approx(error / signal, rel=1e-3)


def test_a_budget_on_error_excludes_as_few_as_needed(bench: Bench, layers: list[Layer]) -> None:
    scanned = scan(bench, layers)
    without = to_db(bench.noise(frozenset({"w1", "w2"})))
    assert without > scanned.together_db + 1
    choice = exclude_until(bench, scanned, min_snr_db=without - 0.1)
    assert choice.exclude == ("w0",)
    assert choice.snr_db == pytest.approx(without)
    assert choice.evaluations <= math.ceil(math.log2(len(layers) + 1))
    assert choice.bytes_saved == 2 * layers[0].bytes_saved
    assert exclude_until(bench, scanned, min_snr_db=scanned.together_db) == Choice(
        (),
        scanned.together_db,
        3 * layers[0].bytes_saved,
        exclude_until(bench, scanned, min_snr_db=scanned.together_db).evaluations,
    )
    with pytest.raises(StepError, match=r"m.onnx: an SNR of 200 dB is not met with any layer quantized; lower it"):
        exclude_until(bench, scanned, min_snr_db=200)


def test_a_budget_on_size_excludes_as_many_as_fit(bench: Bench, layers: list[Layer]) -> None:
    scanned = scan(bench, layers)
    one = layers[0].bytes_saved
    # With two excluded one is quantized alone, which the scan has measured.
    for budget, excluded, evaluations in ((one - 1, 0, 0), (one, 1, 1), (2 * one, 2, 0), (10 * one, 2, 0)):
        choice = exclude_until(bench, scanned, max_bytes_given_up=budget)
        assert len(choice.excluded) == excluded
        assert choice.evaluations == evaluations
        assert choice.bytes_saved == (3 - excluded) * one
    assert choice.excluded[0].name == "w0"


@pytest.mark.parametrize("budgets", [{}, {"min_snr_db": 20.0, "max_bytes_given_up": 5}])
def test_one_budget_is_given(budgets: dict[str, Any], bench: Bench, layers: list[Layer]) -> None:
    with pytest.raises(ValueError, match="give one budget"):
        exclude_until(bench, Scan((Row(layers[0], 0.1),), 10, 1), **budgets)


def test_an_lstm_is_one_layer(tmp_path: Path) -> None:
    text = "g (float[T, 2, 48] x) => (float[T, 1, 2, 32] y) { y = LSTM<hidden_size = 32>(x, w, r) }"
    model = graph(text, w=normal(1, 128, 48), r=normal(1, 128, 32))
    model.graph.node[0].name = "/lstm"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (layer,) = layers_of(DynamicInt8(), tmp_path / "m.onnx", tmp_path)
    assert (layer.name, layer.op, layer.weights) == ("/lstm", "LSTM", ("w", "r"))


def test_names_with_the_signs_of_globs_are_meant_literally(tmp_path: Path) -> None:
    model = graph(
        "g (float[T, 64] x) => (float[T, 64] y) { a = MatMul(x, w0) y = MatMul(a, w1) }",
        w0=normal(64, 64),
        w1=normal(64, 64),
    )
    for node, tensor, name in zip(model.graph.node, model.graph.initializer, ("m[0]*", "m[1]*"), strict=True):
        node.input[1] = tensor.name = name
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    layers = layers_of(DynamicInt8(), path, tmp_path)
    quantize = by_exclusion(DynamicInt8(), path, layers)
    for layer in layers:
        quantize(frozenset({layer.name}), tmp_path / "q.onnx")
        assert [one.name for one in layers_of(DynamicInt8(quantized="rest"), tmp_path / "q.onnx", tmp_path)] == [
            other.name for other in layers if other is not layer
        ]


@pytest.mark.parametrize(
    ("text", "windows", "what"),
    [
        (_TEXT, [], "there is no window to run"),
        (_TEXT, [{"z": np.zeros((2, 64), np.float32)}], "a window does not run"),
        (_TEXT, [{"x": np.zeros((2, 64), np.float32)}], "no finite numbers to compare with, or all zero"),
        (_TEXT, [{"x": np.full((2, 64), np.nan, np.float32)}], "no finite numbers to compare with"),
        ("g (float[T, 64] x) => (int64[2] s) { a = MatMul(x, w0) s = Shape(a) }", _windows(1), "none of its outputs"),
    ],
)
def test_what_cannot_be_measured_is_one_error(text: str, windows: Any, what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    weights = {f"w{n}": normal(64, 64, seed=n) for n in range(3) if f"w{n}" in text}
    path.write_bytes(graph(text, **weights).SerializeToString())
    with pytest.raises(StepError, match=what):
        Bench(path, lambda _, __: None, windows, tmp_path).noise(frozenset({"w0"}))

"""Statistics taken in the graph against the same taken from all values at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transform.fp16_graphs import session
from transform.int8_graphs import BLOCK, Array, Sequences, block, weights

from hubpub.errors import StepError
from hubpub.onnxfile import OnnxFile
from hubpub.transform.calibration import Extremes, Histogram, Range, Rows, Tail, calibrate, observe
from hubpub.transform.calibration.ranges import BINS, entropy_range, mse_range

NAMES = {"n": 32, "r": 32, "f": 128}


@pytest.fixture
def file(tmp_path: Path) -> OnnxFile:
    path = tmp_path / "m.onnx"
    path.write_bytes(block().SerializeToString())
    return OnnxFile.open(path)


@pytest.fixture
def everything(tmp_path: Path) -> dict[str, Array]:
    """All values of all windows, ``[rows, width]``, in the order of the windows."""
    model = block()
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in NAMES)
    path = tmp_path / "all.onnx"
    path.write_bytes(model.SerializeToString())
    running = session(path)
    found: dict[str, list[Array]] = {name: [] for name in NAMES}
    for window in Sequences():
        for name, array in zip(NAMES, running.run(list(NAMES), dict(window)), strict=True):
            found[name].append(np.asarray(array).reshape(-1, NAMES[name]))
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def test_extremes_per_channel_and_in_all_are_exact(
    tmp_path: Path, file: OnnxFile, everything: dict[str, Array]
) -> None:
    channels = [Extremes(name, width, 4) for name, width in NAMES.items()]
    whole = [Extremes(name) for name in NAMES]
    seen = observe(file, Sequences(), [*channels, *whole], tmp_path / "state")
    for one, other in zip(channels, whole, strict=True):
        values = everything[one.value]
        assert (seen[one]["low"].min(0) == values.min(0)).all()
        assert (seen[one]["high"].max(0) == values.max(0)).all()
        assert seen[other]["low"].min() == values.min()
        assert seen[other]["high"].max() == values.max()
        assert seen[one]["count"] == seen[other]["count"] == values.size
    first = sum(len(window["x"]) * window["x"].shape[1] for window in list(Sequences())[:4])
    assert (seen[channels[0]]["low"][0] == everything["n"][:first].min(0)).all()
    assert (seen[channels[0]]["high"][1] == everything["n"][first:].max(0)).all()


@pytest.mark.parametrize("percentile", [99.999, 99.9, 99, 75])
def test_percentiles_are_those_of_all_values(
    tmp_path: Path, file: OnnxFile, everything: dict[str, Array], percentile: float
) -> None:
    ranges = calibrate(file, Sequences(), NAMES, tmp_path / "state", "percentile", percentile=percentile)
    for name, values in everything.items():
        assert ranges[name].high == np.percentile(values, percentile, method="higher")
        assert ranges[name].low == np.percentile(values, 100 - percentile, method="lower")


def test_divided_values_have_the_tail_and_the_histogram_of_all_divided_values(
    tmp_path: Path, file: OnnxFile, everything: dict[str, Array]
) -> None:
    divide = tuple(float(d) for d in np.linspace(0.5, 4, 32, dtype=np.float32))
    values = everything["n"] * (1 / np.array(divide)).astype(np.float32)
    tail = Tail("n", divide, 50)
    histogram = Histogram("n", divide, -3.0, 5.0, 64)
    seen = observe(file, Sequences(), [tail, histogram], tmp_path / "state")
    ordered = np.sort(values.ravel())
    assert (seen[tail]["least"] == ordered[:50]).all()
    assert (seen[tail]["greatest"] == ordered[::-1][:50]).all()
    expected, _ = np.histogram(np.clip(values, -3, 5), 64, (-3, 5))
    assert np.abs(seen[histogram]["counts"] - expected).sum() <= 4  # values on a boundary may fall to either side
    assert seen[histogram]["counts"].sum() == values.size


def test_rows_are_evenly_spaced_rows_of_every_window(
    tmp_path: Path, file: OnnxFile, everything: dict[str, Array]
) -> None:
    probe = Rows("f", 128, 9)
    seen = observe(file, Sequences(), [probe], tmp_path / "state")
    start = 0
    for number, window in enumerate(Sequences()):
        rows = window["x"].shape[0] * window["x"].shape[1]
        expected = everything["f"][start : start + rows][:: -(-rows // 9)]
        assert len(expected) <= 9
        assert (seen.rows(probe, number, number + 1) == expected).all()
        start += rows


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_a_range_from_a_histogram_beats_the_whole_range(
    tmp_path: Path, file: OnnxFile, everything: dict[str, Array], method: Any
) -> None:
    ranges = calibrate(file, Sequences(), NAMES, tmp_path / "state", method)
    for name, values in everything.items():
        assert values.min() <= ranges[name].low <= 0 <= ranges[name].high <= values.max()
        if method == "mse":
            assert _error(values, ranges[name]) <= 1.01 * _error(values, Range(values.min(), values.max()))


def _error(values: Array, r: Range) -> float:
    step = (r.high - r.low) / 255
    return float(np.square(np.clip(np.rint(values / step) * step, r.low, r.high) - values, dtype=np.float64).sum())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), outliers=st.integers(0, 3), symmetric=st.booleans())
def test_ranges_of_histograms_are_near_the_best_of_the_values(seed: int, outliers: int, symmetric: bool) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(size=20_000), rng.normal(size=outliers) * 60])
    whole = Range(values.min(), values.max())
    counts, _ = np.histogram(values, BINS, whole)
    found = mse_range(counts, whole, symmetric=symmetric)
    tried = [Range(whole.low * a, whole.high * b) for a in np.linspace(0.05, 1, 40) for b in np.linspace(0.05, 1, 40)]
    if symmetric:
        reach = max(-whole.low, whole.high)
        tried = [Range(-reach * a, reach * a) for a in np.linspace(0.02, 1, 100)]
        assert found.low == -found.high
    assert _error(values, found) <= 1.25 * min(_error(values, each) for each in tried)
    cut = entropy_range(counts, whole, symmetric=symmetric)
    assert cut.low >= min(whole.low, -max(-whole.low, whole.high))
    assert cut.high > 0


@pytest.mark.parametrize("count", [800, 5_000, 300_000])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("symmetric", [False, True])
def test_many_zeros_or_few_values_do_not_narrow_a_range(count: int, zeros: float, symmetric: bool) -> None:
    """Of what ReLU or a mask leaves, where zeros have no error and are most of all values."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(count) < zeros, 0, rng.normal(size=count))
    values = np.concatenate([values, rng.normal(size=30)])
    whole = Range(values.min(), values.max())
    counts, _ = np.histogram(values, BINS, whole)
    reach = np.abs(values).max()
    most = 1.02 * _error(values, Range(-reach, reach))
    assert _error(values, mse_range(counts, whole, symmetric=symmetric)) <= most
    cut = entropy_range(counts, whole, symmetric=symmetric)
    assert _error(values, cut) <= 1e-3 * np.square(values).sum()  # 30 dB


def test_more_values_are_counted_than_float32_can(tmp_path: Path) -> None:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => () {}')
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    histogram = Histogram("x", None, 0.0, 1.0, 4)
    windows: Any = [{"x": np.zeros((1 << 24) + 3, np.float32)}]
    seen = observe(OnnxFile.open(tmp_path / "m.onnx"), windows, [histogram], tmp_path / "state")
    assert seen[histogram]["counts"].tolist() == [(1 << 24) + 3, 0, 0, 0]


def test_a_value_that_never_changes_has_a_range(tmp_path: Path) -> None:
    for score in (mse_range, entropy_range):
        assert score(np.array([5, 0, 0]), Range(2.0, 2.0)) == Range(2.0, 2.0)


def test_old_opsets_are_refused(tmp_path: Path) -> None:
    from transform.fp16_graphs import graph

    text = BLOCK.replace("n = LayerNormalization <axis = -1, epsilon = 0.00001> (x, gain, shift)", "n = Mul (x, gain)")
    for opset, method in ((12, "minmax"), (15, "mse")):
        path = tmp_path / f"{opset}.onnx"
        path.write_bytes(graph(text, opset, **weights()).SerializeToString())
        with pytest.raises(StepError, match=f"has opset {opset}, this calibration needs"):
            calibrate(OnnxFile.open(path), Sequences(), ["n"], tmp_path / "state", method)  # type: ignore[arg-type]


def test_weights_inside_and_beside_the_model_are_left_where_they_are(tmp_path: Path) -> None:
    inside, beside = tmp_path / "inside.onnx", tmp_path / "beside.onnx"
    inside.write_bytes(block().SerializeToString())
    onnx.save_model(block(), beside, save_as_external_data=True, location="b.data", size_threshold=1024)
    probe = Extremes("y", 32)
    found = []
    for path in (inside, beside):
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
        seen = observe(OnnxFile.open(path), Sequences(), [probe], tmp_path / f"{path.stem}.state")
        found.append(seen[probe])
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
    assert (found[0]["low"] == found[1]["low"]).all()

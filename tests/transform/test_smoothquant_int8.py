"""SmoothQuant on a small transformer block: what fuses, what stays equal, what is refused, what may be interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from transform.fp16_graphs import runs, snr
from transform.int8_graphs import BLOCK, Sequences, block, quantize, weights

from hubpub.errors import StepError
from hubpub.transform import _int8_values as i8
from hubpub.transform.smoothquant_int8 import SmoothQuantInt8


def unseen() -> dict[str, Any]:
    (window,) = Sequences(1, seed=99)
    return dict(window)


def outputs(model: onnx.ModelProto, folder: Path, target: Path) -> tuple[Any, Any]:
    return runs(folder / "m.onnx", unseen())[0], runs(target, unseen())[0]


def test_every_product_with_a_weight_runs_in_integers(tmp_path: Path) -> None:
    target, facts = quantize(block(), tmp_path)
    assert facts["fused"] == {"ops": {"MatMulIntegerToFloat": 6}, "layers": 6, "not_fused": []}
    expected, got = outputs(block(), tmp_path, target)
    assert snr(expected, got) > 22
    ops = [node.op_type for node in onnx.load(target).graph.node]
    assert ops.count("QuantizeLinear") == 4  # q, k and v share one
    assert ops.count("MatMul") == 8


@pytest.mark.parametrize("alpha", [0.5, 0.9, "search"])
def test_the_smoothed_float_model_equals_the_source(tmp_path: Path, alpha: float | str) -> None:
    target, facts = quantize(block(), tmp_path, output="smoothed_fp32", alpha=alpha)
    expected, got = outputs(block(), tmp_path, target)
    # Every operation rounds anew; a factor and its reciprocal add at most a few roundings to each.
    assert np.abs(expected - got).max() <= 2e-5 * np.abs(expected).max()
    places = {layer["weight"]: layer["folded_into"] for layer in facts["layers"]}
    assert places["wq"] == places["wk"] == places["wv"] == "LayerNormalization"
    assert places["w2"] == "MatMul"  # through Relu and the bias
    assert places["wo"] == "Mul added"
    assert places["w1"] == "Mul added"  # its input is a residual too


def test_smoothing_earns_its_keep_and_does_not_cost_bytes(tmp_path: Path) -> None:
    found = {}
    for alpha in (0.0, "search"):
        target, facts = quantize(block(), tmp_path / str(alpha), alpha=alpha)
        expected, got = outputs(block(), tmp_path / str(alpha), target)
        found[alpha] = snr(expected, got)
    assert found["search"] > found[0.0] + 3
    assert facts["bytes_out"] < 0.45 * facts["bytes_in"]


def test_no_pair_of_products_saturates_on_old_x86(tmp_path: Path) -> None:
    reach = {}
    for target_ in ("x86", "x86_vnni"):
        target, facts = quantize(block(), tmp_path / target_, target=target_)
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
        reach[target_] = max(i8.pairs_reach(stored[f"{name}_quantized"]).max() for name in ("wq", "wo", "w1", "w2"))
        rescaled = sum(layer.get("columns_rescaled", 0) for layer in facts["layers"])
        assert bool(rescaled) == (target_ == "x86")
    assert reach["x86"] <= i8.PAIR_LIMIT < reach["x86_vnni"]


@pytest.mark.parametrize("alpha", [0.5, "search"])
@pytest.mark.parametrize("ranges", ["minmax", "percentile"])
def test_an_interrupted_calibration_goes_on_and_gives_the_same_bytes(tmp_path: Path, alpha: Any, ranges: str) -> None:
    whole, facts = quantize(block(), tmp_path / "a", alpha=alpha, ranges=ranges)
    resume = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        quantize(block(), tmp_path / "b", Sequences(stop=3), resume, alpha=alpha, ranges=ranges)
    assert (resume / "pass1" / "state.npz").exists()
    resumed, again = quantize(block(), tmp_path / "b", None, resume, alpha=alpha, ranges=ranges)
    assert resumed.read_bytes() == whole.read_bytes()
    assert again == facts
    kept, third = quantize(block(), tmp_path / "c", Sequences(stop=0), resume, alpha=alpha, ranges=ranges)
    assert kept.read_bytes() == whole.read_bytes()  # not even one window was asked for
    assert third == facts


def test_the_mean_error_of_a_product_goes_into_its_bias(tmp_path: Path) -> None:
    errors = {}
    for correct in (True, False):
        target, facts = quantize(block(), tmp_path / str(correct), correct_means=correct, alpha=0.5)
        corrected = {layer["weight"] for layer in facts["layers"] if layer.get("mean_corrected")}
        assert corrected == ({"wk", "wv", "w1"} if correct else set())
        model = onnx.load(target)
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info("f1"))
        seen = tmp_path / f"{correct}.onnx"
        seen.write_bytes(model.SerializeToString())
        source = block()
        source.graph.output.append(onnx.helper.make_empty_tensor_value_info("f1"))
        plain = tmp_path / "plain.onnx"
        plain.write_bytes(source.SerializeToString())
        difference = [runs(seen, dict(w))[1] - runs(plain, dict(w))[1] for w in Sequences()]
        errors[correct] = np.abs(np.concatenate([d.reshape(-1, d.shape[-1]) for d in difference]).mean(0)).sum()
    assert errors[True] < errors[False]


def test_other_windows_do_not_take_up_an_old_state(tmp_path: Path) -> None:
    resume = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        quantize(block(), tmp_path / "a", Sequences(stop=3), resume)
    other, _ = quantize(block(), tmp_path / "a", Sequences(seed=5), resume)
    fresh, _ = quantize(block(), tmp_path / "b", Sequences(seed=5))
    assert other.read_bytes() == fresh.read_bytes()


def test_the_number_of_threads_does_not_show(tmp_path: Path) -> None:
    one, _ = quantize(block(), tmp_path / "a", threads=1)
    two, _ = quantize(block(), tmp_path / "b", threads=2)
    assert one.read_bytes() == two.read_bytes()


def test_one_window_will_do(tmp_path: Path) -> None:
    target, facts = quantize(block(), tmp_path, Sequences(1))
    assert facts["calibration"]["windows"] == 1
    expected, got = outputs(block(), tmp_path, target)
    assert snr(expected, got) > 15


def test_excluded_layers_stay_float(tmp_path: Path) -> None:
    target, facts = quantize(block(), tmp_path, exclude=("w[12]",))
    assert facts["not_integer"] == [
        {"weight": name, "reason": "excluded by 'w[12]'", "bytes": 4 * 32 * 128} for name in ("w1", "w2")
    ]
    stored = {t.name for t in onnx.load(target).graph.initializer}
    assert {"w1", "w2"} <= stored
    assert facts["fused"]["layers"] == 4


def test_a_gemm_becomes_a_product_and_its_transposed_weight_is_turned(tmp_path: Path) -> None:
    text = """
    g (float[n, 32] x) => (float[n, 16] y)
    {
      a = Gemm <alpha = 0.5, transB = 1> (x, w, b)
      r = Relu (a)
      y = Gemm (r, v)
    }
    """
    from transform.fp16_graphs import graph

    rng = np.random.default_rng(0)
    named = {"w": rng.normal(size=(24, 32)), "v": rng.normal(size=(24, 16)), "b": rng.normal(size=24)}
    model = graph(text, **{name: value.astype(np.float32) for name, value in named.items()})

    class Rows(Sequences):
        def __iter__(self) -> Any:
            return ({"x": window["x"][0]} for window in super().__iter__())

    target, facts = quantize(model, tmp_path, Rows())
    assert facts["fused"]["layers"] == 2
    assert facts["layers"][1]["folded_into"] == "Gemm"
    given = {"x": unseen()["x"][0]}
    assert snr(runs(tmp_path / "m.onnx", given)[0], runs(target, given)[0]) > 35


def test_what_cannot_be_quantized_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="opset 12"):
        quantize(block_without_norm(12), tmp_path)
    target, _ = quantize(block(), tmp_path)
    with pytest.raises(StepError, match="is quantized already"):
        quantize(onnx.load(target), tmp_path / "again")
    with pytest.raises(StepError, match="no product that can run in integers"):
        quantize(block(), tmp_path, exclude=("w?",))
    with pytest.raises(StepError, match="no windows"):
        quantize(block(), tmp_path, Sequences(0))


def block_without_norm(opset: int) -> onnx.ModelProto:
    from transform.fp16_graphs import graph

    text = BLOCK.replace("n = LayerNormalization <axis = -1, epsilon = 0.00001> (x, gain, shift)", "n = Mul (x, gain)")
    return graph(text, opset, **weights())


def test_windows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    class Wrong(Sequences):
        def __iter__(self) -> Any:
            return ({"x": window["x"][..., :5]} for window in super().__iter__())

    with pytest.raises(StepError, match="window 1 does not run"):
        quantize(block(), tmp_path, Wrong())

    class Infinite(Sequences):
        def __iter__(self) -> Any:
            return ({"x": window["x"] * np.float32(np.inf)} for window in super().__iter__())

    with pytest.raises(StepError, match="NaN or infinite in window 1"):
        quantize(block(), tmp_path, Infinite())


def test_without_windows_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="needs input to calibrate on"):
        SmoothQuantInt8().apply(tmp_path / "m.onnx", tmp_path / "n.onnx", lambda _: None)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hubpub.gate import GateSpec, Verdict, impossible, judge
from hubpub.measure.measurement import Machine, Measurement
from hubpub.measure.stats import paired_rate_interval, rate_interval

FILES = {"model.onnx": "a" * 64, "fp32.onnx": "b" * 64, "other.onnx": "c" * 64}


def measured(**fields: Any) -> Measurement:
    given_fields: dict[str, Any] = {
        "run": "int8",
        "metric": "wer",
        "value": 0.04,
        "unit": "ratio",
        "n": 500,
        "n_unit": "words",
        "low": 0.02,
        "high": 0.06,
        "interval": "a method",
        "corpus": "d" * 64,
        "artifacts": {"model.onnx": "a" * 64},
        "client": "a client",
        "versions": {},
        "machine": Machine(cpu="c", kernels="", cores=1, system="s"),
    }
    return Measurement(**given_fields | fields)


def delta(**fields: Any) -> Measurement:
    paired = {"against": "fp32/wer", "artifacts": {"model.onnx": "a" * 64, "fp32.onnx": "b" * 64}}
    return measured(**paired | {"value": 0.01, "low": -0.005, "high": 0.025} | fields)


def gate(**fields: Any) -> GateSpec:
    return GateSpec(measure="int8/wer", **fields)


def verdict(spec: GateSpec, *measurements: Measurement) -> Verdict:
    (one,) = judge([spec], measurements, FILES)
    assert one.gate == spec
    assert "\n" not in one.reason
    return one


@pytest.mark.parametrize(
    ("spec", "measurement"),
    [
        (gate(max=0.05), measured()),
        (gate(max=0.04), measured()),  # the interval of an absolute figure is not judged
        (gate(max=0.06, at="end"), measured()),
        (gate(min=0.02, at="end"), measured()),
        (gate(min=0.04), measured()),
        (gate(min=0.03, max=0.05, min_n=500), measured()),
        (gate(max=0.05), measured(low=None, high=None, interval="none: n = 1")),
        (gate(max=0.025, against="fp32/wer"), delta()),
        (gate(min=-0.005, against="fp32/wer"), delta()),
        (gate(min=-0.01, max=0.03, against="fp32/wer"), delta()),
        (gate(max=-0.01, against="fp32/wer"), delta(value=-0.03, low=-0.05, high=-0.01)),
    ],
)
def test_passes(spec: GateSpec, measurement: Measurement) -> None:
    passed = verdict(spec, measurement, measured(run="unrelated"), measured(subset="clip:x", value=1.0, high=1.0))
    assert passed.passed
    assert "within the budget" in passed.reason
    assert (passed.value, passed.n, passed.unit) == (measurement.value, measurement.n, "ratio")


def loose(**fields: Any) -> Measurement:
    """A measurement that did not go through validation, as a foreign manifest might hold."""
    return measured().model_copy(update=fields)


@pytest.mark.parametrize(
    ("spec", "measurements", "reason"),
    [
        (gate(max=0.05), [], "int8/wer was not measured"),
        (gate(max=0.05), [measured(metric="cer")], "not measured"),
        (gate(max=0.05), [measured(subset="clip:x")], "not measured"),
        (gate(max=0.05), [delta()], "not measured"),
        (gate(max=0.05, against="fp32/wer"), [measured()], "against fp32/wer was not measured"),
        (gate(max=0.05, against="fp16/wer"), [delta()], "not measured"),
        (gate(max=0.05), [measured(), measured()], "measured 2 times"),
        (gate(max=0.05), [measured(artifacts={"model.onnx": "f" * 64})], "stale: model.onnx changed"),
        (gate(max=0.05), [measured(artifacts={"gone.onnx": "a" * 64})], "stale: gone.onnx"),
        (
            gate(max=0.05, against="fp32/wer"),
            [delta(artifacts={"model.onnx": "a" * 64, "fp32.onnx": "x"})],
            "fp32.onnx",
        ),
        (gate(max=0.05), [measured(artifacts={})], "which files"),
        (gate(max=0.05), [loose(value=math.nan)], "not a number"),
        (gate(min=0.05), [loose(value=math.nan)], "not a number"),
        (gate(min=0.05), [loose(value=math.inf)], "not a number"),
        (gate(max=0.05), [loose(value=-math.inf)], "not a number"),
        (gate(max=0.05, against="fp32/wer"), [loose(against="fp32/wer", high=math.nan)], "no interval"),
        (gate(max=0.05, min_n=501), [measured()], "n = 500 words, at least 501"),
        (gate(max=0.05, against="fp32/wer"), [delta(low=None, high=None, interval="none: n = 2")], "none: n = 2"),
        (gate(max=0.05, at="end"), [measured()], "upper end of its interval is above 0.05"),
        (gate(min=0.03, at="end"), [measured()], "lower end of its interval is below 0.03"),
        (gate(max=0.9, at="end"), [measured(low=None, high=None, interval="none: n = 1")], "value has no interval"),
        (gate(max=0.03), [measured()], "it is above 0.03"),
        (gate(min=0.05), [measured()], "it is below 0.05"),
        (gate(max=0.02, against="fp32/wer"), [delta()], "upper end of its interval is above 0.02"),
        (gate(min=0, against="fp32/wer"), [delta()], "lower end of its interval is below 0"),
    ],
)
def test_fails_with_the_reason(spec: GateSpec, measurements: list[Measurement], reason: str) -> None:
    failed = verdict(spec, *measurements)
    assert not failed.passed
    assert reason in failed.reason
    assert Verdict.model_validate_json(failed.model_dump_json()) == failed


def test_verdicts_come_in_the_order_of_the_gates() -> None:
    specs = [gate(max=0.01), gate(max=0.05), GateSpec(measure="x/y", min=1)]
    assert [v.passed for v in judge(specs, [measured()], FILES)] == [False, True, False]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"max": math.nan},
        {"min": math.inf},
        {"max": 1, "min": 2},
        {"max": 1, "min_n": 0},
        {"max": 1, "measure": "wer"},
        {"max": 1, "measure": "a/b/c"},
        {"max": 1, "against": "int8/wer"},
        {"maximum": 1},
    ],
)
def test_gates_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GateSpec.model_validate({"measure": "int8/wer"} | bad)


def test_a_gate_says_what_it_asks() -> None:
    assert str(gate(max=0.01, min=-0.5, against="fp32/wer")) == (
        "int8/wer less fp32/wer: at most 0.01 and at least -0.5"
    )
    assert str(gate(max=0.01, at="end")) == "int8/wer: at most 0.01, at the end of its interval"


def test_a_gate_is_written_as_it_always_was() -> None:
    assert set(gate(max=0.01).model_dump()) == {"measure", "against", "max", "min", "min_n"}
    assert gate(max=0.01, at="end").model_dump()["at"] == "end"


@pytest.mark.parametrize(
    ("spec", "n", "reason"),
    [
        (gate(max=0.01, min_n=120), 119, "at least 120"),
        (gate(max=0.01, min_n=119), 119, None),
        (gate(max=0.001), 1, None),  # an absolute budget is judged by the value
        (gate(max=0.01, against="fp32/wer"), 119, "at least 368"),
        (gate(max=0.01, against="fp32/wer"), 367, "at least 368"),
        (gate(max=0.01, against="fp32/wer"), 368, None),
        (gate(min=-0.01, against="fp32/wer"), 367, "at least 368"),
        (gate(min=-0.05, max=0.01, against="fp32/wer"), 367, "at least 368"),
        (gate(max=0.01, against="fp32/wer"), 0, "at least 368"),
        (gate(max=0, against="fp32/wer"), 10**9, "leaves no room"),
        (GateSpec(measure="int8/rtf", max=0.0, against="fp32/rtf"), 3, None),
    ],
)
def test_gates_that_can_never_pass(spec: GateSpec, n: int, reason: str | None) -> None:
    found = impossible(spec, n)
    assert (found is None) == (reason is None)
    assert reason is None or (found is not None and reason in found)


@given(st.integers(1, 3000), st.floats(0.0005, 0.5))
def test_impossible_agrees_with_the_judge_on_runs_that_are_equal(n: int, budget: float) -> None:
    interval = paired_rate_interval([3], [3], [n], worse=0, better=0, unit="words")
    same = delta(value=0.0, low=interval.low, high=interval.high, n=n)
    spec = gate(max=budget, against="fp32/wer")
    assert verdict(spec, same).passed == (impossible(spec, n) is None)


def test_a_measurement_made_by_our_statistics_is_judged() -> None:
    interval: Callable[..., Any] = rate_interval
    made = interval([0], [119], "words")
    figure = measured(value=0.0, low=made.low, high=made.high, n=119)
    assert verdict(gate(max=0.0), figure).passed

"""``exclude: {auto: …}``: budgets are met with what is measured, the cost is said, a broken-off search goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transform.fp16_graphs import runs, snr
from transform.int8_graphs import Sequences, block

from hubpub.errors import StepError
from hubpub.transform import sensitivity
from hubpub.transform.smoothquant_int8 import SmoothQuantInt8
from hubpub.transform.static_int8 import StaticInt8

STEPS: list[type[SmoothQuantInt8] | type[StaticInt8]] = [SmoothQuantInt8, StaticInt8]
WINDOWS = Sequences(4)


def make(
    kind: type[SmoothQuantInt8] | type[StaticInt8], folder: Path, exclude: Any, resume: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    folder.mkdir(exist_ok=True, parents=True)
    source, target = folder / "m.onnx", folder / "out" / "m.onnx"
    target.parent.mkdir(exist_ok=True)
    source.write_bytes(block().SerializeToString(deterministic=True))
    step = kind.model_validate({"min_elements": 64, "exclude": exclude, "report_runtime": False})
    facts = step.apply_calibrated(source, target, WINDOWS, resume, lambda _: None)
    assert [path.name for path in target.parent.iterdir()] == ["m.onnx"]
    return target, dict(facts)


def quality(folder: Path, target: Path) -> float:
    """Over all windows at once, as the search pools them."""
    import numpy as np

    pairs = [(runs(folder / "m.onnx", dict(w))[0], runs(target, dict(w))[0]) for w in WINDOWS]
    return snr(*(np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1)))


@pytest.mark.parametrize("kind", STEPS)
def test_a_budget_on_error_is_met_by_what_is_written(kind: Any, tmp_path: Path) -> None:
    plain, _ = make(kind, tmp_path / "plain", [])
    wanted = round(quality(tmp_path / "plain", plain) + 3, 1)
    target, facts = make(kind, tmp_path / "auto", {"auto": {"min_snr_db": wanted}})
    found = facts["sensitivity"]
    assert quality(tmp_path / "auto", target) >= wanted
    assert found["snr_db"] == pytest.approx(quality(tmp_path / "auto", target), abs=0.02)
    assert 1 <= len(found["excluded"]) < 6
    assert {"wq", "wk", "wv", "wo", "w1", "w2"} == {row["layer"] for row in found["layers"]}
    assert {entry["weight"] for entry in facts["not_integer"]} == set(found["excluded"])
    # Six layers alone, all of them with other weights in float32, what bisection tries; one to list them, one at last.
    tried = found["models"] - 6 - 1 - 2
    assert 1 <= tried <= math.ceil(math.log2(7))
    assert found["runs"] == (7 + tried + 2) * 4
    # The same globs by hand give the same bytes.
    by_hand, _ = make(kind, tmp_path / "hand", found["excluded"])
    assert by_hand.read_bytes() == target.read_bytes()


@pytest.mark.parametrize("kind", STEPS)
def test_a_budget_on_size_is_met_by_what_is_written(kind: Any, tmp_path: Path) -> None:
    _, plain = make(kind, tmp_path / "plain", [])
    _, facts = make(kind, tmp_path / "auto", {"auto": {"max_size": 0.5, "windows": 2}, "always": ["wo"]})
    found = facts["sensitivity"]
    assert plain["bytes_out"] / plain["bytes_in"] < 0.4
    assert 0.4 < facts["bytes_out"] / facts["bytes_in"] <= 0.5
    assert found["excluded"]
    assert "wo" not in {row["layer"] for row in found["layers"]}
    assert "wo" in {entry["weight"] for entry in facts["not_integer"]}
    assert found["windows"] == 2


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"min_snr_db": 120}, "an SNR of 120 dB is not met with any layer quantized"),
        ({"max_size": 0.1}, r"a size of 0.1 of the source's weights is not met with every layer quantized, by [\d,]+"),
    ],
)
def test_a_budget_that_cannot_be_met_is_one_error(budget: dict[str, float], says: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=says):
        make(StaticInt8, tmp_path, {"auto": budget})


def test_a_search_that_was_broken_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is not measured again, and neither bytes nor facts tell of the break."""
    exclude = {"auto": {"min_snr_db": 25, "windows": 2}}
    whole, facts = make(SmoothQuantInt8, tmp_path / "whole", exclude)
    measure, calls = sensitivity.Bench._measure, 0

    def breaks(bench: sensitivity.Bench, layers: frozenset[str]) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return measure(bench, layers)

    monkeypatch.setattr(sensitivity.Bench, "_measure", breaks)
    with pytest.raises(KeyboardInterrupt):
        make(SmoothQuantInt8, tmp_path / "broken", exclude, tmp_path / "state")
    target, again = make(SmoothQuantInt8, tmp_path / "broken", exclude, tmp_path / "state")
    assert target.read_bytes() == whole.read_bytes()
    assert again == facts
    assert calls == facts["sensitivity"]["models"] - 2 + 1  # one of them broke off


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"exclude": "auto"}, "a search with its budget"),
        ({"exclude": {"auto": {}}}, "give one of min_snr_db and max_size"),
        ({"exclude": {"auto": {"min_snr_db": 20, "max_size": 0.3}}}, "give one of min_snr_db and max_size"),
        ({"exclude": {"auto": {"max_size": 1.5}}}, "less than 1"),
        ({"exclude": {"auto": {"min_snr_db": 20}}, "output": "smoothed_fp32"}, "goes with output: int8"),
        ({"exclude": {"auto": {"max_size": 0.3}}, "store_excluded": "int8"}, "goes with store_excluded: fp32"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SmoothQuantInt8.model_validate(fields)


def test_what_is_left_out_may_be_stored_at_8_bits(tmp_path: Path) -> None:
    """The scan is of layers alone all the same; the search measures what will be written."""
    folder = tmp_path / "m"
    folder.mkdir()
    source, target = folder / "m.onnx", folder / "out" / "m.onnx"
    target.parent.mkdir()
    source.write_bytes(block().SerializeToString(deterministic=True))
    all_of_it, _ = make(SmoothQuantInt8, tmp_path / "all", [])
    wanted = round(quality(tmp_path / "all", all_of_it) + 2, 1)
    exclude = {"auto": {"min_snr_db": wanted}}
    step = SmoothQuantInt8.model_validate({"min_elements": 64, "exclude": exclude, "store_excluded": "int8"})
    facts: dict[str, Any] = dict(step.apply_calibrated(source, target, WINDOWS, None, lambda _: None))
    found = facts["sensitivity"]
    assert found["excluded"]
    assert quality(folder, target) == pytest.approx(found["snr_db"], abs=0.02)
    assert quality(folder, target) >= wanted
    _, plain = make(SmoothQuantInt8, tmp_path / "plain", exclude)
    assert facts["bytes_out"] < plain["bytes_out"]
    assert found["layers"] == plain["sensitivity"]["layers"]

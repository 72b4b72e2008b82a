"""A search for layers to exclude, as the card shows it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from test_render import CARD, SHIPPED, manifest

from hubpub.card import render_card
from hubpub.card.sensitivity import plot, plot_path, plots, shown, table
from hubpub.manifest import StepRecord

NAMES = [f"/enc/<{n}>|{'x' * 60}" for n in range(50)]
FOUND: dict[str, Any] = {
    "layers": [
        {"layer": name, "op": "MatMul", "weights": [name], "snr_db": 10.0 * (n + 1), "bytes_saved": 1000 * n}
        for n, name in enumerate(NAMES)
    ],
    "together_snr_db": 9.5,
    "windows": 4,
    "excluded": NAMES[:2],
    "budget": {"min_snr_db": 12.0, "windows": 4},
    "snr_db": 12.25,
    "models": 60,
    "runs": 240,
}


def test_the_table_has_every_layer_and_what_was_excluded() -> None:
    lines = table(FOUND).splitlines()
    assert len(lines) == 53
    assert lines[2] == f"| /enc/&lt;0>\\|{'x' * 60} | MatMul | 10.00 | 0 | excluded |"
    assert lines[4].endswith("| 2,000 |  |")
    assert lines[-1] == "| all together | | 9.50 | 1,225,000 | |"


def test_the_plot_shows_the_worst_layers_and_is_the_same_each_time() -> None:
    svg = plot(FOUND)
    root = ET.fromstring(svg)
    bars = [element for element in root.iter() if element.get("x") == "330"]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert len(widths) == 40
    assert widths == sorted(widths, reverse=True)
    assert min(widths) > 0
    assert [bar.get("fill") == bars[0].get("fill") for bar in bars] == [True] * 2 + [False] * 38
    assert "40 of 50 layers, 4 windows" in svg
    assert "all together 9.5 dB" in svg
    assert svg == plot(FOUND)


def test_steps_that_searched_have_a_plot_each() -> None:
    facts = {"files/onnx/a.onnx#1": {"sensitivity": FOUND}, "files/b.onnx#1": {"layers": []}, "corpora/c": {}}
    assert plots(facts) == {"plots/onnx/a.onnx.sensitivity.svg": plot(FOUND)}
    (one,) = shown(facts)
    assert one["file"] == "onnx/a.onnx"
    assert one["plot"] == "plots/onnx/a.onnx.sensitivity.svg"
    assert one["summary"] == (
        "2 weights stay in higher precision, which the search found for outputs of at least 12 dB: 12.2 dB on 4 "
        "calibration windows. It made 60 models and ran 240 windows."
    )
    by_size = {**FOUND, "budget": {"max_size": 0.3, "windows": 4}}
    (other,) = shown({"files/b.onnx#1": {"sensitivity": by_size}})
    assert "weights of at most 30 % of the source's bytes" in other["summary"]


def test_the_card_shows_the_search() -> None:
    step = StepRecord(
        kind="transform", key="k", identity={"params": {"transform": "smoothquant_int8"}}, libraries={}, inputs={},
        outputs={}, facts={"sensitivity": FOUND},
    )  # fmt: skip
    card = render_card(manifest(steps={"files/m.int8.onnx#1": step}), CARD, SHIPPED)
    assert "## Layers of `m.int8.onnx`" in card
    assert f"![Noise that each layer adds](<{plot_path('files/m.int8.onnx#1')}>)" in card
    assert "2 weights stay in higher precision" in card

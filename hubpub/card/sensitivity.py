"""What a search for layers to exclude found, as the card shows it: a table, and a plot without a plotting library.

Both are made from the facts of a step, ``sensitivity`` in the manifest, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from hubpub.card.figures import cell

_QUANTIZED, _EXCLUDED = "#4269d0", "#c4c4c4"


def plot_path(step: str) -> str:
    """Where a step's plot lies in the release."""
    return f"plots/{_file(step)}.sensitivity.svg"


def plots(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The plot of every step that searched, by its path; ``facts`` by the steps' names."""
    return {plot_path(step): plot(found["sensitivity"]) for step, found in facts.items() if found.get("sensitivity")}


def shown(facts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """For a card: of every step that searched its ``file``, ``plot`` (a path), ``table`` and ``summary``."""
    return [
        {
            "file": _file(step),
            "plot": plot_path(step),
            "table": table(found["sensitivity"]),
            "summary": _summary(found["sensitivity"]),
        }
        for step, found in facts.items()
        if found.get("sensitivity")
    ]


def _file(step: str) -> str:
    """The published file that a step of a chain works towards."""
    return step.removeprefix("files/").partition("#")[0]


def _summary(found: Mapping[str, Any]) -> str:
    budget = found["budget"]
    asked = (
        f"outputs of at least {budget['min_snr_db']:g} dB"
        if "min_snr_db" in budget
        else f"weights of at most {budget['max_size'] * 100:g} % of the source's bytes"
    )
    return (
        f"{len(found['excluded'])} weights stay in higher precision, which the search found for {asked}: "
        f"{found['snr_db']:.1f} dB on {found['windows']} calibration windows. It made {found['models']} models and ran "
        f"{found['runs']} windows."
    )


def table(found: Mapping[str, Any]) -> str:
    """Markdown: layer, operation, SNR with it alone quantized, bytes that it saves; the worst first."""
    left = set(found["excluded"])
    lines = ["| layer | op | SNR, dB | bytes saved | |", "|---|---|---:|---:|---|"]
    for row in found["layers"]:
        kept = "excluded" if left & set(row["weights"]) else ""
        lines.append(f"| {cell(row['layer'])} | {row['op']} | {row['snr_db']:.2f} | {row['bytes_saved']:,} | {kept} |")
    together = sum(row["bytes_saved"] for row in found["layers"])
    lines.append(f"| all together | | {found['together_snr_db']:.2f} | {together:,} | |")
    return "\n".join(lines) + "\n"


def plot(found: Mapping[str, Any], most: int = 40) -> str:
    """An SVG of the worst layers: a bar's length is the noise that the layer adds, dB over the best one shown."""
    rows, left = found["layers"][:most], set(found["excluded"])
    levels = [-row["snr_db"] for row in rows]
    floor, width, margin, height = min(levels) - 3, 360, 330, 18
    span = max(max(levels) - floor, 1)
    total = 46 + height * len(rows)
    title = (
        f"Output noise with one layer quantized, {len(rows)} of {len(found['layers'])} layers, "
        f"{found['windows']} windows"
    )
    under = f"SNR in dB at the bars; all together {found['together_snr_db']:.1f} dB; grey: stays in higher precision"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{margin + width + 90}" height="{total}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="{total}" fill="#fff"/>',
        f'<text x="10" y="18" font-size="13">{escape(title)}</text>',
        f'<text x="10" y="34" fill="#666">{escape(under)}</text>',
    ]
    for number, (row, level) in enumerate(zip(rows, levels, strict=True)):
        y, name = 42 + height * number, row["layer"]
        name = name if len(name) <= 48 else f"…{name[-47:]}"
        length = width * (level - floor) / span
        color = _EXCLUDED if left & set(row["weights"]) else _QUANTIZED
        parts += [
            f'<text x="{margin - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{margin}" y="{y + 2}" width="{length:.1f}" height="{height - 5}" fill="{color}"/>',
            f'<text x="{margin + length + 5:.1f}" y="{y + 12}">{row["snr_db"]:.1f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"

"""Error by section of long audio: int8 with dynamic ranges per tensor beside calibrated, smoothed int8.

The model is a stand-in in which some activations grow with the position, by construction (tests/standins/drift.py says
how, and how natural that is); no real model is claimed to do so. A section is scored in the pass that ends with it, as
a user meets it whose audio is as long as that; in one pass over all, dynamic ranges are as bad for the first section as
for the last. Calibrated on other recordings of the same length. Writes ``long_audio.svg`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from harness import ROOT

sys.path.insert(0, str(ROOT / "tests" / "standins"))
COLORS = {"ours": "#4269d0", "quantize_dynamic": "#d0554b"}


def measured(scale: str, calibration: int, unheard: int, folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """For both: SNR of each section in the pass that ends with it, and in one pass over all; dB."""
    from drift import Recordings, drifting, snr_by_section
    from onnxruntime.quantization import quantize_dynamic
    from parakeet_scale import SCALES

    from hubpub.transform.smoothquant_int8 import SmoothQuantInt8

    source = drifting(folder / "m.onnx", SCALES[scale])
    made = {name: folder / f"{name}.onnx" for name in COLORS}
    step = SmoothQuantInt8(report_runtime=False)
    step.apply_calibrated(source, made["ours"], Recordings(1, calibration), None, lambda _: None)
    quantize_dynamic(str(source), str(made["quantize_dynamic"]), per_channel=True, op_types_to_quantize=["MatMul"])
    return {name: snr_by_section(source, path, Recordings(2, unheard)) for name, path in made.items()}


def plot(found: Mapping[str, tuple[Sequence[float], Sequence[float]]], seconds: int, title: str) -> str:
    """An SVG: SNR over the section's place; dashed: in one pass."""
    width, height, left, top = 520, 260, 60, 50
    values = [value for rows in found.values() for row in rows for value in row]
    low, high = 5 * (min(values) // 5), 5 * (max(values) // 5 + 1)
    count = len(next(iter(found.values()))[0])

    def at(number: int, value: float) -> str:
        x = left + width * (number + 0.5) / count
        return f"{x:.1f},{top + height * (high - value) / (high - low):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 170}" height="{top + height + 50}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="20" font-size="13">{escape(title)}</text>',
        '<text x="10" y="38" fill="#666">SNR of the output against float32, dB</text>',
    ]
    for value in range(int(low), int(high) + 1, 5):
        y = at(0, value).split(",")[1]
        parts += [
            f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#ddd"/>',
            f'<text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{value}</text>',
        ]
    for number in range(count):
        x = at(number, low).split(",")[0]
        span = f"{seconds * number // count}–{seconds * (number + 1) // count} s"
        parts.append(f'<text x="{x}" y="{top + height + 16}" text-anchor="middle">{span}</text>')
    middle = left + width / 2
    parts.append(f'<text x="{middle}" y="{top + height + 36}" text-anchor="middle">place in the audio</text>')
    for name, rows in found.items():
        for row, dash, label in zip(rows, ("", ' stroke-dasharray="4 4"'), ("", ", one pass"), strict=True):
            points = " ".join(at(number, value) for number, value in enumerate(row))
            x, y = at(count - 1, row[-1]).split(",")
            shift = 4 if not dash else 16
            parts += [
                f'<polyline points="{points}" fill="none" stroke="{COLORS[name]}" stroke-width="2"{dash}/>',
                f'<text x="{float(x) + 40:.1f}" y="{float(y) + shift:.1f}" fill="{COLORS[name]}">'
                f"{escape(name + label)}</text>",
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Measure, plot, print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the tiny stand-in, two recordings: half a minute")
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_suffix(".svg"))
    options = parser.parse_args()
    scale, calibration, unheard = ("tiny", 2, 2) if options.small else ("small", 4, 4)
    with tempfile.TemporaryDirectory() as name:
        found = measured(scale, calibration, unheard, Path(name))
    from drift import SECONDS

    for name, (ending, whole) in found.items():
        print(f"{name:18} ends with it: {' '.join(f'{v:5.1f}' for v in ending)}")
        print(f"{'':18} one pass:     {' '.join(f'{v:5.1f}' for v in whole)}")
    options.plot.write_text(plot(found, SECONDS, "A stand-in whose activations grow with the position"), "utf-8")
    lost = {name: round(ending[0] - ending[-1], 2) for name, (ending, _) in found.items()}
    line = {
        "name": "long audio",
        "ours": {"lost_db": lost["ours"], "last_db": round(found["ours"][0][-1], 2)},
        "peer": {
            "quantize_dynamic": {
                "lost_db": lost["quantize_dynamic"],
                "last_db": round(found["quantize_dynamic"][0][-1], 2),
            }
        },
        "ratio": {"db_better_in_last": round(found["ours"][0][-1] - found["quantize_dynamic"][0][-1], 2)},
        "units": "dB of SNR: lost from the first section to the last, each in the pass that ends with it; and of the "
        "last. A stand-in made to grow with the position",
        "sizes": {"scale": scale, "seconds": SECONDS, "calibration_windows": calibration, "recordings": unheard},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()

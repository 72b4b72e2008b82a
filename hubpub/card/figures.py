"""How numbers of the manifest are written in a card."""

from __future__ import annotations

from typing import Any


def size(count: int) -> str:
    """Bytes in decimal units with three significant digits: ``32.9 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return f"{count} B" if unit == "B" else f"{significant(value)} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def significant(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, without an exponent where it can be read."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{digits}g}"
    if "e" in text:
        return f"{float(text):.0f}"
    short = len(text.replace("-", "").replace(".", "").lstrip("0"))
    if short < digits and abs(value) < 10 ** (digits - 1):  # %g drops zeros that say how exact the figure is
        text += ("." if "." not in text else "") + "0" * (digits - short)
    return text


def number(value: float, unit: str) -> str:
    """A figure with its unit: ratios as per cent, bytes as sizes."""
    if unit == "ratio":
        return f"{value * 100:.2f} %"
    if unit == "bytes":
        return f"−{size(round(-value))}" if value < 0 else size(round(value))
    if unit == "cosine":
        return f"{value:.6f}"
    return f"{significant(value)} {unit}".rstrip()


def figure(measurement: dict[str, Any]) -> str:
    """``3.74 % (2.10 % to 5.60 %)``: the value and its 95 % interval, unless it is exact."""
    value, low, high = (measurement[key] for key in ("value", "low", "high"))
    text = number(value, measurement["unit"])
    if low is None or low == high:
        return text
    return f"{text} ({number(low, measurement['unit'])} to {number(high, measurement['unit'])})"


def narrow(measurement: dict[str, Any]) -> str:
    """The same for a narrow column: the interval in a line of its own, its unit said once."""
    value, low, high = (measurement[key] for key in ("value", "low", "high"))
    text = number(value, measurement["unit"])
    if low is not None and low != high:
        unit = text.partition(" ")[2]
        ends = [number(end, measurement["unit"]) for end in (low, high)]
        if unit and all(end.endswith(f" {unit}") for end in ends):
            ends = [end.removesuffix(f" {unit}") for end in ends]
        text += f"<br>({ends[0]} to {ends[1]})"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def cell(text: object) -> str:
    """Text that cannot break out of a Markdown table cell."""
    plain = " ".join(str(text).split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds from two minutes on."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"

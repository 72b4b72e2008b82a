"""Runs every bench and writes bench/RESULTS.md: what was measured, on which machine, in one table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hubpub.measure.machine import machine

HERE = Path(__file__).parent
HEAD = """# Bench results

Written by `make bench`. Every bench runs its peers in turn in one run and gives medians; a ratio below 1 means that
hubpub takes less. What is timed, and how warm the page cache was, stands in the unit.

Machine: {machine}.

| bench | ours | peers | ratio | unit | sizes |
|---|---:|---|---|---|---|
"""


def main() -> None:
    """Run all, or those named on the command line; the rows of the others stay as they are."""
    results = HERE / "RESULTS.md"
    known = results.read_text("utf-8") if results.exists() and sys.argv[1:] else ""
    rows = {line.split(" | ")[0]: line for line in known.splitlines() if line.startswith("| ")}
    rows.pop("| bench", None)
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("run", "harness"))
    for name in names:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py")], stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout, end="", flush=True)
        line = row(json.loads(done.stdout.splitlines()[-1]))
        rows[line.split(" | ")[0]] = line
    here = machine()
    described = f"{here.cpu}, {here.cores} cores, {here.kernels}, {here.system}"
    results.write_text(HEAD.format(machine=described) + "\n".join(sorted(rows.values())) + "\n", "utf-8")


def row(result: dict[str, object]) -> str:
    """One line of the table."""

    def words(value: object, name: str = "") -> str:
        if isinstance(value, dict):
            inner = name if name.endswith("_bytes") else ""
            told = [f"{key.removesuffix('_bytes')} {words(each, inner or key)}" for key, each in value.items()]
            return (", " if inner else "; ").join(told)
        if name.endswith("_bytes") and isinstance(value, int):
            return f"{value / 1e6:,.0f} MB"
        return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    return "| " + " | ".join(words(result[key]) for key in ("name", "ours", "peer", "ratio", "units", "sizes")) + " |"


if __name__ == "__main__":
    main()

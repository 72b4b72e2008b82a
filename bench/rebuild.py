"""A build with nothing to do, beside starting the interpreter and importing what the build imports."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 7
ROOT = Path(__file__).parents[1]
RECIPE = "recipes/whisper-tiny.en.yaml"
IMPORTS = "import hubpub.build, hubpub.cli, yaml, jinja2, sqlite3"


def seconds(command: list[str]) -> float:
    """Wall time of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Build once, then build again and again."""
    build = [sys.executable, "-c", "from hubpub.cli import main; main()", "build", RECIPE, "--locked", "--quiet"]
    seconds(build)
    pairs = [(seconds(build), seconds([sys.executable, "-c", IMPORTS])) for _ in range(ROUNDS)]
    ours, imports = (statistics.median(column) for column in zip(*pairs, strict=True))
    line = {
        "name": "rebuild with nothing changed",
        "ours": round(ours, 3),
        "peer": {"interpreter and imports": round(imports, 3)},
        "ratio": {"interpreter and imports": round(ours / imports, 3)},
        "units": "s, median of whole processes, warm",
        "sizes": {"rounds": ROUNDS, "seconds_beyond_imports": round(ours - imports, 3)},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()

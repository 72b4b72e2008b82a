"""What benches share: each run in a process of its own, peers interleaved, medians, peak RSS with mapped pages.

A bench script calls `compare`, which starts the same script again with ``--run PEER``; there it calls `report`
around the one thing that is timed. Imports and setting up are not timed; the page cache is warm, because a round
that is not counted comes first.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    """Medians over the rounds of one peer."""

    seconds: float
    peak_bytes: int
    grown_bytes: int  # peak above what the process had before, imports done


def standin(folder: Path, scale: str = "full") -> Path:
    """Write the Parakeet encoder of the tests into ``folder``: structure and size of the real one, random weights."""
    script = Path(__file__).parents[1] / "tests" / "standins" / "parakeet.py"
    command = [sys.executable, str(script), "--out", str(folder), "--scale", scale, "--no-int8"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "encoder-model.onnx"


def model_bytes(model: Path) -> int:
    """Bytes of a model and its external data beside it."""
    return sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*"))


def peak_bytes() -> int:
    """Peak resident memory of this process so far, mapped pages counted."""
    if sys.platform == "linux":  # ru_maxrss would start from the parent's
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(work: Callable[[], object]) -> None:
    """Time ``work`` once in this process and print what `compare` reads."""
    at_rest = _status("VmRSS") if sys.platform == "linux" else peak_bytes()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": peak_bytes(), "grown": max(peak_bytes() - at_rest, 0)}))


def compare(
    script: str,
    peers: Sequence[str],
    arguments: Sequence[str],
    rounds: int,
    after: Callable[[], None],
    *,
    warm: bool = True,
    interpreters: Mapping[str, str] | None = None,
) -> dict[str, Run]:
    """Run every peer once per round, the peers in turn; ``after`` clears away what a run left.

    ``warm`` adds a round that is not counted; ``interpreters`` are those of peers with an environment of their own.
    """
    runs: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    for number in range(0 if warm else 1, rounds + 1):
        for peer in peers:
            os.sync()  # what an earlier run left to be written must not slow this one
            command = [(interpreters or {}).get(peer, sys.executable), script, "--run", peer, *arguments]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            after()
            if number:  # the first round warms the page cache
                runs[peer].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number} {peer}: {runs[peer][-1]['seconds']:.3f} s", file=sys.stderr)
    return {
        peer: Run(
            statistics.median(run["seconds"] for run in done),
            int(statistics.median(run["peak"] for run in done)),
            int(statistics.median(run["grown"] for run in done)),
        )
        for peer, done in runs.items()
    }


def _status(field: str) -> int:
    """A field of ``/proc/self/status`` in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024

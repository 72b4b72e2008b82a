"""What benches share: each run in a process of its own, peers interleaved, medians, peak RSS with mapped pages.

A bench script calls `compare`, which starts the same script again with ``--run PEER``; there it calls `report`
around the one thing that is timed. Imports and setting up are not timed; the page cache is warm, because a round
that is not counted comes first. `bench_model` does all that for benches whose input is one model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    """Medians over the rounds of one peer."""

    seconds: float
    peak_bytes: int
    grown_bytes: int  # peak above what the process had before, imports done


def standin(folder: Path, scale: str = "full") -> Path:
    """Write the Parakeet encoder of the tests into ``folder``: structure and size of the real one, random weights."""
    script = ROOT / "tests" / "standins" / "parakeet.py"
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
    read: Sequence[Path] = (),
    interpreters: Mapping[str, str] | None = None,
) -> dict[str, Run]:
    """Run every peer once per round, the peers in turn; ``after`` clears away what a run left.

    ``warm`` adds a round that is not counted; files in ``read`` are read before every run, so that all find them in the
    page cache; ``interpreters`` are those of peers with an environment of their own.
    """
    runs: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    for number in range(0 if warm else 1, rounds + 1):
        for peer in peers if number % 2 else reversed(peers):  # so that none always follows the same other
            os.sync()  # what an earlier run left to be written must not slow this one
            for path in read:
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 24):
                        pass
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


def bench_model(
    script: str,
    doc: str | None,
    peers: Sequence[str],
    run: Callable[[str, Path, Path], None],
    line: Callable[[dict[str, Run]], dict[str, object]],
) -> None:
    """The whole of a bench of one model: compare the peers, print a table, and one line of JSON last.

    Args:
        script: ``__file__`` of the bench.
        doc: its docstring, the help text.
        peers: what is compared.
        run: times one peer once, given its name, the model, and an empty folder.
        line: ``name``, ``ours``, ``peer``, ``ratio``, ``units``, and further ``sizes`` of the result.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--model", type=Path, help="default: the Parakeet stand-in at full size, 2.5 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; needs four times the size")
    parser.add_argument("--run", choices=peers, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, *options.paths)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        model, out = options.model or standin(Path(name) / "in"), Path(name) / "out"
        size = model_bytes(model)

        def clear() -> None:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()

        clear()
        runs = compare(script, peers, [str(model), str(out)], options.rounds, clear)
    for peer, result in runs.items():
        peak, grown = result.peak_bytes / 1e6, result.grown_bytes / 1e6
        print(f"{peer:20} {result.seconds:7.3f} s   peak {peak:7.0f} MB   over imports {grown:7.0f} MB")
    told = line(runs)
    sizes = {"model_bytes": size, "rounds": options.rounds, **cast(dict[str, object], told.pop("sizes"))}
    print(json.dumps({**told, "sizes": sizes}))


def _status(field: str) -> int:
    """A field of ``/proc/self/status`` in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024

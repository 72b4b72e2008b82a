"""What onnxruntime makes of a model when it loads it: the operations that are left, and the memory it takes.

Run in a process of its own, ``python -m hubpub.transform._runtime MODE MODEL``, so that neither the memory of a model
nor a crash of the runtime is that of the caller.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.errors import StepError

if TYPE_CHECKING:
    import onnx

_BULK = 1024  # bytes; larger tensors of the optimized model are not read back


@dataclass(frozen=True)
class Footprint:
    """Memory of a process that has loaded a model, bytes; ``base`` is what it had before, libraries included."""

    base: int
    loaded: int
    peak: int

    @property
    def added(self) -> int:
        """What the loaded model takes."""
        return self.loaded - self.base

    @property
    def peak_added(self) -> int:
        """What loading it took at most."""
        return self.peak - self.base


def optimized_ops(model: Path) -> Counter[str]:
    """The operations, by name, of the graph that onnxruntime runs on a CPU, subgraphs included.

    Raises:
        StepError: onnxruntime cannot load the model.
    """
    return Counter(_ask("ops", model))


def users_in_optimized(model: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """For each initializer in ``names`` the operations that take it in the graph that onnxruntime runs on a CPU.

    Raises:
        StepError: onnxruntime cannot load the model.
    """
    users: dict[str, Any] = _ask("users", model)
    return {name: list(users.get(name, [])) for name in names}


def load_footprint(model: Path) -> Footprint:
    """What memory onnxruntime needs to load a model, before it runs it; Linux only.

    Raises:
        StepError: onnxruntime cannot load the model.
    """
    return Footprint(**_ask("rss", model))


def open_session(model: Path, threads: int, where: str) -> Any:
    """A session of onnxruntime on the CPU, its operators on ``threads`` threads (0 = all cores).

    Raises:
        StepError: it does not load the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class of their own
        said = one_line(error).replace(str(model), model.name)
        raise StepError(
            f"onnxruntime does not load it: {said}",
            where=where,
            fix="operations that onnxruntime does not have, as those of a library of yours, cannot be run here",
        ) from error


def one_line(error: Exception) -> str:
    """The runtime's own words, which go over many lines."""
    return " ".join(str(error).split())[:300]


def _ask(mode: str, model: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "hubpub.transform._runtime", mode, str(model.resolve())],
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {"error": f"it ended with status {done.returncode}"}
    if error := answer.pop("error", None):
        raise StepError(f"onnxruntime does not load it: {error}", where=model.name, fix="report this")
    return answer


def main() -> None:
    """Load the model named on the command line and print what is asked for as JSON."""
    mode, model = sys.argv[1], Path(sys.argv[2])
    try:
        answer = {"ops": _ops, "users": _users, "rss": _rss}[mode](model)
    except Exception as error:  # whatever the runtime raises has to reach the caller as one line
        answer = {"error": one_line(error)}
    print(json.dumps(answer))


def _ops(model: Path) -> dict[str, Any]:
    return dict(sorted(Counter(node.op_type for node in _nodes(_optimized(model))).items()))


def _users(model: Path) -> dict[str, Any]:
    users: dict[str, list[str]] = {}
    for node in _nodes(_optimized(model)):
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)
    return users


def _optimized(model: Path) -> onnx.GraphProto:
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        written = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(written)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "bulk")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(_BULK))
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return onnx.load(written, load_external_data=False).graph


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _rss(model: Path) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    base = _status("VmRSS")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    answer = {"base": base, "loaded": _status("VmRSS"), "peak": _status("VmHWM")}
    del session
    return answer


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


if __name__ == "__main__":
    main()

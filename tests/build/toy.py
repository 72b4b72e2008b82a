"""A project that builds in seconds, offline: a small ONNX model, synthetic clips, a script without dependencies."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import soundfile
import yaml
from onnx import TensorProto, helper

from hubpub.build import Built, Silent, build
from hubpub.store import Store

ROOT = Path(__file__).parents[2]
RATE = 16_000

HEAD = """\
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""
BODY = '''\
"""Writes the model and its configuration."""

import json
import shutil
import sys
from pathlib import Path

shutil.copyfile("inputs/model.onnx", "outputs/model.onnx")
Path("outputs/config.json").write_text(json.dumps({"stride": int(sys.argv[1])}) + "\\n")
print("converted")
'''
CONVERT = HEAD + BODY


class Recorder:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.outcomes: dict[str, str] = {}
        self.notes: list[str] = []

    def start(self, name: str, what: str, total: int | None) -> None:
        self.started.append(name)

    def advance(self, count: int) -> None:
        assert count >= 0

    def end(self, name: str, outcome: str) -> None:
        self.ended.append(name)
        self.outcomes[name] = outcome

    def note(self, text: str) -> None:
        self.notes.append(text)


def write_model(path: Path, *, seed: int = 0, external: str | None = None) -> None:
    """Two convolutions over a waveform ``[1, n]``; with ``external`` their weights lie in the file of that name."""
    random = np.random.default_rng(seed)
    first = random.normal(scale=0.1, size=(16, 1, 400)).astype(np.float32)
    second = random.normal(scale=0.1, size=(8, 16, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "axis"], ["wide"]),
        helper.make_node("Conv", ["wide", "first"], ["x"], strides=[160]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Conv", ["y", "second"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, "n"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 8, "t"])],
        [
            onnx.numpy_helper.from_array(first, "first"),
            onnx.numpy_helper.from_array(second, "second"),
            onnx.numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if external is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=1024)


def write_clip(path: Path, seed: int, seconds: float = 0.4) -> None:
    """A chord that only this seed gives."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    waves = sum(np.sin(2 * np.pi * hertz * time) for hertz in random.uniform(80, 4000, size=5))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, (0.15 * np.asarray(waves)).astype(np.float32), RATE, subtype="PCM_16")


def recipe() -> dict[str, Any]:
    """The recipe as data, for a test to change."""
    via = {"client": "onnxruntime", "features": "waveform", "threads": 1}
    return {
        "version": 1,
        "name": "toy",
        "sources": {
            "data": {"path": "../data", "include": ["*.onnx", "*.txt"], "license": "apache-2.0"},
            "speech": {"path": "../speech", "include": ["*.wav"], "license": "cc0-1.0"},
        },
        "steps": {
            "convert": {
                "script": "scripts/convert.py",
                "inputs": {"model.onnx": "data/model.onnx"},
                "args": ["160"],
                "outputs": ["model.onnx", "config.json"],
            }
        },
        "files": {
            "model.onnx": "convert/model.onnx",
            "config.json": "convert/config.json",
            "notes.txt": "data/notes.txt",
            "sharded/model.onnx": {
                "from": "convert/model.onnx",
                "chain": [{"transform": "shard", "max_bytes": "26 kB", "alignment": 64}],
            },
        },
        "corpora": {
            "chords": {
                "role": "evaluation",
                "defaults": {"source": "made up for a test", "license": "CC0-1.0", "language": "en"},
                "clips": [{"audio": f"speech/chord{number}.wav", "title": f"Chord {number}"} for number in range(3)],
            },
            "tuning": {
                "role": "calibration",
                "defaults": {"source": "made up for a test", "license": "CC0-1.0"},
                "clips": [{"audio": "speech/tuning.wav"}],
            },
        },
        "measure": {
            "whole": {
                "files": ["model.onnx"],
                "via": {**via, "model": "model.onnx"},
                "corpus": "chords",
                "metrics": ["rtf", "latency", "download_size"],
            },
            "sharded": {
                "files": ["sharded/*"],
                "via": {**via, "model": "sharded/model.onnx"},
                "corpus": "chords",
                "metrics": ["cosine", "max_abs_diff", "load_time", "peak_rss"],
                "reference": "whole",
            },
        },
        "gates": [
            {"measure": "sharded/cosine", "min": 0.999, "min_n": 3},
            {"measure": "sharded/max_abs_diff", "max": 0},
            {"measure": "whole/rtf", "max": 1000},
        ],
        "card": {
            "template": "speech",
            "title": "Toy of 2 convolutions",
            "summary": "A model that 7 tests look at; its cosine is {{ measured['sharded/cosine'] }}.",
            "sections": {"Use": "Load `model.onnx` and give it 16 kHz audio.\n"},
            "license": "apache-2.0",
            "language": ["en"],
            "base_model": ["owner/toy"],
            "base_model_relation": "quantized",
            "library_name": "onnx",
            "pipeline_tag": "automatic-speech-recognition",
            "tags": ["onnx", "test"],
        },
    }


@dataclass
class Project:
    """A folder with ``recipes/``, ``templates/``, ``data/`` and ``speech/``."""

    folder: Path
    recipe: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / "recipes" / "toy.yaml"

    @property
    def script(self) -> Path:
        return self.folder / "recipes" / "scripts" / "convert.py"

    @property
    def requirements(self) -> Path:
        return self.script.with_suffix(".requirements.txt")

    def save(self) -> Path:
        """Write the recipe as it is now."""
        self.path.write_text(yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True, width=120))
        return self.path

    def line_of(self, text: str) -> int:
        """The first line of the recipe that holds ``text``."""
        lines = self.path.read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)

    def replace_script(self, body: str) -> None:
        """Another script after the same PEP 723 block."""
        self.script.write_text(HEAD + body)

    def without_measurements(self) -> Project:
        """Leave out audio, runs and gates: what is left builds in a fraction of the time."""
        self.recipe.update(corpora={}, measure={}, gates=[])
        del self.recipe["sources"]["speech"]
        self.recipe["card"]["summary"] = "Nothing is measured."
        self.save()
        return self

    def build(self, store: Path, output: Path | None = None, **options: Any) -> Built:
        """Build in this process, into ``dist/toy`` of the project."""
        reporter = options.pop("reporter", Silent())
        with Store(store) as opened:
            return build(self.path, opened, reporter, output=output or self.folder / "dist" / "toy", **options)


@dataclass
class Finished:
    """A project with a finished release in ``dist/toy``, and the store that it was built in."""

    project: Project
    store: Path
    built: Built

    @property
    def release(self) -> Path:
        return self.project.folder / "dist" / "toy"


def make_project(folder: Path, changed: dict[str, Any] | None = None) -> Project:
    """A new project; ``changed`` replaces whole sections of its recipe."""
    project = Project(folder, {**recipe(), **(changed or {})})
    for name in ("recipes/scripts", "templates", "data", "speech"):
        (folder / name).mkdir(parents=True)
    shutil.copyfile(ROOT / "templates" / "speech.md.j2", folder / "templates" / "speech.md.j2")
    project.script.write_text(CONVERT)
    project.requirements.write_text("")
    write_model(folder / "data" / "model.onnx")
    (folder / "data" / "notes.txt").write_text("kept byte for byte\r\n")
    for number in range(3):
        write_clip(folder / "speech" / f"chord{number}.wav", number)
    write_clip(folder / "speech" / "tuning.wav", 99)
    project.save()
    return project


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below ``folder``."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def environment(**changes: str) -> dict[str, str]:
    """Ours, for a hubpub of its own."""
    return {**os.environ, **changes}


def hubpub(*arguments: str | Path, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; both streams are pipes, so it is no terminal."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=120
    )


def command(*arguments: str | Path) -> list[str]:
    """What starts the command line with this interpreter."""
    return [sys.executable, "-c", "from hubpub.cli import main; main()", *map(str, arguments)]

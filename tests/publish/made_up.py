"""Releases made up in milliseconds, and a stage to publish them on: a Hub on loopback and a fresh client's home."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from warm import Command, start

from hubpub.localhub import LocalHub
from hubpub.manifest import CARD, MANIFEST, Digest, FileRecord, Manifest, Observed, SourceRecord
from hubpub.measure.measurement import Machine, Measurement

REPO = "tester/toy"
LFS = pytest.mark.parametrize("stage", ["lfs"], indirect=True)
"""For tests whose fixtures use ``stage`` though it does not matter to them how contents travel."""
MACHINE = Machine(cpu="a test's", kernels="none", cores=1, system="Linux")


def noise(seed: int, size: int = 70_000) -> bytes:
    """Bytes that no compression makes smaller, with a NUL early on, so that the Hub keeps them apart from git."""
    return (
        b"\0"
        + b"".join(hashlib.sha256(b"%d %d" % (seed, block)).digest() for block in range(size // 32 + 1))[: size - 1]
    )


FILES: dict[str, bytes] = {
    "model.bin": noise(1),
    "other/weights.bin": noise(2),
    "config.json": b'{"stride": 160}\n',
    "empty.txt": b"",
    "sub/ü ñ.txt": "grüße\n".encode(),
}


def figure(name: str, value: float, of: bytes, *, observed: bool = False, **more: Any) -> Measurement:
    """A measurement of ``run/name``, of ``model.bin`` with the bytes ``of``."""
    data: dict[str, Any] = {
        "run": "run",
        "metric": name,
        "value": value,
        "unit": "s" if observed else "ratio",
        "n": 100,
        "n_unit": "words",
        "interval": "none",
        "corpus": None,
        "artifacts": {"model.bin": hashlib.sha256(of).hexdigest()},
        "client": "a test",
        "versions": {},
        "machine": MACHINE,
        "observed": observed,
    }
    return Measurement.model_validate({**data, **more})


def make_release(
    folder: Path,
    files: Mapping[str, bytes] = FILES,
    *,
    wer: float = 0.05,
    seconds: float = 1.0,
    publish: Mapping[str, Any] | None = None,
    card: str = "A toy.",
) -> Path:
    """A whole release: ``files``, a recipe, one figure that is digested, one timing, a card that quotes both."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe: dict[str, Any] = {
        "version": 1,
        "name": "toy",
        "sources": {"data": {"path": "../data", "license": "apache-2.0"}},
        "files": {path: f"data/{path}" for path in files},
        "card": {
            "template": "speech",
            "title": "Toy",
            "summary": "A toy.",
            "license": "apache-2.0",
            "language": ["en"],
        },
    }
    if publish is not None:
        recipe["publish"] = dict(publish)
    front = yaml.safe_dump({"license": "apache-2.0", "language": ["en"]})
    template = Path(__file__).parents[2] / "templates" / "speech.md.j2"
    records = {
        "recipe/toy.yaml": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode(),
        "recipe/toy.lock": b"version: 1\n",
        "recipe/templates/speech.md.j2": template.read_bytes(),
    }
    observed = {
        CARD: f"---\n{front}---\n\n# Toy\n\n{card} {wer} in {seconds} s.\n".encode(),
        "measurements/run.timings.jsonl": json.dumps({"seconds": seconds}).encode() + b"\n",
    }
    for path, content in {**files, **records, **observed}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    manifest = Manifest(
        name="toy",
        recipe="recipe/toy.yaml",
        synthetic=False,
        partial=False,
        license="apache-2.0",
        sources={
            "data": SourceRecord(
                kind="path",
                name="../data",
                revision="0" * 64,
                license="apache-2.0",
                files={path: _digest(content) for path, content in files.items()},
            )
        },
        steps={},
        files={path: _record(content) for path, content in files.items()},
        records={path: _digest(content) for path, content in records.items()},
        corpora={},
        runs=("run",),
        measurements=(figure("wer", wer, files["model.bin"]),),
        verdicts=(),
        observed=Observed(
            hubpub="0",
            files={path: _digest(content) for path, content in observed.items()},
            steps={},
            measurements=(figure("rtf", seconds, files["model.bin"], observed=True),),
            verdicts=(),
        ),
    ).sealed()
    (folder / MANIFEST).write_text(manifest.text())
    return folder


def _digest(content: bytes) -> Digest:
    return Digest(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _record(content: bytes) -> FileRecord:
    return FileRecord(**_digest(content).model_dump(), made_by="data")


def listing(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file, as `LocalHub.files` gives them."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass
class Stage:
    """A Hub, a token, and a working folder; every command runs in a process of its own."""

    hub: LocalHub
    folder: Path
    xet: bool
    token: str = ""
    repo: str = REPO
    _homes: Iterable[int] = field(default_factory=itertools.count)

    def environment(self, **changes: str) -> dict[str, str]:
        """Ours without its Hub settings, with those of the stage and a fresh home of the client."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUBPUB_"))}
        mode = {} if self.xet else {"HF_HUB_DISABLE_XET": "1"}
        home = self.folder / f"home-{next(iter(self._homes))}"
        set_here = {"HF_ENDPOINT": self.hub.endpoint, "HF_TOKEN": self.token, "HF_HOME": str(home)}
        return {**plain, **mode, **set_here, "HUBPUB_TIMEOUT": "20", **changes}

    def run(self, *arguments: str | Path, code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run ``hubpub``; it must end with ``code`` and never with a traceback or the token."""
        running = self.start(*arguments, **changes)
        try:
            out, err = running.communicate(timeout=120)
        finally:
            running.kill()
        done = subprocess.CompletedProcess(arguments, running.returncode or 0, out, err)
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        assert not self.token or self.token not in said
        assert done.returncode == code, said
        return done

    def start(self, *arguments: str | Path, **changes: str) -> Command:
        """Start ``hubpub`` and go on, to interrupt it or to race it."""
        return start([*map(str, arguments)], self.folder, self.environment(**changes))

    def publish(self, release: Path, *options: str, code: int = 0, **changes: str) -> dict[str, Any]:
        """``hubpub publish --json``."""
        done = self.run("publish", release, "--repo", self.repo, "--json", *options, code=code, **changes)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def holds(self, release: Path, revision: str = "main", kept: Iterable[str] = ()) -> bool:
        """Whether ``revision`` is equal to ``release``, but for .gitattributes and what was kept."""
        there = self.hub.files(self.repo, revision)
        mine = listing(release)
        return {path: each for path, each in there.items() if path not in {".gitattributes", *kept}} == mine

    def sent(self) -> int:
        """Bytes of contents that the server received apart from commits, since the log was cleared."""
        routes = ("/xorbs/", "/_lfs/")
        return sum(each.bytes_in for each in self.hub.requests if any(route in each.path for route in routes))

    def commits_asked(self) -> int:
        """Commits that were asked for since the log was cleared."""
        return sum("/commit/" in each.path and each.method == "POST" for each in self.hub.requests)

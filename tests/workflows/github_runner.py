"""Runs a workflow as GitHub would, as far as ours go: every ``run`` block in bash, the six actions played here."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from github_expressions import condition, evaluate, interpolate


@dataclass
class JobRun:
    """What became of a job, or of one leg of its matrix."""

    name: str
    result: str
    steps: dict[str, str] = field(default_factory=dict)
    """Name (or the first line of what is run) → outcome."""
    log: str = ""
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass
class Runner:
    """One repository on GitHub: its artifacts live for one run, its caches from run to run.

    Args:
        workflow: the file.
        repository: the folder that `actions/checkout` gives.
        room: an empty folder.
        env: variables of every machine, beside those of GitHub.
        id_token: variables of the jobs that may ask for an id token.
    """

    workflow: Path
    repository: Path
    room: Path
    env: dict[str, str]
    id_token: dict[str, str]
    prepare: Callable[[Path], None]
    """Called with the folder of each checkout."""
    runs: int = 0

    def run(self, event: str, inputs: dict[str, str] | None = None) -> dict[str, list[JobRun]]:
        """All jobs, each after those that it needs."""
        self.runs += 1
        self.artifacts = self.room / f"artifacts-{self.runs}"
        self.artifacts.mkdir(parents=True)
        data = yaml.safe_load(self.workflow.read_text())
        triggers = data[True]  # YAML 1.1 reads `on` so
        assert event in triggers
        declared = (triggers["workflow_dispatch"] or {}).get("inputs", {}) if event == "workflow_dispatch" else {}
        given = {name: (inputs or {}).get(name, each["default"]) for name, each in declared.items()}
        assert set(inputs or {}) <= given.keys()
        self._shell = data["defaults"]["run"]["shell"]
        done: dict[str, list[JobRun]] = {}
        for name, job in data["jobs"].items():
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
            contexts = {
                "github": {"event_name": event, "run_id": str(self.runs)},
                "inputs": given,
                "needs": {each: _needed(done[each]) for each in needs},
            }
            done[name] = list(self._job(name, job, contexts))
        return done

    def _job(self, name: str, job: dict[str, Any], contexts: dict[str, Any]) -> Iterable[JobRun]:
        results = [each["result"] for each in contexts["needs"].values()]
        functions = _functions(all(each == "success" for each in results))
        if not condition(job.get("if", "success()"), contexts, functions):
            yield JobRun(name, "skipped")
            return
        legs: list[dict[str, str]] = [{}]
        if matrix := job.get("strategy", {}).get("matrix"):
            legs = evaluate(re.fullmatch(r"\$\{\{(.*)\}\}", matrix)[1], contexts, functions)["include"]  # type: ignore[index]
        for number, leg in enumerate(legs):
            yield self._leg(name, job, {**contexts, "matrix": leg}, self.room / f"run-{self.runs}-{name}-{number}")

    def _leg(self, name: str, job: dict[str, Any], contexts: dict[str, Any], machine: Path) -> JobRun:
        for folder in ("work", "home", "temp", "files"):
            (machine / folder).mkdir(parents=True)
        steps: dict[str, Any] = {}
        contexts = {**contexts, "steps": steps, "runner": {"temp": str(machine / "temp")}}
        done = JobRun(name, "success")
        env = {**self.env, "HOME": str(machine / "home"), "RUNNER_TEMP": str(machine / "temp"), "CI": "true"}
        env |= {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(machine / "work")}
        env |= self.id_token if job["permissions"].get("id-token") == "write" else {}
        for number, step in enumerate(job["steps"]):
            title = step.get("name") or step.get("uses") or step["run"].splitlines()[0]
            functions = _functions(done.result == "success")
            outputs: dict[str, str] = {}
            if not condition(step.get("if", "success()"), contexts, functions):
                outcome = "skipped"
            else:
                written = {**job.get("env", {}), **step.get("env", {})}
                mine = {key: interpolate(_written(value), contexts, functions) for key, value in written.items()}
                given = {
                    key: interpolate(_written(value), contexts, functions)
                    for key, value in step.get("with", {}).items()
                }
                if "run" in step:
                    assert "${{" not in step["run"]
                    outcome = self._block(step, number, {**env, **mine}, machine, done, outputs)
                else:
                    self._action(step["uses"], given, machine)
                    outcome = "success"
            done.steps[title] = outcome
            if "id" in step:
                steps[step["id"]] = {"outcome": outcome, "outputs": outputs}
            if outcome == "failure":
                done.result = "failure"
        for key, value in job.get("outputs", {}).items():
            done.outputs[key] = interpolate(value, contexts, _functions(True))
        return done

    def _block(
        self,
        step: dict[str, Any],
        number: int,
        env: dict[str, str],
        machine: Path,
        done: JobRun,
        outputs: dict[str, str],
    ) -> str:
        files = {name: machine / "files" / f"{number}-{name}" for name in ("OUTPUT", "STEP_SUMMARY", "ENV", "PATH")}
        for path in files.values():
            path.touch()
        script = machine / "files" / f"{number}.sh"
        script.write_text(step["run"])
        # GitHub's own two forms: with and without a shell named.
        flags = {"bash": ["--noprofile", "--norc", "-eo", "pipefail"], None: ["-e"]}[step.get("shell", self._shell)]
        ended = subprocess.run(
            ["bash", *flags, str(script)],
            cwd=machine / "work",
            env={**env, **{f"GITHUB_{name}": str(path) for name, path in files.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        done.log += f"$ {step['run'].splitlines()[0]}\n{ended.stdout}"
        done.summary += files["STEP_SUMMARY"].read_text()
        assert not files["ENV"].read_text()
        assert not files["PATH"].read_text()
        for line in files["OUTPUT"].read_text().splitlines():
            key, sign, value = line.partition("=")
            assert sign
            assert "<<" not in key
            outputs[key] = value
        return "success" if ended.returncode == 0 else "failure"

    def _action(self, uses: str, given: dict[str, str], machine: Path) -> None:
        action, _, revision = uses.partition("@")
        assert re.fullmatch("[0-9a-f]{40}", revision)
        match action:
            case "actions/checkout":
                assert given == {"persist-credentials": "false"}
                shutil.copytree(self.repository, machine / "work", dirs_exist_ok=True)
                self.prepare(machine / "work")
            case "actions/setup-python":
                pass
            case "actions/cache/restore":
                prefix = given["restore-keys"]
                caches = sorted((self.room / "caches").glob(f"{prefix}*"), key=lambda path: path.stat().st_mtime_ns)
                if caches:
                    shutil.copytree(caches[-1], _home(given["path"], machine), symlinks=True, dirs_exist_ok=True)
            case "actions/cache/save":
                shutil.copytree(_home(given["path"], machine), self.room / "caches" / given["key"], symlinks=True)
            case "actions/upload-artifact":
                assert given["if-no-files-found"] == "error"
                shutil.copytree(machine / "work" / given["path"], self.artifacts / given["name"])
            case "actions/download-artifact":
                assert given["merge-multiple"] == "true"
                for path in self.artifacts.iterdir():
                    if fnmatch.fnmatchcase(path.name, given["pattern"]):
                        shutil.copytree(path, Path(given["path"]), dirs_exist_ok=True)
            case _:
                raise ValueError(f"{action} is not played here")


def _written(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _needed(legs: list[JobRun]) -> dict[str, Any]:
    results = {leg.result for leg in legs}
    result = "failure" if "failure" in results else "success" if results == {"success"} else "skipped"
    return {"result": result, "outputs": {key: value for leg in legs for key, value in leg.outputs.items()}}


def _functions(good: bool) -> dict[str, Callable[..., Any]]:
    return {
        "success": lambda: good,
        "failure": lambda: not good,
        "always": lambda: True,
        "cancelled": lambda: False,
        "fromJSON": json.loads,
    }


def _home(path: str, machine: Path) -> Path:
    assert path.startswith("~/")
    return machine / "home" / path[2:]

"""The script step: a PEP 723 script, run in its own environment on declared inputs, for declared outputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

from hubpub.build.environment import (
    can_leave_network,
    check_requirements,
    launch_command,
    make_environment,
    read_header,
    run_script,
)
from hubpub.build.task import Inputs, Outcome, Room, Task
from hubpub.errors import StepError
from hubpub.recipe import ScriptStep
from hubpub.recipe.check import requirements_path
from hubpub.store import sha256_of


class ScriptTask(Task):
    """Runs a script of the recipe; its text and its pinned requirements are part of the key."""

    kind: ClassVar[str] = "script"

    def __init__(self, name: str, step: ScriptStep, folder: Path, inputs: Inputs, *, where: str) -> None:
        super().__init__(name, inputs, where=where, outputs=step.outputs)
        self.step = step
        self.script = folder / step.script
        self.requirements = folder / requirements_path(step.script, step.requirements)
        check_requirements(read_header(self.script, where=where), self.requirements, where=where)

    def identity(self) -> dict[str, Any]:
        """Text, requirements, arguments and the declared outputs."""
        return {
            "script": sha256_of(self.script).sha256,
            "requirements": sha256_of(self.requirements).sha256,
            "args": list(self.step.args),
            "outputs": sorted(self.step.outputs),
        }

    def run(self, room: Room) -> Outcome:
        """Run it.

        Raises:
            StepError: it failed, ran too long, or changed an input.
        """
        python = make_environment(self.requirements, room.store, where=self.where)
        desk = room.inputs.parent
        script = desk / self.script.name
        shutil.copyfile(self.script, script)
        for folder in ("home", "tmp"):
            (desk / folder).mkdir()
        for output in self.step.outputs:
            (room.outputs / output).parent.mkdir(parents=True, exist_ok=True)
        settings = {
            "PATH": f"{python.parent}:{os.defpath}",
            "HOME": str(desk / "home"),
            "TMPDIR": str(desk / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SOURCE_DATE_EPOCH": "315532800",
        }
        offline = can_leave_network()
        # -P: what lies beside the script is not in the key, so it must not be importable.
        command = launch_command(python, ["-s", "-P", str(script), *self.step.args], offline=offline)
        log = room.resume / "script.log"
        code = run_script(command, folder=desk, settings=settings, log=log, timeout=self.step.timeout_minutes * 60)
        if code != 0:
            raise StepError(_failure(code, log, self.step), where=self.where, fix=f"all it printed is in {log}")
        for name, digest in room.digests.items():
            if room.store.digest(room.inputs / name) != digest:
                raise StepError(f"the script changed its input {name}", where=self.where, fix="write to outputs/ only")
        return Outcome(observed={"network": "off" if offline else "not enforced"})


def _failure(code: int | None, log: Path, step: ScriptStep) -> str:
    if code is None:
        return f"the script was stopped after {step.timeout_minutes:g} minutes"
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    last = f": {lines[-1][:300]}" if lines else " and printed nothing"
    return f"the script was killed by signal {-code}{last}" if code < 0 else f"the script exited with {code}{last}"

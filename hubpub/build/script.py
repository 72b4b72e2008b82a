"""The script step: a PEP 723 script, run in its own environment on declared inputs, for declared outputs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

from hubpub.build.environment import check_requirements, make_environment, read_header
from hubpub.build.process import can_leave_network, last_line, run_process
from hubpub.build.task import Inputs, Outcome, Room, Task
from hubpub.errors import StepError, StoreError
from hubpub.recipe import ScriptStep
from hubpub.recipe.check import requirements_path
from hubpub.store.files import storage_errors

_FULL_BYTES = 64 << 10


class ScriptTask(Task):
    """Runs a script of the recipe; its text and its pinned requirements are part of the key."""

    kind: ClassVar[str] = "script"
    trusted: ClassVar[bool] = False

    def __init__(self, name: str, step: ScriptStep, folder: Path, inputs: Inputs, *, where: str) -> None:
        super().__init__(name, inputs, where=where, outputs=step.outputs)
        self.step = step
        # Read once: what is edited while a long build runs must not get into a key, a run or a release.
        self.script, self.requirements = step.script, requirements_path(step.script, step.requirements)
        with storage_errors("read the script"):
            self.texts = {path: (folder / path).read_bytes() for path in (self.script, self.requirements)}
        header = read_header(_text(self.texts[self.script]), Path(self.script).name, where=where)
        check_requirements(header, _text(self.texts[self.requirements]), Path(self.requirements).name, where=where)

    def identity(self) -> dict[str, Any]:
        """Text, requirements, arguments and the declared outputs."""
        return {
            "script": hashlib.sha256(self.texts[self.script]).hexdigest(),
            "requirements": hashlib.sha256(self.texts[self.requirements]).hexdigest(),
            "args": list(self.step.args),
            "outputs": sorted(self.step.outputs),
        }

    def run(self, room: Room) -> Outcome:
        """Run it.

        Raises:
            StepError: it failed, ran too long, or changed an input.
        """
        desk = room.inputs.parent
        for folder in ("home", "tmp", "script"):
            (desk / folder).mkdir()
        script, requirements = desk / "script" / Path(self.script).name, desk / "requirements.txt"
        script.write_bytes(self.texts[self.script])
        requirements.write_bytes(self.texts[self.requirements])
        python = make_environment(requirements, room.store, room.resume / "environment.log", where=self.where)
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
        log = room.resume / "script.log"
        code = run_process(
            # -P: what lies beside the script is not in the key, so it must not be importable.
            [str(python), "-s", "-P", str(script), *self.step.args],
            folder=desk,
            settings=settings,
            log=log,
            timeout=self.step.timeout_minutes * 60,
            offline=offline,
        )
        if code != 0 and shutil.disk_usage(desk).free < _FULL_BYTES:  # then it could not even print why
            fix = "free some space (`hubpub cache collect` removes what no recent build used) and run again"
            raise StoreError("the script failed, for no space is left on device", where=self.where, fix=fix)
        if code != 0:
            raise StepError(_failure(code, log, self.step), where=self.where, fix=f"all it printed is in {log}")
        for name, digest in room.digests.items():
            file = room.inputs / name
            if file.is_symlink() or not file.is_file() or room.store.digest(file) != digest:
                raise StepError(f"the script changed its input {name}", where=self.where, fix="write to outputs/ only")
        return Outcome(observed={"network": "off" if offline else "not enforced"})


def _failure(code: int | None, log: Path, step: ScriptStep) -> str:
    if code is None:
        return f"the script was stopped after {step.timeout_minutes:g} minutes"
    printed = last_line(log)
    said = f": {printed}" if printed else " and printed nothing"
    return f"the script was killed by {_signal(-code)}{said}" if code < 0 else f"the script exited with {code}{said}"


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace").replace("\r\n", "\n")

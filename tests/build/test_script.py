"""Script steps that misbehave: one clear line each, nothing half done, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from index_stub import IndexStub
from toy import BODY, CONVERT, Project, command, environment

from hubpub.build import verify_release
from hubpub.build.process import can_leave_network, run_process
from hubpub.errors import HubpubError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise SystemExit(7)", "the script exited with 7 and printed nothing"),
        ("print('first')\nprint('no weights here\\n')\nraise SystemExit(1)", "exited with 1: no weights here; all it"),
        ("raise ValueError('bad weights')", "exited with 1: ValueError: bad weights"),
        ("def f(:", "exited with 1: SyntaxError: invalid syntax"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV and printed nothing"),
        ("import os\nos.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("import os\nprint('x', flush=True)\nos.abort()", "was killed by SIGABRT: x"),
        ("pass", "did not write config.json, model.onnx"),
        ("open('outputs/config.json', 'w')", "did not write model.onnx"),
        (BODY + "Path('outputs/extra.bin').write_text('x')", "wrote more than it declared: extra.bin"),
        (BODY + "Path('outputs/a/b').mkdir(parents=True)\nPath('outputs/a/b/c').touch()", "declared: a/b/c"),
        (BODY + "import os\nos.symlink('/etc/passwd', 'outputs/link')", "wrote link, which is not a regular file"),
        (BODY + "import os\nos.symlink('/etc', 'outputs/link')", "wrote link, which is not a regular file"),
        (BODY + "import os\nos.mkfifo('outputs/pipe')", "wrote pipe, which is not a regular file"),
        (
            BODY + "import os\nos.remove('outputs/config.json')\nos.symlink('model.onnx', 'outputs/config.json')",
            "wrote config.json, which is not a regular file",
        ),
        (
            BODY + "shutil.rmtree('outputs')\nimport os\nos.symlink('/etc', 'outputs')",
            "replaced its folder outputs/ by something else",
        ),
        (BODY + "shutil.rmtree('outputs')\nPath('outputs').touch()", "replaced its folder outputs/"),
        (BODY + "open('inputs/model.onnx', 'ab').write(b'x')", "the script changed its input model.onnx"),
        (BODY + "Path('inputs/model.onnx').unlink()", "the script changed its input model.onnx"),
        (BODY + "import os\nos.rename('inputs/model.onnx', 'x')\nos.symlink('x', 'inputs/model.onnx')", "its input"),
    ],
)
def test_a_script_that_misbehaves(step: Callable[..., str], body: str, says: str) -> None:
    assert says in step(body)


def test_all_that_a_failed_script_printed_can_be_read(step: Callable[..., str]) -> None:
    line = step("for number in range(5000): print('line', number)\nraise SystemExit(1)")
    log = Path(line.rpartition("all it printed is in ")[2])
    assert log.read_text().splitlines()[0::4999] == ["line 0", "line 4999"]


def test_a_script_that_prints_gigabytes_of_rubbish_costs_no_memory(step: Callable[..., str]) -> None:
    line = step("import sys\nsys.stdout.buffer.write(b'\\xff\\x1b[31m' * (8 << 20))\nraise SystemExit(1)")
    assert len(line) < 2000


def test_a_script_that_takes_too_long(step: Callable[..., str]) -> None:
    began = time.monotonic()
    line = step("import time\ntime.sleep(60)", timeout_minutes=0.01)
    assert "the script was stopped after 0.01 minutes" in line
    assert time.monotonic() - began < 10


def test_a_script_that_takes_too_long_and_ignores_signals(step: Callable[..., str]) -> None:
    body = "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)"
    assert "was stopped after" in step(body, timeout_minutes=0.01)


def test_a_script_sees_neither_tokens_nor_its_neighbours(
    step: Callable[..., str], small: tuple[Project, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    monkeypatch.setenv("PYTHONPATH", str(small[0].script.parent))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    line = step("import os\nprint(sorted(os.environ))\nraise SystemExit(1)")
    assert "HF_TOKEN" not in line
    assert "AWS" not in line
    assert "PYTHONPATH" not in line
    (small[0].script.parent / "neighbour.py").write_text("raise SystemExit(0)")
    assert "No module named 'neighbour'" in step("import neighbour")
    assert "No module named 'numpy'" in step("import numpy")
    assert "No module named 'hubpub'" in step("import hubpub")


def test_a_script_has_an_empty_standard_input_and_a_home_of_its_own(step: Callable[..., str]) -> None:
    line = step(
        "import os, sys, tempfile, pathlib\n"
        "here = pathlib.Path.cwd()\n"
        "print(sys.stdin.read() == '', pathlib.Path.home() == here / 'home')\n"
        "assert tempfile.gettempdir() == str(here / 'tmp')\n"
        "raise SystemExit(1)"
    )
    assert "exited with 1: True True;" in line


@pytest.mark.skipif(not can_leave_network(), reason="no user namespaces here")
def test_a_script_has_no_network(step: Callable[..., str]) -> None:
    with IndexStub({}) as server:
        port = server.url.rpartition(":")[2]
        body = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5)"
        assert "Network is unreachable" in step(body) or "Cannot assign" in step(body)
        assert server.log == []


def test_the_manifest_says_whether_the_network_was_off(
    project: Project, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubpub.build.script.can_leave_network", lambda: False)
    assert project.without_measurements().build(store).manifest.observed.steps["convert"]["network"] == "not enforced"


# -- what is left running


SPAWN = """
import os, subprocess, sys, time
for session in (False, True):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", "{mark}"], start_new_session=session)
if os.fork() == 0:  # a daemon as of old: two forks and a session
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(300)", "{mark}"])
    os._exit(0)
time.sleep({seconds})
"""


def _marked(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def _until(condition: Callable[[], object], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@LINUX
@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "os.kill(os.getpid(), 9)"])
def test_what_a_script_leaves_running_is_ended(step: Callable[..., str], tmp_path: Path, ending: str) -> None:
    mark = f"left-by-{tmp_path}-{ending}"
    step(SPAWN.format(mark=mark, seconds=0.3) + ending)
    assert _marked(mark) == []


@LINUX
def test_what_a_stopped_script_started_is_ended(step: Callable[..., str], tmp_path: Path) -> None:
    mark = f"left-by-{tmp_path}"
    step(SPAWN.format(mark=mark, seconds=60), timeout_minutes=0.02)
    assert _marked(mark) == []


@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_when_hubpub_ends_its_script_and_all_its_children_end(project: Project, store: Path, number: int) -> None:
    mark = f"left-by-{project.without_measurements().folder}"
    project.replace_script(SPAWN.format(mark=mark, seconds=60))
    process = subprocess.Popen(
        command("build", project.path, "--cache", store, "--output", project.folder / "out"),
        env=environment(PYTHONFAULTHANDLER="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert _until(lambda: len(_marked(mark)) == 3, 30)
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it says where it hangs
        pytest.fail(process.communicate()[1])
    assert _until(lambda: _marked(mark) == [])
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert said.splitlines()[-1].startswith("hubpub: interrupted; what was done is kept")
        assert "Traceback" not in said
        assert list((store / "scratch").iterdir()) == []
    project.script.write_text(CONVERT)
    assert verify_release(project.build(store, project.folder / "out").folder)
    assert list((store / "scratch").iterdir()) == []


def test_the_launcher_ends_as_its_command_does(tmp_path: Path) -> None:
    def run(code: str, timeout: float | None = None) -> int | None:
        arguments = [sys.executable, "-c", code]
        return run_process(arguments, folder=tmp_path, settings=os.environ, log=tmp_path / "log", timeout=timeout)

    assert run("pass") == 0
    assert [run(f"raise SystemExit({code})") for code in (1, 42, 97, 255)] == [1, 42, 97, 255]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGHUP):
        reset = (
            f"import os, signal; signal.signal({number:d}, signal.SIG_DFL); "
            if number != signal.SIGKILL
            else "import os; "
        )
        assert run(f"{reset}os.kill(os.getpid(), {number:d})") == -number
    assert run("import time; time.sleep(60)", timeout=0.3) is None
    assert run_process([str(tmp_path / "none")], folder=tmp_path, settings={}, log=tmp_path / "log") == 97
    assert "No such file" in (tmp_path / "log").read_text()


def test_a_script_that_is_gone_is_a_problem_of_the_recipe(small: tuple[Project, Path]) -> None:
    project, store = small
    project.script.rename(project.script.with_suffix(".away"))
    try:
        with pytest.raises(HubpubError, match="is not a file beside the recipe"):
            project.build(store)
    finally:
        project.script.with_suffix(".away").rename(project.script)

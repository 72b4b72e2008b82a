"""Script steps that misbehave: one clear line each, nothing half done, nothing left running."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archives import make_zip
from index_stub import IndexStub
from toy import BODY, CONVERT, HEAD, Project, command, environment, make_project

from hubpub.build import verify_release
from hubpub.build.process import can_leave_network, run_process
from hubpub.errors import HubpubError, StepError
from hubpub.manifest import read_manifest
from hubpub.store import Store

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """A project with the script step alone, and a store in which its environment exists."""
    folder = tmp_path_factory.mktemp("scripts")
    project = make_project(folder / "project").without_measurements()
    project.recipe["files"] = {"model.onnx": "convert/model.onnx", "config.json": "convert/config.json"}
    project.save()
    project.build(folder / "store")
    return project, folder / "store"


@pytest.fixture
def step(small: tuple[Project, Path]) -> Iterator[Callable[..., str]]:
    """Build with another script, which must fail; gives the line that the user reads."""
    project, store = small
    before = read_manifest(project.folder / "dist" / "toy")

    def run(body: str | bytes, **options: object) -> str:
        """``body`` as bytes is the whole script, as text what follows a good header."""
        project.recipe["steps"]["convert"].update(options)
        project.save()
        project.script.write_bytes(body if isinstance(body, bytes) else (HEAD + body).encode())
        with pytest.raises(StepError) as caught:
            project.build(store)
        line = str(caught.value)
        assert len(line.splitlines()) == 1
        place = project.line_of("convert:")
        assert line.startswith(f"{project.path}:{place}:3: steps.convert: "), line
        assert caught.value.exit_code == 1
        return line

    yield run
    project.recipe["steps"]["convert"].pop("timeout_minutes", None)
    project.script.write_text(CONVERT)
    project.requirements.write_text("")
    project.save()
    assert verify_release(project.folder / "dist" / "toy") == before
    with Store(store) as opened:
        assert list(opened.verify()) == []
    assert list((store / "scratch").iterdir()) == []


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


# -- its header and its requirements


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("print('no block')", "convert.py has no PEP 723 block; start it with `# /// script`"),
        ("", "convert.py has no PEP 723 block"),
        ("# /// script\n# dependencies = []\n", "convert.py has no PEP 723 block"),
        (CONVERT + "\n# /// script\n# dependencies = []\n# ///\n", "convert.py has more than one PEP 723 block"),
        ("# /// script\n# dependencies = [\n# ///\n", "the PEP 723 block of convert.py is not valid: "),
        ("# /// script\n# dependencies = 'numpy'\n# ///\n", "is not valid: dependencies is not a list of texts"),
        ("# /// script\n# dependencies = [1]\n# ///\n", "is not valid: dependencies is not a list of texts"),
        ("# /// script\n# requires-python = 3\n# ///\n", "is not valid: requires-python is not a text"),
        ("# /// script\n# requires-python = 'snake'\n# ///\n", "is not valid: Invalid specifier: 'snake'"),
        ("# /// script\n# dependencies = ['a b c']\n# ///\n", "is not valid: "),
        ("# /// script\n# requires-python = '>=4'\n# ///\n", "convert.py needs Python >=4, this is 3."),
        ("# /// script\n# requires-python = '<3.11'\n# ///\n", "convert.py needs Python <3.11, this is 3."),
        ("# /// script\n# dependencies = ['numpy']\n# ///\n", "convert.requirements.txt does not pin numpy"),
        ("# /// script\n# dependencies = ['Six>=2']\n# ///\n", "convert.requirements.txt does not pin Six>=2"),
        (b"\xff\xfe\x00", "has no PEP 723 block"),
    ],
)
def test_a_header_that_cannot_be(
    step: Callable[..., str], small: tuple[Project, Path], text: str | bytes, says: str
) -> None:
    project = small[0]
    project.requirements.write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")
    assert says in step(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("header", ["six", "six==1.17.0", "six>=1 ; python_version>'3'", "numpy; python_version<'3'"])
def test_a_header_that_its_requirements_answer(small: tuple[Project, Path], header: str) -> None:
    from hubpub.build.environment import check_requirements, read_header

    text = f'# /// script\n# dependencies = ["{header}"]\n# ///\n'
    pins = (
        "# by uv\n\nSIX==1.17.0 \\\n    --hash=sha256:" + "0" * 64 + " \\\n    --hash=sha256:" + "1" * 64 + "\n"
        "    # via nobody\nsix==0.1 ; python_version < '3' --hash=sha256:" + "2" * 64 + "\n"
    )
    check_requirements(read_header(text, "s.py", where="w"), pins, "s.requirements.txt", where="w")


@pytest.mark.parametrize(
    "line",
    [
        "six",
        "six>=1.0 --hash=sha256:" + "0" * 64,
        "six==1.17.0",
        "six==1.* --hash=sha256:" + "0" * 64,
        "six==1.17.0 --hash=sha256:abc",
        "six==1.17.0 --hash=md5:" + "0" * 32,
        "six==1.17.0 # --hash=sha256:" + "0" * 64,
        "six @ file:///six.whl --hash=sha256:" + "0" * 64,
        "-r other.txt",
        "--index-url http://localhost/simple",
        "-e .",
        "./six.whl",
        "six==1.17.0 ; nonsense == 'x' --hash=sha256:" + "0" * 64,
        "\xff\x00",
    ],
)
def test_requirements_that_are_not_pinned(step: Callable[..., str], small: tuple[Project, Path], line: str) -> None:
    small[0].requirements.write_bytes(line.encode("latin-1") + b"\n")
    said = step("pass")
    assert "convert.requirements.txt: " in said
    assert "is not pinned by version and hash" in said or "is not a requirement" in said
    assert "uv pip compile --universal --generate-hashes" in said


def _wheel(name: str, version: str, body: str) -> bytes:
    info = f"{name}-{version}.dist-info"
    return make_zip(
        [
            (f"{name}.py", body.encode()),
            (f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()),
            (f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            (f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n".encode()),
        ]
    )


def _use_dependency(project: Project, sha256: str) -> None:
    project.without_measurements()
    project.script.write_text('# /// script\n# dependencies = ["toydep"]\n# ///\nimport toydep\n' + BODY)
    project.requirements.write_text(f"toydep==1.0 --hash=sha256:{sha256}\n")


def test_a_dependency_comes_from_the_users_index_into_an_environment_of_its_own(
    project: Project, store: Path, pip_index: Callable[[str], None]
) -> None:
    wheel = _wheel("toydep", "1.0", "value = 1\n")
    with IndexStub({"toydep-1.0-py3-none-any.whl": wheel}) as index:
        pip_index(index.simple)
        _use_dependency(project, hashlib.sha256(wheel).hexdigest())
        built = project.build(store)
        assert index.asked_for(".whl")
    assert (
        built.manifest.steps["convert"].identity["requirements"]
        == built.manifest.records["recipe/scripts/convert.requirements.txt"].sha256
    )
    asked = len(index.log)
    project.recipe["steps"]["convert"]["args"] = ["9"]
    project.save()
    assert project.build(store).ran == ("convert",)
    assert len(index.log) == asked, "an environment is made once"


@pytest.mark.parametrize(("files", "says"), [(True, "ash mismatch"), (False, "toydep")])
def test_a_dependency_that_cannot_be_had(
    project: Project, store: Path, pip_index: Callable[[str], None], files: bool, says: str
) -> None:
    wheel = _wheel("toydep", "1.0", "value = 1\n")
    with IndexStub({"toydep-1.0-py3-none-any.whl": wheel} if files else {}) as index:
        pip_index(index.simple)
        _use_dependency(project, "0" * 64)
        with pytest.raises(StepError, match=f"steps.convert: its environment cannot be made: .*{says}") as caught:
            project.build(store)
    assert len(str(caught.value).splitlines()) == 1
    assert not (project.folder / "dist" / "toy").exists()
    project.script.write_text(CONVERT)
    project.requirements.write_text("")
    assert project.build(store)


def test_a_script_that_is_gone_is_a_problem_of_the_recipe(small: tuple[Project, Path]) -> None:
    project, store = small
    project.script.rename(project.script.with_suffix(".away"))
    try:
        with pytest.raises(HubpubError, match="is not a file beside the recipe"):
            project.build(store)
    finally:
        project.script.with_suffix(".away").rename(project.script)

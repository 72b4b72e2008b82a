"""On a terminal: bars while it works, lines for what is done, and a terminal in order at the end."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import BODY, HEAD, Project, command, environment

from hubpub.cli.progress import Bars, Lines

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def _on_a_terminal(arguments: list[str], until: Callable[[str], bool] | None = None) -> tuple[int, str]:
    """Exit code and all that the terminal got; Ctrl-C is sent once ``until`` says so."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        arguments,
        env=environment(TERM="xterm-256color", COLUMNS="100", LINES="30", PYTHONUTF8="1"),
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    text, sent, end = "", False, time.monotonic() + 60
    with contextlib.suppress(OSError):  # the other end is closed
        while time.monotonic() < end and (data := os.read(leader, 65536)):
            text += data.decode("utf-8", errors="replace")
            if until is not None and not sent and until(text):
                process.send_signal(signal.SIGINT)
                sent = True
    os.close(leader)
    return process.wait(10), text


def _plain(text: str) -> list[str]:
    return [
        line.strip()
        for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", text).replace("\r", "\n").splitlines()
        if line.strip()
    ]


def test_bars_appear_and_end_cleanly(project: Project, store: Path) -> None:
    project.without_measurements()
    project.replace_script("import time\ntime.sleep(0.5)\n" + BODY)
    code, text = _on_a_terminal(command("build", project.path, "--cache", store, "-o", project.folder / "out"))
    assert code == 0, text
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    lines = _plain(text)
    assert [line.split()[1] for line in lines if line.startswith("✓")] == [
        *("data", "data", "convert", "files/sharded/model.onnx#1", "release")
    ]
    assert any("convert  script" in line and "✓" not in line for line in lines), "a bar was shown"
    assert lines[-1].startswith("finished: ")
    assert text.rstrip().endswith("fetched")


def test_ctrl_c_leaves_the_terminal_in_order(project: Project, store: Path) -> None:
    project.without_measurements()
    project.replace_script("import time\ntime.sleep(60)\n")
    code, text = _on_a_terminal(
        command("build", project.path, "--cache", store, "-o", project.folder / "out"),
        lambda text: "convert  script" in text,
    )
    assert code == 130
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    assert _plain(text)[-1] == "hubpub: interrupted; what was done is kept, the same command goes on from there"
    assert "Traceback" not in text


def test_an_error_leaves_the_terminal_in_order(project: Project, store: Path) -> None:
    project.without_measurements()
    project.script.write_text(HEAD + "raise SystemExit('no [bold]weights[/bold]')")
    code, text = _on_a_terminal(command("build", project.path, "--cache", store, "-o", project.folder / "out"))
    assert code == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    assert "steps.convert: the script exited with 1: no [bold]weights[/bold]" in _plain(text)[-1]


@pytest.mark.parametrize("make", [Lines, Bars])
def test_reporters_take_any_order_that_a_build_gives(
    make: type[Lines] | type[Bars], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as stack:
        reporter = make()
        if isinstance(reporter, Bars):
            stack.enter_context(reporter)
        reporter.start("a [red]", "fetch", 100)
        reporter.advance(60)
        reporter.advance(60)  # more than was announced
        reporter.end("a [red]", "done [/red]")
        reporter.note("a note [x]")
        reporter.start("b", "script", None)
        reporter.advance(5)
        reporter.end("b", "2 files")
    said = capsys.readouterr().err
    for part in ("a [red]", "done [/red]", "a note [x]", "2 files"):
        assert part in said

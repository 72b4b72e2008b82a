"""Every verb: help at once, JSON or silence on request, one line per problem, and an exit code that says which kind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from archives import make_zip
from index_stub import IndexStub
from toy import Finished, Project, command, environment, tree

from hubpub import __version__
from hubpub.card.figures import size
from hubpub.cli import _printable, app
from hubpub.recipe import lock_path
from hubpub.store import Store

Run = Callable[..., Any]

HEAVY = {
    *("numpy", "onnx", "onnxruntime", "onnx_asr", "onnx_ir", "soundfile", "soxr", "jiwer", "scipy", "huggingface_hub"),
    *("yaml", "jinja2", "rich", "unearth", "httpx2", "packaging", "sqlite3", "asyncio", "multiprocessing"),
}


def _verbs() -> Iterator[tuple[tuple[str, ...], Any]]:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, verb in group.commands.items():
            if hasattr(verb, "commands"):
                yield from walk(verb, (*path, name))
            else:
                yield (*path, name), verb

    yield from walk(typer.main.get_command(app), ())


VERBS = dict(_verbs())


WITH_A_HUB = {("diff",), ("publish",), ("revert",), ("hub", "serve")}
"""These are run in tests/publish and tests/localhub."""


def _with_option(option: str) -> list[tuple[str, ...]]:
    return [name for name, verb in VERBS.items() if any(option in parameter.opts for parameter in verb.params)]


def test_these_are_the_verbs() -> None:
    assert {" ".join(name) for name in VERBS} >= {
        *("check", "plan", "lock", "build", "verify", "schema", "cache list", "cache verify", "cache collect")
    }
    assert set(_with_option("--json")) == VERBS.keys() - {("schema",)}
    assert set(_with_option("--quiet")) == VERBS.keys() - {("schema",), ("cache", "list"), ("diff",), ("hub", "serve")}


@pytest.mark.parametrize("name", [(), ("cache",), *VERBS], ids=" ".join)
def test_help_is_instant_and_shows_an_example(name: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from hubpub.cli import main\n"
        "sys.argv = ['hubpub', *sys.argv[1:], '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *name], capture_output=True, text=True, check=True)
    text, _, modules = done.stdout.partition("MODULES ")
    assert text.startswith("Usage: ")
    assert {module.partition(".")[0] for module in modules.split()} & HEAVY == set()
    ours = {
        module for module in modules.split() if module.startswith("hubpub.") and not module.startswith("hubpub.cli")
    }
    assert ours <= {"hubpub.errors", "hubpub.report"}
    if name in VERBS:
        assert f"Example: hubpub {' '.join(name)}" in text


def test_every_option_is_explained() -> None:
    for name, verb in VERBS.items():
        for parameter in verb.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name}"


def test_the_version(run: Run) -> None:
    assert run("--version").out == f"hubpub {__version__}\n"


# -- JSON and silence


def _arguments(name: tuple[str, ...], finished: Finished) -> list[str | Path]:
    cache: list[str | Path] = ["--cache", finished.store]
    arguments: dict[tuple[str, ...], list[str | Path]] = {
        ("check",): [finished.project.path],
        ("plan",): [finished.project.path, *cache],
        ("lock",): [finished.project.path, *cache],
        ("outdated",): [finished.project.path, *cache],
        ("build",): [finished.project.path, *cache, "--output", finished.release],
        ("verify",): [finished.release],
        ("eval",): [
            finished.release,
            "--recipe",
            finished.project.path,
            *cache,
            "--output",
            finished.release.parent / "evaluated",
        ],
        ("compare",): [finished.release, finished.release, *cache],
        ("cache", "list"): cache,
        ("cache", "verify"): cache,
        ("cache", "collect"): cache,
        ("hub", "seed"): [finished.release, "tester/toy", "--root", finished.store.parent / "hub"],
        ("schema",): [],
    }
    return [*name, *arguments[name]]


@pytest.mark.parametrize("name", sorted(set(_with_option("--json")) - WITH_A_HUB), ids=" ".join)
def test_json_is_one_document(run: Run, copied: Finished, name: tuple[str, ...]) -> None:
    said = run(*_arguments(name, copied), "--json")
    assert (said.code, said.err) == (0, "")
    assert isinstance(json.loads(said.out), dict)


@pytest.mark.parametrize("name", sorted(set(_with_option("--quiet")) - WITH_A_HUB), ids=" ".join)
def test_quiet_prints_nothing(run: Run, copied: Finished, name: tuple[str, ...]) -> None:
    said = run(*_arguments(name, copied), "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")


@pytest.mark.parametrize("name", sorted(VERBS.keys() - WITH_A_HUB), ids=" ".join)
def test_without_options_something_is_said_on_standard_output(
    run: Run, copied: Finished, name: tuple[str, ...]
) -> None:
    said = run(*_arguments(name, copied))
    assert said.code == 0
    assert said.out.strip()


def test_the_schema_is_a_schema(run: Run) -> None:
    schema = json.loads(run("schema").out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"version", "name", "sources", "files", "card"} <= schema["properties"].keys()


def test_what_a_build_says(run: Run, copied: Finished) -> None:
    said = run("build", copied.project.path, "--cache", copied.store, "--output", copied.release, "--json")
    data = json.loads(said.out)
    assert data["digest"] == copied.built.manifest.digest
    assert data["release"] == str(copied.release)
    assert (data["ran"], data["unchanged"], data["bytes_fetched"], data["same_as_release"]) == ([], True, 0, None)
    assert data["files"]["notes.txt"] == 20
    assert [each["passed"] for each in data["budgets"]] == [True, True, True]
    text = run("build", copied.project.path, "--cache", copied.store, "--output", copied.release).out.splitlines()
    assert text[0] == "budget met: sharded/cosine: at least 0.999: 1 cosine, n = 3 utterances, within the budget"
    total = size(sum(data["files"].values()))
    assert text[-1] == f"unchanged: {copied.release}, 6 files, {total}; 0 steps run, 9 cached, 0 B fetched"


def test_progress_in_plain_lines_when_this_is_no_terminal(run: Run, copied: Finished) -> None:
    copied.project.recipe["steps"]["convert"]["args"] = ["4"]
    copied.project.save()
    said = run("build", copied.project.path, "--cache", copied.store, "--output", copied.release)
    assert said.code == 0
    lines = said.err.splitlines()
    assert lines[0].startswith("convert: script, 27.4 kB")
    assert re.fullmatch(r"convert: 2 files, 27,4\d\d bytes, \d\.\d s", lines[1])
    assert [line.partition(":")[0] for line in lines] == ["convert", "convert", "release", "release"]
    assert "\x1b" not in said.err
    assert "\r" not in said.err


# -- errors


def _gate(project: Project) -> None:
    project.recipe["gates"] = [{"measure": "sharded/cosine", "min": 1.5}, {"measure": "sharded/max_abs_diff", "min": 1}]


def _three_problems(project: Project) -> None:
    project.recipe["files"]["notes.txt"] = "data2/notes.txt"
    project.recipe["gates"][2]["measure"] = "whole/rft"
    project.recipe["card"]["template"] = "nothing"


def _failing_script(project: Project) -> None:
    project.replace_script("raise SystemExit('\\x1b[31mno\\x1b[0m weights\\a')")


def _stale(project: Project) -> None:
    project.recipe["sources"]["data"]["include"] = ["*"]


@pytest.mark.parametrize(
    ("change", "code", "lines"),
    [
        (
            _gate,
            3,
            ["budget missed: sharded/cosine", "budget missed: sharded/max_abs_diff", "{path}: no release was made"],
        ),
        (_three_problems, 2, ["{path}:", "{path}:", "{path}:"]),
        (_failing_script, 1, ["{path}:16:3: steps.convert: the script exited with 1: no weights"]),
        (_stale, 2, ["{lock}: does not answer the recipe for: data; run `hubpub lock`"]),
    ],
)
def test_errors_are_lines_on_standard_error(
    run: Run, copied: Finished, change: Callable[[Project], None], code: int, lines: list[str]
) -> None:
    before = tree(copied.release)
    change(copied.project)
    path = copied.project.save()
    arguments = ("build", path, "--cache", copied.store, "--output", copied.release, "--locked", "--quiet")
    said = run(*arguments)
    assert (said.code, said.out) == (code, "")
    found = said.err.splitlines()
    assert len(found) == len(lines), said.err
    for line, beginning in zip(found, lines, strict=True):
        assert line.startswith("hubpub: " + beginning.format(path=path, lock=lock_path(path))), line
    assert said.err.replace("\n", "").isprintable()
    assert tree(copied.release) == before
    as_json = run(*arguments[:-1], "--json")
    assert as_json.code == code
    document = json.loads(as_json.out)
    assert (document["ok"], document["exit_code"]) == (False, code)
    assert [f"hubpub: {line}" for line in document["errors"]] == as_json.err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("build",), 2, "Missing argument 'RECIPE'"),
        (("build", "none.yaml"), 2, "hubpub: none.yaml: cannot be read: No such file or directory"),
        (("build", "."), 1, "hubpub: .: is not a release: it holds no hubpub.json"),
        (("build", "hf://nonsense"), 1, "hubpub: hf://nonsense: is not hf://OWNER/REPO or hf://OWNER/REPO@REVISION"),
        (("verify", "none"), 1, "hubpub: none: is not a release: it holds no hubpub.json"),
        (("verify", sys.executable), 1, "cannot be read: Not a directory"),
        (("check", "none.yaml"), 2, "hubpub: none.yaml: cannot be read"),
        (("check", "."), 2, "hubpub: .: cannot be read: Is a directory"),
        (("plan", "none.yaml"), 2, "hubpub: none.yaml: cannot be read"),
        (("lock", "none.yaml"), 2, "hubpub: none.yaml: cannot be read"),
        (("cache", "list", "--cache", "/dev/null/x"), 1, "hubpub: "),
        (("cache", "collect", "--unused-for", "-1"), 2, "Invalid value"),
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("build", "--nonsense"), 2, "No such option: --nonsense"),
    ],
)
def test_exit_codes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, says: str
) -> None:
    monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path / "cache"))
    said = run(*arguments)
    assert said.code == code
    assert says in said.err
    assert said.out == ""
    assert "Traceback" not in said.err


def test_check_tells_all_problems_in_text_and_in_json(run: Run, project: Project) -> None:
    _three_problems(project)
    path = project.save()
    said = run("check", path)
    assert said.code == 2
    assert len(said.err.splitlines()) == 3
    said = run("check", path, "--json")
    assert (said.code, said.err) == (2, "")
    problems = json.loads(said.out)["problems"]
    assert [problem["line"] for problem in problems] == sorted(problem["line"] for problem in problems)
    assert {problem["field"] for problem in problems} == {
        "files.notes.txt.from",
        "gates[2].measure",
        "card.template",
    }


def test_a_message_cannot_drive_the_terminal() -> None:
    assert _printable("a\x1b[31mb\x1b[0m\tc\x07d\u202e é ✓") == "ab\ufffdc\ufffdd\ufffd é ✓"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command("schema"), stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.returncode == 1
    assert done.stderr == "hubpub: No space left on device\n"


def test_a_reader_that_has_gone() -> None:
    process = subprocess.Popen(command("schema"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(30) != 0
    assert said == b""
    process.stderr.close()


# -- plan


def test_plan_counts_steps_and_bytes(run: Run, project: Project, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_zip([("toyweights/model.onnx", (project.folder / "data" / "model.onnx").read_bytes())])
    project.without_measurements()
    project.recipe["sources"]["wheel"] = {"pypi": "toyweights", "version": "1.0"}
    project.recipe["steps"]["convert"]["inputs"] = {"model.onnx": "wheel/toyweights/model.onnx"}
    path = project.save()
    with IndexStub({"toyweights-1.0-py3-none-any.whl": wheel}) as index:
        for name in list(os.environ):
            if name.startswith(("PIP_", "UV_")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", index.simple)
        assert run("lock", path, "--cache", store / "first", "--quiet").code == 0
        asked = len(index.log)
        planned = json.loads(run("plan", path, "--cache", store / "second", "--json", "--locked").out)
        assert planned["bytes_to_fetch"] == {"wheel": len(wheel)}
        assert planned["bytes_to_write"] == (project.folder / "data" / "model.onnx").stat().st_size
        assert [(step["name"], step["kind"], step["state"]) for step in planned["steps"]] == [
            ("convert", "script", "run"),
            ("files/sharded/model.onnx#1", "transform", "waits"),
        ]
        assert planned["publishes"] == list(project.recipe["files"])
        text = run("plan", path, "--cache", store / "second", "--locked").out.splitlines()
        assert text[0].split() == ["convert", "script", "will", "run"]
        assert text[2].split() == ["wheel", "fetch", *size(len(wheel)).split()]
        assert text[3] == f"to fetch: {size(len(wheel))}; to write: at least 27.4 kB"
        assert len(index.log) == asked, "a plan asks nobody"
        built = json.loads(run("build", path, "--cache", store / "second", "--json").out)
        assert built["bytes_fetched"] == len(wheel)
        planned = json.loads(run("plan", path, "--cache", store / "second", "--json").out)
        assert (planned["bytes_to_fetch"], planned["bytes_to_write"]) == ({}, 0)
        assert {step["state"] for step in planned["steps"]} == {"cached"}


def test_plan_of_a_part(run: Run, finished: Finished) -> None:
    said = run("plan", finished.project.path, "--cache", finished.store, "--only", "notes.txt", "--json")
    planned = json.loads(said.out)
    assert planned["publishes"] == ["notes.txt"]
    assert "convert" not in {step["name"] for step in planned["steps"]}


# -- cache


def test_cache_list(run: Run, copied: Finished) -> None:
    data = json.loads(run("cache", "list", "--cache", copied.store, "--json").out)
    with Store(copied.store) as store:
        blobs = list(store.blobs())
    assert data["folder"] == str(copied.store)
    assert (data["blobs"], data["bytes"]) == (len(blobs), sum(blob.size for blob in blobs))
    outputs = [set(result["outputs"]) for result in data["results"]]
    assert {"model.onnx", "config.json"} in outputs
    text = run("cache", "list", "--cache", copied.store).out.splitlines()
    assert len(text) == len(data["results"]) + 1
    assert text[-1].startswith(f"{copied.store}: {len(data['results'])} results, {len(blobs)} blobs, ")
    assert text[:-1] == sorted(text[:-1], key=lambda line: line[:16])


def test_cache_verify_removes_what_is_damaged(run: Run, copied: Finished) -> None:
    assert run("cache", "verify", "--cache", copied.store).out == "ok\n"
    digest = copied.built.manifest.files["sharded/model.onnx"].sha256
    (copied.store / "blobs" / digest[:2] / digest).write_bytes(b"rotten")
    said = run("cache", "verify", "--cache", copied.store, "--json")
    assert said.code == 1
    document = json.loads(said.out)
    assert document["ok"] is False
    assert digest in document["damage"][0]["what"]
    assert run("cache", "verify", "--cache", copied.store).out == "ok\n"
    assert copied.project.build(copied.store).ran == ("files/sharded/model.onnx#1",)


def test_cache_collect(run: Run, copied: Finished) -> None:
    assert json.loads(run("cache", "collect", "--cache", copied.store, "--json").out) == {"files": 0, "bytes": 0}
    for path in copied.store.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (1e9, 1e9))
    said = run("cache", "collect", "--cache", copied.store, "--unused-for", "1", "--json")
    assert json.loads(said.out)["files"] > 20
    assert json.loads(run("cache", "list", "--cache", copied.store, "--json").out)["blobs"] == 0
    assert run("build", copied.project.path, "--cache", copied.store, "--only", "model.onnx", "--quiet").code == 0


def test_the_cache_is_where_the_environment_says(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path / "mine"))
    assert json.loads(run("cache", "list", "--json").out)["folder"] == str(tmp_path / "mine")

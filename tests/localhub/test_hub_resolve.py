"""Downloads: ranges, headers, resume after a cut; and what the client makes of what is not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hub_client import Ask, run_client

from hubpub.localhub import LocalHub

URL = "/tester/model/resolve/main/weights.onnx"


def test_headers(hub: LocalHub, ask: Ask, model: Path) -> None:
    size, sha256 = hub.files("tester/model")["weights.onnx"]
    for method in ("HEAD", "GET"):
        answer = ask(method, URL)
        assert answer.status_code == 200
        assert answer.headers["x-repo-commit"] == hub.head("tester/model")
        assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{sha256}"'
        assert answer.headers["content-length"] == answer.headers["x-linked-size"] == str(size)
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.content == ((model / "weights.onnx").read_bytes() if method == "GET" else b"")
    regular = ask("GET", "/tester/model/resolve/v1/config.json")
    assert regular.headers["etag"] == '"9e26dfeeb6e641a33dae4961196235bdb965b21b"'  # git hash-object of {}
    assert "x-linked-etag" not in regular.headers
    empty = ask("GET", "/tester/model/resolve/main/empty")
    assert (empty.status_code, empty.content, empty.headers["content-length"]) == (200, b"", "0")
    odd = ask("GET", "/tester/model/resolve/refs%2Fheads%2Fmain/sub/%C3%BC%20%C3%B1.txt")
    assert odd.text == "text"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-0", 0, 1), ("0-", 0, None), ("100-199", 100, 200), ("5119999-", 5119999, None), ("-7", -7, None),
     ("5000000-99999999", 5000000, None), ("-99999999", 0, None)],
)  # fmt: skip
def test_ranges(hub: LocalHub, ask: Ask, model: Path, asked: str, start: int, end: int | None) -> None:
    content = (model / "weights.onnx").read_bytes()
    answer = ask("GET", URL, headers={"range": f"bytes={asked}"})
    expected = content[start:end]
    assert (answer.status_code, answer.content) == (206, expected)
    first = start if start >= 0 else len(content) + start
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(content)}"


def test_ranges_beyond_the_end(hub: LocalHub, ask: Ask, model: Path) -> None:
    for path, asked in ((URL, "5120000-"), (URL, "-0"), (URL.replace("weights.onnx", "empty"), "0-")):
        answer = ask("GET", path, headers={"range": f"bytes={asked}"})
        assert answer.status_code == 416, asked
        assert answer.headers["content-range"].startswith("bytes */")
    for asked in ("bytes=-", "bytes=1-2,4-5", "lines=1-2", "bytes=2-1x"):  # not understood: all of it
        assert ask("GET", URL, headers={"range": asked}).status_code == 200


def test_what_is_not_there(hub: LocalHub, ask: Ask, model: Path) -> None:
    code = """
for call in (
    lambda: api.hf_hub_download("tester/model", "absent"),
    lambda: api.hf_hub_download("tester/model", "sub"),
    lambda: api.hf_hub_download("tester/model", "config.json", revision="absent"),
    lambda: api.hf_hub_download("tester/absent", "config.json"),
    lambda: api.model_info("tester/model", revision="absent"),
    lambda: api.list_repo_files("tester/model", revision="0" * 40),
    lambda: list(api.list_repo_tree("tester/model", "absent")),
):
    try:
        call()
    except HfHubHTTPError as error:
        say(type(error).__name__)
assert not api.file_exists("tester/model", "absent") and api.file_exists("tester/model", "config.json")
assert not api.revision_exists("tester/model", "absent") and api.revision_exists("tester/model", "v1")
"""
    done = run_client(hub, code, xet=True)
    assert done.returncode == 0, done.stderr
    entry, revision, repo = "RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"
    assert list(map(json.loads, done.stdout.splitlines())) == [entry, entry, revision, repo, revision, revision, entry]
    assert ask("GET", URL.replace("weights.onnx", "absent")).headers["x-repo-commit"] == hub.head("tester/model")
    for path in ("/api/spaces/a/b", "/api/collections", "/", "/a/b", "/api/models/a/b/nothing"):
        assert ask("GET", path).status_code == 404, path


@pytest.mark.slow
def test_a_cut_download_is_resumed_by_range(hub: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "large.bin").write_bytes(os.urandom(32 << 20))
    hub.seed("tester/large", folder)
    hub.fault("/large.bin$", method="GET", cut_after=25 << 20)
    hub.clear_requests()
    code = f"""
path = api.hf_hub_download("tester/large", "large.bin")
assert Path(path).read_bytes() == Path({str(folder / "large.bin")!r}).read_bytes()
"""
    done = run_client(hub, code, xet=False)
    assert done.returncode == 0, done.stderr
    gets = [(request.status, request.bytes_out) for request in hub.requests if request.method == "GET"]
    assert gets[-2:] == [(200, 25 << 20), (206, 12 << 20)]


def test_a_file_that_came_by_xet_goes_without_and_the_other_way_round(hub: LocalHub) -> None:
    code = """
for name in ("one", "two"):
    api.create_repo(f"tester/{name}", exist_ok=True)
api.create_commit("tester/NAME", [CommitOperationAdd("x.bin", bytes(range(256)) * 10000)], commit_message="x")
"""
    load = """
for name in ("one", "two"):
    assert Path(api.hf_hub_download(f"tester/{name}", "x.bin")).read_bytes() == bytes(range(256)) * 10000
"""
    for name, xet in (("one", True), ("two", False)):
        done = run_client(hub, code.replace("NAME", name), xet=xet)
        assert done.returncode == 0, done.stderr
    for xet in (True, False):
        done = run_client(hub, load, xet=xet)
        assert done.returncode == 0, done.stderr


def test_without_xet_the_client_says_so(tmp_path: Path) -> None:
    code = """
api.create_repo("tester/x")
try:
    api.create_commit("tester/x", [CommitOperationAdd("x.bin", b"xyz" * 1000)], commit_message="x")
except ConnectionError as error:
    say("404" in str(error))
assert api.list_repo_files("tester/x") == [".gitattributes"]
"""
    with LocalHub(tmp_path / "hub", xet=False) as hub:
        done = run_client(hub, code, xet=True)
        assert (done.returncode, done.stdout) == (0, "true\n"), done.stderr
        operation = 'api.create_commit("tester/x", [CommitOperationAdd("x.bin", b"xyz")], commit_message="x")'
        assert run_client(hub, operation, xet=False).returncode == 0
        assert "x.bin" in hub.files("tester/x")

"""Faults do what they say, exactly as often as they say; the log tells what happened."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx2
import pytest
from hub_client import Ask, run_client

from hubpub.localhub import LocalHub, Request

INFO = "/api/models/tester/model"
FILE = "/tester/model/resolve/main/weights.onnx"


def test_status_headers_and_body(hub: LocalHub, ask: Ask, model: Path) -> None:
    hub.fault("/tester/model$", status=429, headers={"Retry-After": "7"}, body='{"error": "slow"}', nth=2, times=2)
    answers = [ask("GET", INFO) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 429, 429, 200, 200]
    assert (answers[1].headers["retry-after"], answers[1].json()) == ("7", {"error": "slow"})
    hub.fault("/tester/model$", method="POST", status=500)
    hub.fault("/refs$", status=502, body=b"<html>")
    assert ask("GET", INFO).status_code == 200
    assert ask("GET", f"{INFO}/refs").content == b"<html>"


def test_a_fault_keeps_the_work_from_being_done_but_after_does_it(hub: LocalHub, ask: Ask, model: Path) -> None:
    token, path = hub.token(), f"{INFO}/branch"
    hub.fault("/branch/", status=503)
    assert ask("POST", f"{path}/one", token=token, json={}).status_code == 503
    hub.fault("/branch/", status=504, after=True)
    assert ask("POST", f"{path}/two", token=token, json={}).status_code == 504
    hub.fault("/branch/", after=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        ask("POST", f"{path}/three", token=token, json={})
    branches = [each["name"] for each in ask("GET", f"{INFO}/refs").json()["branches"]]
    assert branches == ["main", "three", "two"]
    assert [request.status for request in hub.requests] == [503, 504, 0, 200]


def test_cuts(hub: LocalHub, ask: Ask, model: Path) -> None:
    for count in (0, 1000, 3_000_000):
        hub.fault(FILE, cut_after=count)
        with pytest.raises(httpx2.RemoteProtocolError):
            ask("GET", FILE)
        assert hub.requests[-1] == Request("GET", FILE, "", 200, 0, count)
    assert len(ask("GET", FILE).content) == 5_120_000
    hub.fault("/preupload/", cut_request_after=1_000_000)
    with pytest.raises((httpx2.WriteError, httpx2.ReadError, httpx2.RemoteProtocolError)):
        ask("POST", f"{INFO}/preupload/main", token=hub.token(), content=b" " * 20_000_000)
    last = hub.requests[-1]
    assert last.status == 0
    assert 1_000_000 <= last.bytes_in < 3_000_000


def test_delay_and_hang(hub: LocalHub, ask: Ask, model: Path) -> None:
    hub.fault(INFO, delay=0.5)
    begin = time.monotonic()
    assert ask("GET", INFO).status_code == 200
    assert time.monotonic() - begin >= 0.5
    hub.fault(INFO, hang=True, times=2)
    with pytest.raises(httpx2.ReadTimeout):
        ask("GET", INFO, timeout=0.5)
    hub.clear_faults()
    assert ask("GET", INFO).status_code == 200


def test_a_hub_with_a_hanging_request_ends(tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub, httpx2.Client(timeout=0.3) as client:
        hub.fault(".*", hang=True)
        with pytest.raises(httpx2.ReadTimeout):
            client.get(hub.endpoint)
        begin = time.monotonic()
    assert time.monotonic() - begin < 10


def test_headers_of_a_real_answer_can_be_changed(hub: LocalHub, model: Path) -> None:
    hub.fault(r"resolve/.*/config.json$", headers={"ETag": '"wrong"'}, times=100)
    code = """
say(get_hf_file_metadata(hf_hub_url("tester/model", "config.json")).etag)
"""
    done = run_client(hub, code, xet=False)
    assert json.loads(done.stdout) == "wrong", done.stderr


def test_a_lost_answer_of_a_commit(hub: LocalHub, model: Path) -> None:
    hub.fault("/commit/main$", after=True)
    code = """
try:
    api.create_commit("tester/model", [CommitOperationAdd("x", b"x")], commit_message="x")
except Exception as error:
    say(type(error).__name__)
assert "x" in api.list_repo_files("tester/model")
api.create_commit("tester/model", [CommitOperationAdd("x", b"x")], commit_message="x")
"""
    done = run_client(hub, code, xet=True)
    assert done.stdout == '"RemoteProtocolError"\n', done.stderr
    assert done.returncode == 0, done.stderr
    assert len(hub.commits("tester/model")) == 3


def test_xet_routes_have_faults_too(hub: LocalHub, model: Path) -> None:
    hub.fault("^/xet/v1/xorbs/", status=500)
    code = """
api.create_commit("tester/model", [CommitOperationAdd("x.bin", os.urandom(100000))], commit_message="x")
"""
    done = run_client(hub, code, xet=True)
    assert done.returncode == 0, done.stderr
    assert [each.status for each in hub.requests if "/xorbs/" in each.path] == [500, 200]


def test_the_admin_of_another_process(hub: LocalHub, ask: Ask, model: Path) -> None:
    fault = {"path": INFO, "status": 418, "times": 2}
    assert ask("POST", "/_hub/fault", json=fault).status_code == 403
    assert ask("POST", "/_hub/fault", json=fault, token=hub.token()).status_code == 403
    assert ask("POST", "/_hub/fault", json=fault, token=hub.admin).status_code == 200
    assert ask("GET", INFO).status_code == 418
    assert ask("DELETE", "/_hub/fault", token=hub.admin).status_code == 200
    assert ask("GET", INFO).status_code == 200
    log = ask("GET", "/_hub/requests", token=hub.admin).json()
    assert [(each["path"], each["status"]) for each in log] == [(INFO, 418), (INFO, 200)]
    assert ask("DELETE", "/_hub/requests", token=hub.admin).status_code == 200
    assert hub.requests == []
    token = ask("POST", "/_hub/token", json={"role": "read", "user": "x"}, token=hub.admin).json()["token"]
    assert ask("GET", "/api/whoami-v2", token=token).json()["name"] == "x"
    assert ask("POST", "/_hub/revoke", json={"token": token}, token=hub.admin).status_code == 200
    assert ask("GET", "/api/whoami-v2", token=token).status_code == 401
    body = {"path": INFO, "body_base64": "AAE="}
    assert ask("POST", "/_hub/fault", json=body, token=hub.admin).status_code == 200
    assert ask("GET", INFO).content == b"\0\1"
    for bad in ({"path": "("}, {"status": 500}, {"path": "x", "colour": "red"}):
        assert ask("POST", "/_hub/fault", json=bad, token=hub.admin).status_code == 400

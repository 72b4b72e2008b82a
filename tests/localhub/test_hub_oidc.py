"""Trusted publishing, by both routes that the client takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_client import Ask, run_client

from hubpub.localhub import LocalHub

COMMIT = """
try:
    api.create_commit("tester/model", [CommitOperationAdd("x", b"x")], commit_message="from CI")
    say("ok")
except Exception as error:
    say(str(error))
"""


def test_an_id_token_that_the_job_already_has(hub: LocalHub, model: Path) -> None:
    hub.trust("tester/model", "owner/ci")
    env = {"HF_OIDC_RESOURCE": "tester/model", "HF_OIDC_ID_TOKEN": hub.id_token("owner/ci")}
    done = run_client(hub, COMMIT, xet=True, token="", **env)
    assert done.stdout == '"ok"\n', done.stdout + done.stderr
    assert "x" in hub.files("tester/model")


def test_github_actions(hub: LocalHub, model: Path) -> None:
    env = {
        "HF_OIDC_RESOURCE": "tester/model",
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": hub.id_token_url,
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": hub.trust("tester/model", "owner/ci"),
    }
    done = run_client(hub, COMMIT, xet=False, token="", **env)
    assert done.stdout == '"ok"\n', done.stdout + done.stderr
    other = """
api.model_info("tester/model")
for call in (lambda: api.create_repo("tester/other"),
             lambda: api.create_commit("tester/two", [CommitOperationAdd("x", b"x")], commit_message="x"),
             lambda: api.create_commit(
                 "tester/two", [CommitOperationAdd("x", b"x")], commit_message="x", create_pr=True)):
    try:
        call()
    except HfHubHTTPError as error:
        say(error.response.status_code)
"""
    hub.seed("tester/two", model)
    done = run_client(hub, other, xet=False, token="", **env)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [403, 403, 403], done.stderr


@pytest.mark.parametrize("case", ["untrusted", "audience", "expired", "forged", "repo", "grant"])
def test_exchanges_that_are_refused(hub: LocalHub, ask: Ask, model: Path, case: str) -> None:
    hub.trust("tester/model", "owner/ci")
    token = hub.id_token(
        "owner/other" if case == "untrusted" else "owner/ci",
        audience="https://elsewhere" if case == "audience" else None,
        seconds=-1 if case == "expired" else 300,
    )
    body = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange" if case != "grant" else "password",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "subject_token": token + ("x" if case == "forged" else ""),
        "resource": "tester/absent" if case == "repo" else "tester/model",
    }
    answer = ask("POST", "/oauth/token", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == ("invalid_request" if case == "grant" else "invalid_grant")


def test_a_request_token_is_not_an_id_token(hub: LocalHub, ask: Ask, model: Path) -> None:
    request_token = hub.trust("tester/model", "owner/ci")
    body = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "subject_token": request_token,
        "resource": "tester/model",
    }
    assert ask("POST", "/oauth/token", json=body).status_code == 400
    path = "/_hub/oidc/id-token?audience=x"
    assert ask("GET", path, token=hub.id_token("owner/ci")).status_code == 403
    assert ask("GET", path).status_code == 403
    assert ask("GET", path, token=request_token).json()["value"].count(".") == 2


def test_datasets_too(hub: LocalHub, ask: Ask, model: Path) -> None:
    hub.seed("tester/data", model, repo_type="dataset")
    hub.trust("tester/data", "owner/ci", repo_type="dataset")
    body = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "subject_token": hub.id_token("owner/ci"),
        "resource": "datasets/tester/data",
    }
    answer = ask("POST", "/oauth/token", json=body).json()
    assert answer["expires_in"] == 3600
    assert answer["access_token"].startswith("hf_jwt_")
    check = "/api/datasets/tester/data/auth-check/write"
    assert ask("GET", check, token=answer["access_token"]).status_code == 200

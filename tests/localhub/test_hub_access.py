"""Tokens and rights: who may read, write, create and delete, and what the client makes of the answers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hub_client import Ask, run_client, start_client

from hubpub.localhub import LocalHub

TRY = """
def attempt(name, call):
    try:
        call()
        say([name, "ok"])
    except Exception as error:
        response = getattr(error, "response", None)
        say([name, type(error).__name__, response.status_code if response is not None else None])
commit = lambda repo, **more: api.create_commit(repo, [CommitOperationAdd("x", b"x")], commit_message="x", **more)
"""


def outcomes(hub: LocalHub, code: str, token: str) -> dict[str, list[object]]:
    done = run_client(hub, TRY + code, xet=False, token=token)
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


ALL = """
attempt("whoami", lambda: api.whoami())
attempt("read", lambda: api.model_info("tester/model"))
attempt("load", lambda: api.hf_hub_download("tester/model", "config.json"))
attempt("check", lambda: api.auth_check("tester/model"))
attempt("check write", lambda: api.auth_check("tester/model", write=True))
attempt("commit", lambda: commit("tester/model"))
attempt("pull", lambda: commit("tester/model", create_pr=True))
attempt("tag", lambda: api.create_tag("tester/model", tag="t"))
attempt("create", lambda: api.create_repo("tester/other"))
attempt("delete", lambda: api.delete_repo("tester/model"))
"""
DENIED = ["HfHubHTTPError", 403]
HIDDEN_ANONYMOUS = ["RepositoryNotFoundError", 401]
HIDDEN = ["RepositoryNotFoundError", 404]
BAD = ["HfHubHTTPError", 401]


@pytest.mark.slow
def test_a_public_repo(hub: LocalHub, model: Path) -> None:
    reader = outcomes(hub, ALL, hub.token("read"))
    assert [reader.pop(name) for name in ("whoami", "read", "load", "check")] == [["ok"]] * 4
    assert set(map(str, reader.values())) == {str(DENIED)}
    anonymous = outcomes(hub, ALL, "")
    assert [anonymous.pop(name) for name in ("read", "load", "check")] == [["ok"]] * 3
    assert anonymous.pop("whoami") == ["LocalTokenNotFoundError", None]
    assert anonymous.pop("create") == anonymous.pop("delete") == BAD
    assert set(map(str, anonymous.values())) == {str(HIDDEN_ANONYMOUS)}
    stranger = outcomes(hub, ALL, hub.token("write", "stranger"))
    assert [stranger.pop(name) for name in ("whoami", "read", "load", "check", "pull")] == [["ok"]] * 5
    assert set(map(str, stranger.values())) == {str(DENIED)}
    owner = outcomes(hub, ALL, hub.token("write"))
    assert set(map(str, owner.values())) == {"['ok']"}


@pytest.mark.slow
def test_a_private_repo_is_hidden_from_strangers(hub: LocalHub, model: Path) -> None:
    private = 'api.update_repo_settings("tester/model", private=True)\nsay(["private", "ok"])'
    assert outcomes(hub, private, hub.token()) == {"private": ["ok"]}
    code = ALL.replace('attempt("whoami", lambda: api.whoami())', "")
    reader = outcomes(hub, code, hub.token("read"))
    assert [reader[name] for name in ("read", "load", "check", "check write")] == [["ok"], ["ok"], ["ok"], DENIED]
    stranger = outcomes(hub, code, hub.token("write", "stranger"))
    assert stranger.pop("create") == DENIED
    assert stranger.pop("load") == ["RepositoryNotFoundError", 404]
    assert set(map(str, stranger.values())) == {str(HIDDEN)}
    anonymous = outcomes(hub, code, "")
    assert anonymous["read"] == anonymous["commit"] == anonymous["load"] == HIDDEN_ANONYMOUS


@pytest.mark.slow
def test_a_gated_repo(hub: LocalHub, model: Path) -> None:
    outcomes(hub, 'api.update_repo_settings("tester/model", gated="auto")', hub.token())
    assert outcomes(hub, ALL, "")["load"] == ["GatedRepoError", 401]
    stranger = outcomes(hub, ALL, hub.token("read", "stranger"))
    assert (stranger["read"], stranger["load"], stranger["check"]) == (["ok"], *[["GatedRepoError", 403]] * 2)
    assert outcomes(hub, ALL, hub.token())["load"] == ["ok"]


def test_a_revoked_token_is_no_token(hub: LocalHub, model: Path) -> None:
    token = hub.token()
    assert token.startswith("hf_LocalHubWrite")
    hub.revoke(token)
    result = outcomes(hub, ALL, token)
    # the client looks for the file in its cache when the Hub refuses
    assert result.pop("load")[0] in {"HfHubHTTPError", "LocalEntryNotFoundError"}
    assert set(map(str, result.values())) == {str(BAD)}


def test_a_token_revoked_between_upload_and_commit(hub: LocalHub, model: Path, tmp_path: Path) -> None:
    token, before = hub.token(), hub.head("tester/model")
    hub.fault("/commit/main$", delay=2)
    code = TRY + 'attempt("commit", lambda: commit("tester/model"))'
    client = start_client(hub, code, tmp_path / "home", xet=True, token=token)
    while not any(request.path.endswith("/preupload/main") for request in hub.requests):
        assert client.poll() is None
        time.sleep(0.05)
    hub.revoke(token)
    assert json.loads(client.communicate(timeout=60)[0]) == ["commit", *BAD]
    assert hub.head("tester/model") == before


def test_create_and_delete(hub: LocalHub, model: Path) -> None:
    code = """
assert api.create_repo("made") == api.create_repo("tester/made", exist_ok=True)
attempt("again", lambda: api.create_repo("tester/made"))
assert api.create_repo("tester/made", repo_type="dataset").repo_type == "dataset"
attempt("another's", lambda: api.create_repo("stranger/made"))
attempt("bad name", lambda: api.create_repo("tester/made.git") )
attempt("org", lambda: api.create_repo("org/made", private=True))
assert api.model_info("org/made").private and not api.model_info("tester/made").private
api.delete_repo("tester/made")
assert not api.repo_exists("tester/made") and api.repo_exists("tester/made", repo_type="dataset")
attempt("delete again", lambda: api.delete_repo("tester/made"))
api.delete_repo("tester/made", missing_ok=True)
"""
    hub.token("write", "stranger")
    result = outcomes(hub, code, hub.token())
    assert result["again"] == ["HfHubHTTPError", 409]
    assert result["another's"] == DENIED
    assert result["org"] == ["ok"]
    assert result["delete again"] == HIDDEN


@pytest.mark.parametrize(
    "name", ["tester/a--b", "tester/a..b", "tester/-a", "tester/a.git", "tester/a b", "tester/", "tester/" + 96 * "a"]
)
def test_bad_names(hub: LocalHub, ask: Ask, name: str) -> None:
    organization, _, rest = name.partition("/")
    answer = ask(
        "POST", "/api/repos/create", token=hub.token(), json={"name": rest, "organization": organization, "type": None}
    )
    assert answer.status_code == 400, answer.text
    assert "Invalid repo name" in answer.headers["x-error-message"]


def test_a_bad_token_is_refused_everywhere(hub: LocalHub, ask: Ask, model: Path) -> None:
    for path in ("/api/models/tester/model", "/tester/model/resolve/main/config.json", "/api/whoami-v2"):
        answer = ask("GET", path, token="hf_LocalHubNothing")
        assert (answer.status_code, answer.headers["x-error-message"]) == (
            401,
            "Invalid credentials in Authorization header",
        )

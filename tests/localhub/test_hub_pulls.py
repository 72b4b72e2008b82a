"""Pull requests, branches and tags by the unmodified client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_client import run_client

from hubpub.localhub import LocalHub

HELP = """
def add(name, content=b"x", **more):
    return api.create_commit("tester/model", [CommitOperationAdd(name, content)], commit_message=f"add {name}", **more)
def attempt(call):
    try:
        call()
        say("ok")
    except HfHubHTTPError as error:
        say([error.response.status_code, error.server_message])
files = lambda revision="main": set(api.list_repo_files("tester/model", revision=revision))
head = lambda revision="main": api.repo_info("tester/model", revision=revision).sha
"""


def said(hub: LocalHub, code: str, *, xet: bool = False, token: str | None = None) -> list[object]:
    done = run_client(hub, HELP + code, xet=xet, token=token)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_commits_to_a_pull_request_appear_at_once_when_it_is_merged(hub: LocalHub, model: Path, xet: bool) -> None:
    code = """
old = head()
pull = add("a.bin", os.urandom(1000), create_pr=True, parent_commit=old)
assert pull.pr_num == 1 and pull.pr_revision == "refs/pr/1" and pull.pr_url.endswith("/tester/model/discussions/1")
second = add("b.bin", os.urandom(1000), revision=pull.pr_revision, parent_commit=pull.oid)
attempt(lambda: add("c.bin", revision=pull.pr_revision, parent_commit=pull.oid))
assert head() == old and "a.bin" not in files() and {"a.bin", "b.bin"} < files("refs/pr/1")
assert head("refs/pr/1") == second.oid
found = api.get_paths_info("tester/model", ["a.bin", "b.bin"], revision="refs/pr/1")
assert len(found) == 2
api.change_discussion_status("tester/model", 1, "open")
about = api.get_discussion_details("tester/model", 1)
assert (about.status, about.is_pull_request, about.conflicting_files) == ("open", True, [])
assert [each.summary for each in about.events if each.type == "commit"] == ["add a.bin", "add b.bin"]
assert "a/b.bin" in about.diff and about.git_reference == "refs/pr/1" and about.merge_commit_oid is None
api.merge_pull_request("tester/model", 1, comment="thanks")
about = api.get_discussion_details("tester/model", 1)
assert about.status == "merged" and about.merge_commit_oid == head() and "thanks" in str(about.events)
commits = api.list_repo_commits("tester/model")
assert commits[0].title == "add a.bin (#1)" and commits[1].commit_id == old
assert {"a.bin", "b.bin"} < files()
attempt(lambda: add("d", revision="refs/pr/1"))
attempt(lambda: api.merge_pull_request("tester/model", 1))
refs = api.list_repo_refs("tester/model", include_pull_requests=True)
assert [each.ref for each in refs.pull_requests] == ["refs/pr/1"]
assert api.list_repo_refs("tester/model").pull_requests is None
"""
    stale, late, again = said(hub, code, xet=xet)
    assert stale[0] == 412  # type: ignore[index]
    assert late[0] == 403  # type: ignore[index]
    assert again == [400, "This pull request cannot be merged: it is merged"]


def test_a_pull_request_begins_as_a_draft(hub: LocalHub, model: Path) -> None:
    code = """
pull = api.create_pull_request("tester/model", title="Draft", description="to come")
assert (pull.status, pull.num, pull.target_branch, pull.events[0].content) == (
    "draft", 1, "refs/heads/main", "to come")
add("x", revision="refs/pr/1")
attempt(lambda: api.merge_pull_request("tester/model", 1))
event = api.change_discussion_status("tester/model", 1, "open", comment="ready")
assert event.new_status == "open"
comment = api.comment_discussion("tester/model", 1, "words")
assert comment.content == "words" and comment.author == "tester"
assert api.rename_discussion("tester/model", 1, "Better").new_title == "Better"
api.change_discussion_status("tester/model", 1, "closed")
attempt(lambda: api.merge_pull_request("tester/model", 1))
attempt(lambda: add("y", revision="refs/pr/1"))
api.change_discussion_status("tester/model", 1, "open")
api.merge_pull_request("tester/model", 1)
assert "x" in files() and api.list_repo_commits("tester/model")[0].title == "Better (#1)"
attempt(lambda: api.change_discussion_status("tester/model", 1, "closed"))
"""
    statuses = [answer[0] for answer in said(hub, code)]  # type: ignore[index]
    assert statuses == [400, 400, 403, 400]


def test_conflicts(hub: LocalHub, model: Path) -> None:
    code = """
start = head()
same = add("both", b"same", create_pr=True)
clash = add("config.json", b"[1]", create_pr=True)
beside = add("beside", b"1", create_pr=True, parent_commit=start)
gone = api.create_commit(
    "tester/model", [CommitOperationDelete("empty")], commit_message="delete", create_pr=True)
add("config.json", b"[2]")
add("both", b"same")
now = head()
attempt(lambda: api.merge_pull_request("tester/model", clash.pr_num))
say(api.get_discussion_details("tester/model", clash.pr_num).conflicting_files)
assert head() == now
for pull in (same, beside, gone):
    api.merge_pull_request("tester/model", pull.pr_num)
assert "beside" in files() and "empty" not in files()
assert Path(api.hf_hub_download("tester/model", "config.json")).read_bytes() == b"[2]"
"""
    answer, conflicting = said(hub, code)
    assert answer == [409, "This pull request has conflicts: config.json"]
    assert conflicting == ["config.json"]


def test_a_stranger_may_propose_but_not_decide(hub: LocalHub, model: Path) -> None:
    code = """
pull = add("gift", create_pr=True)
add("gift 2", revision=pull.pr_revision)
attempt(lambda: api.merge_pull_request("tester/model", pull.pr_num))
attempt(lambda: add("gift", revision="main"))
api.comment_discussion("tester/model", pull.pr_num, "please")
"""
    answers = said(hub, code, token=hub.token("write", "stranger"))
    assert [answer[0] for answer in answers] == [403, 403]  # type: ignore[index]
    other = """
attempt(lambda: add("gift 3", revision="refs/pr/1"))
attempt(lambda: api.change_discussion_status("tester/model", 1, "closed"))
"""
    answers = said(hub, other, token=hub.token("write", "other"))
    assert [answer[0] for answer in answers] == [403, 403]  # type: ignore[index]
    owner = """
api.merge_pull_request("tester/model", 1)
assert api.get_discussion_details("tester/model", 1).author == "stranger"
"""
    said(hub, owner)
    assert {"gift", "gift 2"} < set(hub.files("tester/model"))


@pytest.mark.slow
def test_discussions_are_listed(hub: LocalHub, model: Path) -> None:
    code = """
api.create_discussion("tester/model", title="A question")
for n in range(52):
    pull = api.create_pull_request("tester/model", title=f"pull {n}")
api.change_discussion_status("tester/model", pull.num, "closed")
assert len(list(api.get_repo_discussions("tester/model"))) == 53
assert [each.title for each in api.get_repo_discussions("tester/model", discussion_type="discussion")] == ["A question"]
assert len(list(api.get_repo_discussions("tester/model", discussion_status="closed"))) == 1
assert list(api.get_repo_discussions("tester/model", author="nobody")) == []
attempt(lambda: api.get_discussion_details("tester/model", 99))
attempt(lambda: api.create_discussion("tester/model", title="?"))
"""
    assert [answer[0] for answer in said(hub, code)] == [404, 400]  # type: ignore[index]


def test_branches_and_tags(hub: LocalHub, model: Path) -> None:
    first = hub.head("tester/model")
    code = """
first = head()
api.create_branch("tester/model", branch="dev/one")
attempt(lambda: api.create_branch("tester/model", branch="dev/one"))
api.create_branch("tester/model", branch="dev/one", exist_ok=True)
add("new", revision="dev/one", parent_commit=first)
assert head() == first and "new" in files("dev/one") and "new" not in files()
assert files("refs/heads/dev/one") == files("dev/one")
api.create_branch("tester/model", branch="old", revision="v1")
attempt(lambda: api.create_branch("tester/model", branch="bad", revision="absent"))
attempt(lambda: api.create_branch("tester/model", branch="a..b"))
tagged = add("later")
api.create_tag("tester/model", tag="v2", revision=tagged.oid, tag_message="two")
attempt(lambda: api.create_tag("tester/model", tag="v2", revision="v1"))
api.create_tag("tester/model", tag="v2", revision="v1", exist_ok=True)
assert head("v2") == tagged.oid and head(first[:8]) == first
attempt(lambda: api.create_tag("tester/model", tag="v3", revision="absent"))
attempt(lambda: add("x", revision="v1"))
attempt(lambda: add("x", revision="absent"))
refs = api.list_repo_refs("tester/model")
say({each.name: each.target_commit == first for each in refs.branches + refs.tags})
api.delete_branch("tester/model", branch="dev/one")
api.delete_tag("tester/model", tag="v2")
attempt(lambda: api.delete_tag("tester/model", tag="v2"))
attempt(lambda: api.delete_branch("tester/model", branch="dev/one"))
attempt(lambda: api.delete_branch("tester/model", branch="main"))
attempt(lambda: api.snapshot_download("tester/model", revision="dev/one"))
"""
    answers = said(hub, code)
    refs = answers.pop(7)
    assert [answer[0] for answer in answers] == [409, 404, 400, 409, 404, 403, 404, 404, 404, 403, 404]  # type: ignore[index]
    assert refs == {"dev/one": False, "main": False, "old": True, "v1": True, "v2": False}
    assert hub.head("tester/model", "v1") == first

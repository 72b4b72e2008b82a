"""Discussions and pull requests: open, comment, change status, merge."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from hubpub.localhub.call import Call, answer, api
from hubpub.localhub.database import now
from hubpub.localhub.refusal import Refusal, anonymous, bad_request, forbidden

if TYPE_CHECKING:
    from hubpub.localhub.repos import Commit, File
    from hubpub.localhub.tokens import Token

_PAGE = 50


def routes() -> list[Route]:
    """The routes of discussions and pull requests."""
    return [
        api("/discussions", listing, "GET"),
        api("/discussions", create, "POST"),
        api("/discussions/{num}", details),
        api("/discussions/{num}/comment", comment, "POST"),
        api("/discussions/{num}/status", change_status, "POST"),
        api("/discussions/{num}/title", rename, "POST"),
        api("/discussions/{num}/merge", merge, "POST"),
    ]


def open_pull(call: Call, title: str, description: str, author: str, *, status: str, base: str | None) -> int:
    """A new discussion or, with ``base``, the commit it starts from, a pull request; its number."""
    database, repo = call.hub.database, call.repo
    with database.change():
        found = database.row("SELECT coalesce(max(num), 0) + 1 AS num FROM discussions WHERE repo = ?", repo.id)
        assert found is not None
        num = int(found["num"])
        database.run(
            "INSERT INTO discussions VALUES(?, ?, ?, ?, ?, ?, ?, NULL)",
            *(repo.id, num, title, status, base is not None, author, now()),
        )
        if base is not None:
            call.hub.repos.set_ref(repo, f"refs/pr/{num}", base)
        if description:
            add_event(call, num, "comment", author, _comment(description))
    return num


def add_event(call: Call, num: int, kind: str, author: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Note that something happened; the event as the client reads it."""
    event = {"type": kind, "createdAt": now(), "author": {"name": author}, "data": data}
    with call.hub.database.change():
        call.hub.database.run(
            "INSERT INTO events(repo, num, event) VALUES(?, ?, ?)", call.repo.id, num, json.dumps(event)
        )
        found = call.hub.database.row("SELECT last_insert_rowid() AS id")
    assert found is not None
    return {"id": f"{found['id']:024x}", **event}


def check_push(call: Call, num: int) -> None:
    """Refuse commits to a pull request that is finished, or another's."""
    row = _row(call, num)
    if not row["pull"] or row["status"] not in {"draft", "open"}:
        raise forbidden(f"Pull request {num} is {row['status']}; it takes no more commits")
    _own(call, row)


def _comment(text: str) -> dict[str, Any]:
    latest = {"raw": text, "html": text, "updatedAt": now()}
    return {"edited": False, "hidden": False, "latest": latest, "history": [latest]}


def _row(call: Call, num: int | None = None) -> dict[str, Any]:
    if num is None:
        text = call.part("num")
        num = int(text) if re.fullmatch(r"[1-9]\d{0,8}", text) else 0
    row = call.hub.database.row("SELECT * FROM discussions WHERE repo = ? AND num = ?", call.repo.id, num)
    if row is None:
        raise Refusal(404, "Discussion not found")
    return dict(row)


def _own(call: Call, row: Mapping[str, Any]) -> Token:
    token = call.writer(member=False)
    if not call.is_member(call.repo) and token.user != row["author"]:
        raise forbidden("Forbidden: this is another user's")
    return token


def _summary(call: Call, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num": row["num"],
        "title": row["title"],
        "status": row["status"],
        "author": {"name": row["author"]},
        "createdAt": row["created"],
        "isPullRequest": bool(row["pull"]),
        "repo": {"name": call.repo.name, "type": call.repo.kind},
    }


def listing(call: Call) -> Response:
    """A page of discussions, newest first."""
    rows = map(dict, call.hub.database.rows("SELECT * FROM discussions WHERE repo = ? ORDER BY num DESC", call.repo.id))
    kind, status, author = (call.query.get(name) for name in ("type", "status", "author"))
    wanted = [
        row
        for row in rows
        if kind in {None, "all", "pull_request" if row["pull"] else "discussion"}
        and (status in {None, "all"} or (status == "open") == (row["status"] in {"open", "draft"}))
        and author in {None, row["author"]}
    ]
    page = call.query.get("p", "0")
    start = (int(page) if page.isdecimal() else 0) * _PAGE
    shown = [_summary(call, row) for row in wanted[start : start + _PAGE]]
    return answer({"count": len(wanted), "start": start, "discussions": shown})


def create(call: Call) -> Response:
    """Open a discussion or a pull request, which begins as a draft at the head of main."""
    token = call.token
    if token is None:
        raise anonymous()
    call.writer(member=False)
    title, description = call.json.get("title"), call.json.get("description") or ""
    if not isinstance(title, str) or len(title.strip()) < 3 or not isinstance(description, str):
        raise bad_request("title must have at least 3 letters")
    pull = bool(call.json.get("pullRequest"))
    base = call.hub.repos.resolve(call.repo, "main").oid if pull else None
    num = open_pull(call, title, description, token.user, status="draft" if pull else "open", base=base)
    return answer({"num": num, "pullRequest": pull})


def details(call: Call) -> Response:
    """A discussion with its events; for a pull request also the changed and the conflicting files."""
    row = _row(call)
    events = call.hub.database.rows(
        "SELECT id, event FROM events WHERE repo = ? AND num = ? ORDER BY id", call.repo.id, row["num"]
    )
    value = _summary(call, row)
    value["events"] = [{"id": f"{each['id']:024x}", **json.loads(each["event"])} for each in events]
    if row["pull"]:
        value["changes"] = {"base": "refs/heads/main"} | ({"mergeCommitId": row["merged"]} if row["merged"] else {})
        plan = _Merge(call, row["num"])
        value["filesWithConflicts"] = [] if row["merged"] else plan.conflicts
        value["diff"] = plan.diff()
    return answer(value)


def comment(call: Call) -> Response:
    """Say something."""
    row, token = _row(call), call.writer(member=False)
    text = call.json.get("comment")
    if not isinstance(text, str) or not text.strip():
        raise bad_request("comment is empty")
    return answer({"newMessage": add_event(call, row["num"], "comment", token.user, _comment(text))})


def change_status(call: Call) -> Response:
    """Open or close; opening a draft makes it ready to merge."""
    with call.hub.database.change():
        row, status = _row(call), call.json.get("status")
        token = _own(call, row)
        if status not in {"open", "closed"}:
            raise bad_request("status must be open or closed")
        if row["status"] == "merged":
            raise bad_request("A merged pull request stays merged")
        _set_status(call, row["num"], status)
        event = add_event(call, row["num"], "status-change", token.user, {"status": status})
        if call.json.get("comment"):
            add_event(call, row["num"], "comment", token.user, _comment(str(call.json["comment"])))
    return answer({"newStatus": event})


def _set_status(call: Call, num: int, status: str, merged: str | None = None) -> None:
    call.hub.database.run(
        "UPDATE discussions SET status = ?, merged = ? WHERE repo = ? AND num = ?", status, merged, call.repo.id, num
    )


def rename(call: Call) -> Response:
    """Change the title."""
    with call.hub.database.change():
        row, title = _row(call), call.json.get("title")
        token = _own(call, row)
        if not isinstance(title, str) or len(title.strip()) < 3:
            raise bad_request("title must have at least 3 letters")
        call.hub.database.run(
            "UPDATE discussions SET title = ? WHERE repo = ? AND num = ?", title, call.repo.id, row["num"]
        )
        data = {"from": row["title"], "to": title}
        event = add_event(call, row["num"], "title-change", token.user, data)
    return answer({"newTitle": event})


def merge(call: Call) -> Response:
    """Merge a pull request: main moves at once, by one commit, or not at all."""
    with call.hub.database.change():
        row, token = _row(call), call.writer()
        if not row["pull"] or row["status"] != "open":
            raise bad_request(f"This pull request cannot be merged: it is {row['status']}")
        plan = _Merge(call, row["num"])
        if plan.conflicts:
            raise Refusal(409, f"This pull request has conflicts: {', '.join(plan.conflicts[:5])}")
        titles = [f"- {each.title} ({each.oid})" for each in reversed(plan.commits)]
        commit = call.hub.repos.commit(
            call.repo,
            "refs/heads/main",
            lambda _: plan.files,
            title=f"{row['title']} (#{row['num']})",
            message="\n".join(titles),
            author=token.user,
            start=None,
            expected=plan.main.oid,
        )
        if call.json.get("comment"):
            add_event(call, row["num"], "comment", token.user, _comment(str(call.json["comment"])))
        _set_status(call, row["num"], "merged", commit.oid)
        add_event(call, row["num"], "status-change", token.user, {"status": "merged"})
    return answer({"oid": commit.oid})


class _Merge:
    """What merging a pull request into main gives; ``files`` is only right without conflicts."""

    def __init__(self, call: Call, num: int) -> None:
        repos, repo = call.hub.repos, call.repo
        self.main = repos.resolve(repo, "main")
        head = repos.resolve(repo, f"refs/pr/{num}")
        known = {each.oid for each in repos.history(repo, self.main)}
        self.commits: list[Commit] = []
        base: Commit | None = None
        for each in repos.history(repo, head):
            if each.oid in known:
                base = each
                break
            self.commits.append(each)
        self._before = repos.files(base.tree) if base else {}
        self._theirs = repos.files(head.tree)
        ours = repos.files(self.main.tree)
        self.files: dict[str, File] = dict(ours)
        self.conflicts: list[str] = []
        for path in sorted(self._before.keys() | self._theirs.keys()):
            before, now_theirs, now_ours = (each.get(path) for each in (self._before, self._theirs, ours))
            if now_theirs in (before, now_ours):
                continue
            if now_ours != before:
                self.conflicts.append(path)
            elif now_theirs is None:
                del self.files[path]
            else:
                self.files[path] = now_theirs

    def diff(self) -> str:
        """The files that the pull request changes, a line each; not their lines."""
        lines = []
        for path in sorted(self._before.keys() | self._theirs.keys()):
            before, after = self._before.get(path), self._theirs.get(path)
            if before != after:
                lines.append(f"diff --git a/{path} b/{path}\nindex {_short(before)}..{_short(after)} 100644\n")
        return "".join(lines)


def _short(file: File | None) -> str:
    return file.oid[:7] if file else "0" * 7

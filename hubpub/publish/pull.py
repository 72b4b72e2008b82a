"""Publishing through a pull request: to be merged by people, or at once where one commit would be too large.

Commits to a pull request are seen by nobody who loads the branch; the merge makes all of them visible together.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hubpub.errors import HubpubError, PublishError
from hubpub.publish.client import TRIES
from hubpub.publish.commit import AGAIN, Landed, Target, different, head_after, moved, operations, post, send
from hubpub.publish.diff import Diff
from hubpub.publish.remote import Remote
from hubpub.publish.trouble import client_errors, diagnose

if TYPE_CHECKING:
    from hubpub.publish.client import Operation

MOST_FILES = 100
"""Files of one commit: the Hub gives a commit 60 seconds and asks for 50 to 100 files in each."""
MOST_BYTES = 100 << 20
"""Bytes of files that git keeps, which travel within the commit itself: those of one commit."""
GIT_BYTES = 10 << 20
"""Larger files are never kept in git."""
NEWEST = 10
"""Pull requests, from the newest, that are looked at for the same release."""


@dataclass(frozen=True)
class Opened:
    """A pull request that holds the release at ``commit``; ``found`` when it was there before."""

    number: int
    commit: str
    url: str
    found: bool = False

    @property
    def ref(self) -> str:
        """The branch that it is kept on."""
        return f"refs/pr/{self.number}"


def too_large(diff: Diff) -> bool:
    """Whether one commit could not take it."""
    in_git = sum(each.sends for each in diff.sent if each.sends <= GIT_BYTES)
    return len(diff.sent) + len(diff.removed) > MOST_FILES or in_git > MOST_BYTES


def open_pull_request(target: Target, remote: Remote, diff: Diff) -> Opened:
    """Open a pull request from ``remote`` to the release, or find the one that is open already.

    Raises:
        PublishError: it could not be; the branch is as it was, and what was opened is closed again.
    """
    if (found := _find(target)) is not None:
        return found
    opened = _commits(target, remote, diff)
    _make_ready(target, opened)
    return opened


def commit_by_merge(target: Target, remote: Remote, diff: Diff) -> Landed:
    """Commit ``diff`` in parts to a pull request, verify it there, and merge it: the branch changes at once.

    Raises:
        MovedError: the head of the branch is another one now; the pull request was closed.
        PublishError: as for `commit_directly`.
    """
    opened = _commits(target, remote, diff)
    with _closed_on_failure(target, opened):
        if wrong := different(target.diff_at(opened.commit)):
            what = (
                f"in pull request {opened.number} these differ from the release: {wrong}; {target.branch} is as it was"
            )
            raise PublishError(what, where=target.hub.where, fix="publish again")
        if (head := target.hub.head(target.branch)) != remote.commit:
            raise moved(target.hub, target.branch, head, remote.commit)
        _make_ready(target, opened)
        return _merge(target, opened, remote)


def _commits(target: Target, remote: Remote, diff: Diff) -> Opened:
    assert remote.commit is not None
    asked = operations(diff, send(target, diff, pull_request=True), remote.commit)
    parts = _parts(asked)
    opened = _open(target, parts[0], remote.commit)
    with _closed_on_failure(target, opened):
        if target.hub.pull_request(opened.number).target_branch not in _names(target):
            what = f"the Hub opened pull request {opened.number} for another branch than {target.branch}"
            raise PublishError(what, where=target.hub.where, fix="publish to main, or without --pr")
        for number, part in enumerate(parts[1:], 2):
            opened = replace(opened, commit=_add(target, opened, part, f"{target.title} ({number} of {len(parts)})"))
    return opened


def _parts(asked: Sequence[Operation]) -> list[list[Operation]]:
    """Cut so that each part may be one commit."""
    parts: list[list[Operation]] = [[]]
    held = 0
    for each in asked:
        info = getattr(each, "upload_info", None)
        size = info.size if info is not None and getattr(each, "_upload_mode", None) == "regular" else 0
        if parts[-1] and (len(parts[-1]) == MOST_FILES or held + size > MOST_BYTES):
            parts.append([])
            held = 0
        parts[-1].append(each)
        held += size
    return parts


def _open(target: Target, part: Sequence[Operation], parent: str) -> Opened:
    """The first commit, which opens the pull request."""
    hub = target.hub
    known = _numbers(target)
    for attempt in range(1, TRIES + 1):
        try:
            made = hub.commit(
                part,
                title=target.title,
                description=target.description,
                revision=target.branch,
                parent=parent,
                pull_request=True,
            )
        except client_errors() as error:
            trouble = diagnose(error)
            if (opened := _appeared(target, known)) is not None:
                return opened
            if attempt == TRIES or not (trouble.transient or trouble.status in AGAIN):
                raise trouble.error(hub.where, f"{target.branch} is as it was") from error
            hub.pause(attempt, trouble)
        else:
            if made.pr_num is None or made.pr_url is None:
                raise PublishError("the Hub opened no pull request", where=hub.where, fix="publish without --pr")
            return Opened(made.pr_num, made.oid, made.pr_url)
    raise AssertionError("unreachable")


def _add(target: Target, opened: Opened, part: Sequence[Operation], title: str) -> str:
    """A further commit to the pull request; its id."""
    from huggingface_hub import CommitOperationDelete

    gone = {each.path_in_repo for each in part if isinstance(each, CommitOperationDelete)}
    wanted = {each.path_in_repo for each in part} - gone

    def holds(head: str) -> bool:
        there = Remote(head, target.hub.tree(head))
        return wanted <= {each.path for each in target.diff(there).same} and not gone & there.files.keys()

    return post(
        target.hub,
        target.reporter,
        part,
        revision=opened.ref,
        parent=opened.commit,
        title=title,
        description="",
        holds=holds,
    ).commit


def _merge(target: Target, opened: Opened, remote: Remote) -> Landed:
    hub = target.hub
    for attempt in range(1, TRIES + 1):
        try:
            hub.merge(opened.number)
        except client_errors() as error:
            trouble = diagnose(error)
            head = head_after(hub, target.branch, trouble)
            if head == remote.commit:
                if attempt == TRIES or not (trouble.transient or trouble.status in AGAIN):
                    raise trouble.error(hub.where, f"{target.branch} is as it was") from error
                hub.pause(attempt, trouble)
                continue
            if hub.pull_request(opened.number).status != "merged":
                raise moved(target.hub, target.branch, head, remote.commit) from error
        return _merged(target, opened, remote)
    raise AssertionError("unreachable")


def _merged(target: Target, opened: Opened, remote: Remote) -> Landed:
    hub = target.hub
    for _ in range(TRIES):
        head = hub.head(target.branch)
        if head is not None and head != remote.commit:
            return Landed(head, hub.url("commit", head))
        time.sleep(1)
    what = f"pull request {opened.number} was merged, but {target.branch} has not moved"
    raise PublishError(what, where=hub.where, fix="look at its page, then run the command again")


def _make_ready(target: Target, opened: Opened) -> None:
    if target.hub.pull_request(opened.number).status == "draft":
        target.hub.open_pull_request(opened.number)


@contextlib.contextmanager
def _closed_on_failure(target: Target, opened: Opened) -> Iterator[None]:
    """Leave no pull request behind that nobody is to merge."""
    try:
        yield
    except BaseException as error:
        said = error.what if isinstance(error, HubpubError) else "it was stopped"
        try:
            target.hub.close_pull_request(opened.number, f"This publication was not finished: {said}.")
        except HubpubError as failure:
            target.reporter.note(f"pull request {opened.number} could not be closed: {failure.what}; close it by hand")
        raise


def _numbers(target: Target) -> dict[int, str]:
    """Pull requests, merged and closed ones too, with their heads."""
    found = target.hub.refs(pull_requests=True).pull_requests or []
    pairs = ((each.ref.removeprefix("refs/pr/"), each.target_commit) for each in found)
    return {int(number): commit for number, commit in pairs if number.isdigit()}


def _find(target: Target) -> Opened | None:
    """An open pull request to the branch that holds the release already."""
    for number, commit in sorted(_numbers(target).items(), reverse=True)[:NEWEST]:
        if target.diff_at(commit).stands:
            there = target.hub.pull_request(number)
            if there.status in ("open", "draft") and there.target_branch in _names(target):
                return Opened(number, commit, target.hub.url("discussions", str(number)), found=True)
    return None


def _appeared(target: Target, known: Collection[int]) -> Opened | None:
    """Our pull request, where only the answer to its opening was lost: a new one whose only commit has our title."""
    for number, commit in sorted(_numbers(target).items(), reverse=True):
        if number not in known and target.hub.commits(commit)[0].title == target.title:
            return Opened(number, commit, target.hub.url("discussions", str(number)))
    return None


def _names(target: Target) -> tuple[str, str]:
    return target.branch, f"refs/heads/{target.branch}"

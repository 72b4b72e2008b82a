"""``hubpub revert``: one commit that brings back the files of an earlier one; the history stays as it is.

Files that the Hub keeps apart (LFS, Xet) are named by their hash, so that none of their bytes travel; those that git
keeps are small, and the client downloads them and sends them again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubpub.errors import PublishError
from hubpub.publish.client import Hub
from hubpub.publish.commit import post
from hubpub.publish.remote import RemoteFile
from hubpub.report import Reporter

if TYPE_CHECKING:
    from hubpub.publish.client import Operation


@dataclass(frozen=True)
class Reverted:
    """What was, or in a dry run would be, brought back.

    Attributes:
        before: the head that was replaced.
        to: the commit whose files are there again.
        title: first line of that commit.
        commit: the new head; None in a dry run, and where the files were equal.
        url: its page.
        restored: files that come back or change back.
        removed: files that go.
        verified: files whose hashes were compared afterwards.
    """

    before: str
    to: str
    title: str
    commit: str | None
    url: str | None
    restored: tuple[str, ...]
    removed: tuple[str, ...]
    verified: int = 0


def revert(
    repo: str, reporter: Reporter, *, to: str | None = None, branch: str = "main", dry_run: bool = False
) -> Reverted:
    """Make the files of ``branch`` equal to those of the commit ``to``, or of the one before the head.

    Args:
        repo: ``owner/name``.
        reporter: hears what goes on.
        to: a commit (also its first digits), tag or branch.
        branch: the branch that is changed.
        dry_run: only say what would change.

    Raises:
        MovedError: somebody else changed the branch meanwhile; nothing was done.
        PublishError: there is no such commit, or the Hub refused or could not be reached.
    """
    hub = Hub(repo, reporter, writing=not dry_run)
    head = hub.head(branch)
    if head is None:
        raise PublishError(f"no such repo, or no branch {branch}", where=repo, fix="check the name and --branch")
    now = hub.tree(head)
    commit, title = _commit(hub, branch, head, now, to)
    then = hub.tree(commit)
    restored = tuple(sorted(path for path, file in then.items() if now.get(path) != file))
    removed = tuple(sorted(now.keys() - then.keys()))
    plan = Reverted(head, commit, title, None, None, restored, removed)
    if dry_run or not (restored or removed):
        return plan
    hub.check_access(write=True)
    reporter.start("revert", f"{repo} to {commit[:12]}", None)
    made = post(
        hub,
        reporter,
        _operations(plan),
        revision=branch,
        parent=head,
        title=f"Revert to {commit[:12]}" + (f": {title}" if title else ""),
        description=f"Replaces: {head}",
        holds=lambda moved_to: hub.tree(moved_to) == then,
    ).commit
    if hub.tree(made) != then:
        what = f"REVERTED as {made[:12]}, BUT WRONG: the files are not those of {commit[:12]}"
        raise PublishError(what, where=repo, fix="run the same command again")
    reporter.end("revert", made[:12])
    return Reverted(head, commit, title, made, hub.url("commit", made), restored, removed, len(then))


def _commit(hub: Hub, branch: str, head: str, now: dict[str, RemoteFile], to: str | None) -> tuple[str, str]:
    """The commit to go back to, and its title; by default the newest with other files than the head."""
    history = hub.commits(branch)
    if to is None:
        for each in history[1:]:
            if hub.tree(each.commit_id) != now:
                return each.commit_id, each.title
        raise PublishError(f"{branch} never had other files", where=hub.where, fix="name a commit with --to")
    if re.fullmatch(r"[0-9a-f]{6,40}", to):
        found = [each for each in history if each.commit_id.startswith(to)]
        if len(found) == 1:
            return found[0].commit_id, found[0].title
    commit = hub.head(to)
    if commit is None:
        raise PublishError(f"no commit, tag or branch {to}", where=hub.where, fix="check --to")
    return commit, next((each.title for each in history if each.commit_id == commit), "")


def _operations(plan: Reverted) -> list[Operation]:
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete

    return [
        *(CommitOperationCopy(path, path, src_revision=plan.to) for path in plan.restored),
        *(CommitOperationDelete(path, is_folder=False) for path in plan.removed),
    ]

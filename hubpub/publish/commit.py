"""One commit that makes a branch equal to a release, or changes nothing.

Nothing refers to the contents that are sent first; the commit names the head that was compared as its parent, so the
server refuses it when the head has moved. Whatever goes wrong after it was asked for, the answer is in the head: it is
read again, and the commit is asked for once more only where the head is still the parent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubpub.errors import HubpubError, MovedError, PublishError
from hubpub.manifest import CARD
from hubpub.publish.client import TRIES, Hub, addition
from hubpub.publish.diff import Diff, compare
from hubpub.publish.release import Release
from hubpub.publish.remote import Remote, content_of, read_commit
from hubpub.publish.trouble import Trouble, client_errors, diagnose
from hubpub.report import Reporter, counted

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

    from hubpub.publish.client import Operation

AGAIN = frozenset({409})
"""Answers to a commit, beside the transient ones, after which it may be asked for again: another one was under way."""


@dataclass(frozen=True)
class Target:
    """What a publication is about.

    Attributes:
        hub: the repo.
        branch: that users load from.
        release: what it is to be equal to.
        keep: globs of files that are left alone.
        title: first line of the commit.
        description: what follows it.
        reporter: hears what goes on.
    """

    hub: Hub
    branch: str
    release: Release
    keep: tuple[str, ...]
    title: str
    description: str
    reporter: Reporter

    def diff(self, remote: Remote) -> Diff:
        """The release against ``remote``; card and timings are downloaded where only their hash can tell."""

        def sha256_of(path: str) -> str:
            assert remote.commit is not None
            content = content_of(self.hub, remote.commit, path, remote.files[path])
            return hashlib.sha256(content).hexdigest()

        return compare(self.release, remote, self.keep, sha256_of)

    def diff_at(self, commit: str) -> Diff:
        """The release against ``commit``; the published manifest is not needed where every file is equal."""
        files = Remote(commit, self.hub.tree(commit))
        plain = compare(self.release, files, self.keep)
        return plain if plain.stands else self.diff(read_commit(self.hub, commit, files.files))


@dataclass(frozen=True)
class Landed:
    """A commit that holds the release; ``recognised`` when its answer was lost or another publisher made it."""

    commit: str
    url: str
    recognised: bool = False


def commit_directly(target: Target, remote: Remote, diff: Diff) -> Landed:
    """Commit ``diff`` on the branch, whose head is ``remote.commit``.

    Raises:
        MovedError: the head moved; nothing was published.
        PublishError: the Hub refused or could not be reached; the branch is as it was unless the message says that
            this is unknown.
    """
    assert remote.commit is not None
    additions = send(target, diff, pull_request=False)

    return post(
        target.hub,
        target.reporter,
        operations(diff, additions, remote.commit),
        revision=target.branch,
        parent=remote.commit,
        title=target.title,
        description=target.description,
        holds=lambda head: target.diff_at(head).stands,
    )


def send(target: Target, diff: Diff, *, pull_request: bool) -> list[CommitOperationAdd]:
    """Let the Hub check the card, then send the contents that it keeps apart; no commit refers to them yet."""
    release, hub, reporter = target.release, target.hub, target.reporter
    if any(each.path == CARD for each in diff.sent):
        hub.check_card((release.folder / CARD).read_text(encoding="utf-8"))
    additions = [
        addition(each.path, release.folder / each.path, release.files[each.path].sha256)
        for each in diff.sent
        if each.source is None
    ]
    reporter.start("upload", f"{counted(len(additions), 'files')} to {hub.repo}", diff.bytes_to_send)
    hub.upload(additions, revision=target.branch, pull_request=pull_request)
    for each in additions:
        if each._upload_mode == "regular":
            release.git_sha1(
                each.path_in_repo
            )  # these go with the commit: make sure that they are still the recorded ones
    reporter.end("upload", "done")
    return additions


def operations(diff: Diff, additions: Sequence[CommitOperationAdd], parent: str) -> list[Operation]:
    """What the commit is to do: files that were sent, files that ``parent`` has elsewhere, files that go."""
    from huggingface_hub import CommitOperationCopy, CommitOperationDelete

    return [
        *additions,
        *(CommitOperationCopy(each.source, each.path, src_revision=parent) for each in diff.sent if each.source),
        *(CommitOperationDelete(each.path, is_folder=False) for each in diff.removed),
    ]


def post(
    hub: Hub,
    reporter: Reporter,
    asked: Sequence[Operation],
    *,
    revision: str,
    parent: str,
    title: str,
    description: str,
    holds: Callable[[str], bool],
) -> Landed:
    """Ask for a commit on ``revision`` until it is there, or cannot be; ``holds(head)``: that is what was wanted."""
    for attempt in range(1, TRIES + 1):
        head = hub.head(revision)
        if head != parent:  # also before the first try: the client sends no commit where it sees nothing to change
            return _settle(hub, revision, head, parent, holds)
        try:
            made = hub.commit(asked, title=title, description=description, revision=revision, parent=parent)
        except client_errors() as error:
            trouble = diagnose(error)
            head = head_after(hub, revision, trouble)
            if head != parent:
                return _settle(hub, revision, head, parent, holds)
            if attempt == TRIES or not (trouble.transient or trouble.status in AGAIN):
                raise trouble.error(hub.where, f"{revision} is as it was") from error
            hub.pause(attempt, trouble)
        except BaseException:
            reporter.note(f"stopped while {hub.repo} was asked for a commit: `hubpub diff` says whether it was made")
            raise
        else:
            return Landed(made.oid, made.commit_url)
    raise AssertionError("unreachable")


def head_after(hub: Hub, revision: str, trouble: Trouble) -> str | None:
    """The head after a request whose outcome is not known.

    Raises:
        PublishError: it cannot be read. Nothing was changed where the request was plainly refused.
    """
    try:
        return hub.head(revision)
    except PublishError as error:
        if trouble.refused:
            raise trouble.error(hub.where, f"{revision} is as it was") from error
        raise _unknown(hub, f"{trouble.what}, and whether the commit was made cannot be told: {error.what}") from error


def _settle(hub: Hub, revision: str, head: str | None, parent: str, holds: Callable[[str], bool]) -> Landed:
    """The head is another one: either it is what was wanted, or somebody else's."""
    try:
        if head is not None and holds(head):
            return Landed(head, hub.url("commit", head), recognised=True)
    except HubpubError as error:
        what = f"the head moved to {str(head)[:12]}, and whether that is this commit cannot be told: {error.what}"
        raise _unknown(hub, what) from error
    raise moved(hub, revision, head, parent)


def _unknown(hub: Hub, what: str) -> PublishError:
    return PublishError(what, where=hub.where, fix="run the same command again later: it sees what is there")


def moved(hub: Hub, revision: str, head: str | None, compared: str | None) -> MovedError:
    """The head is not the one that was compared, and does not hold what was wanted."""
    return MovedError(
        f"{revision} was {(compared or 'empty')[:12]} when it was compared and is {(head or 'gone')[:12]} now; "
        "nothing was changed",
        where=hub.where,
        fix="look at what is there, then run the command again; `hubpub publish --rediff` compares anew by itself",
    )


def verify(target: Target, revision: str, *, revert_to: str | None) -> int:
    """Compare every file at ``revision`` with the release by its hash; the number of files compared.

    Raises:
        PublishError: loudly, with the way back.
    """
    try:
        diff = target.diff_at(revision)
    except HubpubError as error:
        raise PublishError(
            f"PUBLISHED as {revision[:12]}, BUT NOT VERIFIED: {error.what}",
            where=target.hub.where,
            fix="run the same command again: it publishes nothing twice and verifies" + way_back(target, revert_to),
        ) from error
    if wrong := different(diff):
        raise PublishError(
            f"PUBLISHED as {revision[:12]}, BUT WRONG: on the Hub these differ from the release: {wrong}",
            where=target.hub.where,
            fix="publish again" + way_back(target, revert_to),
        )
    return len(diff.same)


def different(diff: Diff) -> str:
    """Names of the files that are not as in the release; nothing when all are."""
    wrong = [] if diff.stands else [each.path for each in (*diff.added, *diff.changed, *diff.removed)]
    return ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")


def way_back(target: Target, revert_to: str | None) -> str:
    """The command that undoes a publication."""
    if revert_to is None:
        return ""
    branch = "" if target.branch == "main" else f" --branch {target.branch}"
    return f", or take it back with `hubpub revert {target.hub.repo} --to {revert_to[:12]}{branch}`"

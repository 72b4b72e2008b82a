"""The one place that talks to ``huggingface_hub``: every request bounded in time, every failure one line.

The token comes from where the client finds it: trusted publishing (``HF_OIDC_RESOURCE``), ``HF_TOKEN``, its login.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hubpub.errors import PublishError
from hubpub.publish.remote import RemoteFile
from hubpub.publish.trouble import LOGIN, TRANSIENT, Trouble, asked_wait, clean, client_errors, diagnose
from hubpub.report import Reporter

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
    from huggingface_hub.community import DiscussionWithDetails
    from huggingface_hub.hf_api import GitCommitInfo, GitRefs

    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

T = TypeVar("T")

TIMEOUT = 120.0
"""Seconds without a byte from the server; its own limit for a commit is 60. ``HUBPUB_TIMEOUT`` replaces it."""
CONNECT_TIMEOUT = 15.0
TRIES = 5
LONGEST_PAUSE = 8.0  # seconds between two tries, unless the Hub asks for more
MOST_CONFLICTS = 20
"""Times that the Hub may say that the owner's repos are busy."""
LONGEST_WAIT = 900.0
"""Seconds that are waited when the Hub asks for it: three of its rate limit windows."""


class Hub:
    """One model repo on the Hub that ``HF_ENDPOINT`` names.

    Every method raises `PublishError`, in one line, when the Hub refuses or cannot be reached; questions are asked
    up to five times. Only `commit` lets the client's errors through: what they mean depends on what the head is then.
    """

    def __init__(self, repo: str, reporter: Reporter, *, writing: bool, bars: bool = False) -> None:
        """Set up the client.

        Args:
            repo: ``owner/name``.
            reporter: hears of waits and of the client's warnings.
            writing: a token is needed.
            bars: let the client draw its own progress of uploads on standard error.
        """
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

        self.repo = repo
        self.endpoint = str(constants.ENDPOINT)
        self._reporter = reporter
        self._errors = client_errors()
        _bound_all_requests()
        _log_to(reporter)
        if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
            enable_progress_bars() if bars else disable_progress_bars()
        self._api = HfApi(token=True if writing else None)
        if writing:
            self._need_token()

    @property
    def where(self) -> str:
        """How messages name it."""
        return self.repo

    def url(self, *parts: str) -> str:
        """A page of the repo."""
        return "/".join((self.endpoint, self.repo, *parts))

    def _need_token(self) -> None:
        from huggingface_hub import get_token

        if self._ask(get_token) is None:
            raise PublishError("there is no token", where=self.where, fix=LOGIN)

    def head(self, revision: str) -> str | None:
        """The commit of a branch, tag or pull request; None when there is none, or no such repo."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        def ask() -> str | None:
            try:
                return self._api.repo_info(self.repo, revision=revision).sha
            except (RepositoryNotFoundError, RevisionNotFoundError) as error:
                if isinstance(error, GatedRepoError):
                    raise
                return None

        return self._ask(ask)

    def tree(self, commit: str) -> dict[str, RemoteFile]:
        """All files at ``commit``; the client turns the pages and tries again itself."""
        from huggingface_hub.hf_api import RepoFile

        def ask() -> dict[str, RemoteFile]:
            entries = self._api.list_repo_tree(self.repo, recursive=True, revision=commit)
            return {
                each.path: RemoteFile(each.lfs.size, each.blob_id, each.lfs.sha256)
                if each.lfs
                else RemoteFile(each.size, each.blob_id)
                for each in entries
                if isinstance(each, RepoFile)
            }

        return self._ask(ask, tries=1)

    def download(self, path: str, commit: str, *, limit: int) -> bytes:
        """A small file, of at most ``limit`` bytes."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(self.repo, path, revision=commit, endpoint=self.endpoint)

        def ask() -> bytes:
            content = bytearray()
            headers = build_hf_headers(token=self._api.token)
            with get_session().stream("GET", url, headers=headers) as response:
                hf_raise_for_status(response)
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > limit:
                        raise ValueError(f"{path} is longer than listed")
            return bytes(content)

        return self._ask(ask)

    def check_access(self, *, write: bool) -> None:
        """Make sure that the token may write (or read), before anything is sent."""
        self._ask(lambda: self._api.auth_check(self.repo, write=write))

    def create_repo(self, *, private: bool) -> bool:
        """Make the repo; False when somebody else had made it meanwhile."""

        def ask() -> bool:
            from huggingface_hub.errors import HfHubHTTPError

            try:
                self._api.create_repo(self.repo, private=private)
            except HfHubHTTPError as error:
                if error.response.status_code == 409:
                    return False
                raise
            return True

        return self._ask(ask)

    def create_branch(self, branch: str, commit: str) -> None:
        """Make ``branch`` at ``commit``, unless it is there."""
        self._ask(lambda: self._api.create_branch(self.repo, branch=branch, revision=commit, exist_ok=True))

    def refs(self, *, pull_requests: bool = False) -> GitRefs:
        """Branches and tags, and pull requests if wanted."""
        return self._ask(lambda: self._api.list_repo_refs(self.repo, include_pull_requests=pull_requests))

    def commits(self, revision: str) -> list[GitCommitInfo]:
        """The history of ``revision``, newest first."""
        return self._ask(lambda: self._api.list_repo_commits(self.repo, revision=revision), tries=1)

    def create_tag(self, tag: str, commit: str) -> None:
        """Put ``tag`` on ``commit``; an existing tag is an error."""
        self._ask(lambda: self._api.create_tag(self.repo, tag=tag, revision=commit))

    def check_card(self, content: str) -> None:
        """Let the Hub check the card's metadata, before anything is sent; its warnings become notes."""
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        def ask() -> tuple[list[str], list[str]]:
            response = get_session().post(
                f"{self.endpoint}/api/validate-yaml",
                json={"content": content, "repoType": "model"},
                headers=build_hf_headers(token=self._api.token),
            )
            if response.status_code != 400:
                hf_raise_for_status(response)
            answer = response.json()
            errors, notes = ([str(each["message"]) for each in answer.get(kind, ())] for kind in ("errors", "warnings"))
            if response.status_code == 400 and not errors:
                hf_raise_for_status(response)
            return errors, notes

        errors, notes = self._ask(ask)
        for note in notes:
            self._reporter.note(f"the Hub on the card's metadata: {clean(note)}")
        if errors:
            what = f"the Hub refuses the card's metadata: {clean('; '.join(errors))}"
            fix = "correct `card` in the recipe and build again"
            raise PublishError(what, where=self.where, fix=fix)

    def upload(self, additions: Sequence[CommitOperationAdd], *, revision: str, pull_request: bool) -> None:
        """Send the contents that the Hub keeps apart from git; no commit refers to them yet."""
        if not additions:
            return
        self._ask(
            lambda: self._api.preupload_lfs_files(
                self.repo, additions=additions, revision=revision, create_pr=pull_request, free_memory=False
            ),
            tries=1,  # the client and Xet try again themselves
        )
        if ignored := [each.path_in_repo for each in additions if each._should_ignore]:
            names = ", ".join(ignored[:3]) + (f" and {len(ignored) - 3} more" if len(ignored) > 3 else "")
            what = f"the repo's .gitignore would leave out {names}"
            raise PublishError(what, where=self.where, fix="remove these lines from .gitignore in the repo")

    def commit(
        self,
        operations: Iterable[Operation],
        *,
        title: str,
        description: str,
        revision: str,
        parent: str,
        pull_request: bool = False,
    ) -> CommitInfo:
        """One commit on ``revision``, asked for once; raises what the client raises."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `check_card` has told
            return self._api.create_commit(
                self.repo,
                operations,
                commit_message=title,
                commit_description=description,
                revision=revision,
                parent_commit=parent,
                create_pr=pull_request,
            )

    def pull_request(self, number: int) -> DiscussionWithDetails:
        """State and target of a pull request."""
        return self._ask(lambda: self._api.get_discussion_details(self.repo, number))

    def open_pull_request(self, number: int) -> None:
        """Make a draft ready."""
        self._ask(lambda: self._api.change_discussion_status(self.repo, number, "open"))

    def close_pull_request(self, number: int, comment: str) -> None:
        """Close it with a word why."""
        self._ask(lambda: self._api.change_discussion_status(self.repo, number, "closed", comment=comment), tries=2)

    def merge(self, number: int) -> None:
        """Merge it, asked for once; raises what the client raises."""
        self._api.merge_pull_request(self.repo, number)

    def pause(self, attempt: int, trouble: Trouble) -> None:
        """Wait before the next try, as long as the Hub asks for, and say so."""
        seconds = max(min(0.5 * 2 ** (attempt - 1), LONGEST_PAUSE), trouble.wait or 0.0)
        self._reporter.note(f"{trouble.what}; trying again in {seconds:g} s")
        time.sleep(seconds)

    def _ask(self, call: Callable[[], T], *, tries: int = TRIES) -> T:
        for attempt in range(1, tries + 1):
            try:
                return call()
            except self._errors as error:
                trouble = diagnose(error)
                if attempt == tries or not trouble.transient:
                    raise trouble.error(self.where) from error
            self.pause(attempt, trouble)
        raise AssertionError("unreachable")


def addition(path: str, file: Path, sha256: str) -> CommitOperationAdd:
    """A file to send whose digest is known already, so that the client does not read it twice.

    Raises:
        PublishError: it is gone, or has a name that the Hub does not take.
    """
    from huggingface_hub import CommitOperationAdd

    try:
        made = CommitOperationAdd(path, file)
    except (OSError, ValueError) as error:
        raise PublishError(f"cannot be sent: {clean(str(error))}", where=str(file), fix="build it again") from error
    made.upload_info.sha256 = bytes.fromhex(sha256)
    return made


def timeout() -> float:
    """Seconds without a byte after which a request is given up."""
    try:
        return max(0.1, float(os.environ["HUBPUB_TIMEOUT"]))
    except (KeyError, ValueError):
        return TIMEOUT


def _bound_all_requests() -> None:
    """Give every request of this process a timeout: the client sets none, and even asks for none where it pages."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    limit = timeout()
    limits = {"connect": min(CONNECT_TIMEOUT, limit), "read": limit, "write": limit, "pool": limit}

    def bound(request: httpx2.Request) -> None:
        asked = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            kind: limits[kind] if asked.get(kind) is None else asked[kind] for kind in limits
        }

    def refuse_endless_waits(response: httpx2.Response) -> None:
        """The client would wait for as long as it is told to, and ask for a repo anew for ever."""
        if response.status_code == 409 and response.url.path.endswith("/api/repos/create"):
            conflicts.append(response.url.path)
            time.sleep(0.1 * len(conflicts))
            if len(conflicts) > MOST_CONFLICTS:
                raise PublishError("another repo is being made for the same owner", fix="run the command again")
        if response.status_code in TRANSIENT and (wait := asked_wait(response.headers) or 0.0) > LONGEST_WAIT:
            what = f"the Hub answers {response.status_code} and asks to wait {wait:.0f} s"
            raise PublishError(what, fix="run the command again then")

    conflicts: list[str] = []

    def factory() -> httpx2.Client:
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], bound],
            "response": [*hooks["response"], refuse_endless_waits],
        }
        return client

    set_client_factory(factory)
    # Xet's own client is another one: 300 s for an answer unless told otherwise.
    os.environ.setdefault("HF_XET_CLIENT_READ_TIMEOUT", f"{limit:.0f}s")
    os.environ.setdefault("HF_XET_CLIENT_CONNECT_TIMEOUT", f"{limits['connect']:.0f}s")


class _Notes(logging.Handler):
    """Hands the client's warnings on, without the signed URLs that some of them quote."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Tell the reporter."""
        self._reporter.note(clean(record.getMessage()))


def _log_to(reporter: Reporter) -> None:
    import huggingface_hub.utils  # noqa: F401  (installs the handler that is replaced)

    logging.getLogger("huggingface_hub").handlers = [_Notes(reporter)]

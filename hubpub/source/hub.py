"""Files of a Hub repo at a revision, through the public calls of ``huggingface_hub``.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and the logins of the client count as everywhere. Files are streamed
through the client's own HTTP session to a part file of ours: since 2.4 `hf_hub_download` writes to a name of its own
per process and removes it on failure, so that a killed download would begin anew.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from pydantic import AfterValidator, Field

from hubpub.errors import SourceError
from hubpub.source.base import LockedSource, Pinned, Progress, Sighting, SourceContext, SourceSpec
from hubpub.source.download import RETRY_STATUS, Download, git_blob_sha1, wait
from hubpub.source.names import check_distinct, check_name, select
from hubpub.store import FileDigest, Store

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.hf_api import RepoSibling

METADATA_TIMEOUT = 30.0
"""Seconds for one answer about a repo; for files the client's own limit holds (HF_HUB_DOWNLOAD_TIMEOUT, else 10 s)."""
METADATA_TRIES = 4


def _check_repo(repo: str) -> str:
    """The Hub's own rule (``huggingface_hub.utils.validate_repo_id``), with an owner."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo, re.ASCII) or re.search(r"--|\.\.|[.-](/|$)", repo):
        raise ValueError(f"{repo!r} is not a repo id such as owner/name")
    return repo


class HubSource(SourceSpec):
    """``{hub: owner/name, revision: main, include: [onnx/*.onnx, config.json]}``."""

    hub: Annotated[str, AfterValidator(_check_repo)] = Field(description="repo id, owner/name")
    revision: str = Field(default="main", min_length=1, description="branch, tag or commit; the lock holds the commit")
    repo_type: Literal["model", "dataset"] = "model"

    @property
    def label(self) -> str:
        """``owner/name@revision``."""
        return f"{self.hub}@{self.revision}"

    def resolve(self, context: SourceContext) -> LockedSource:
        """Pin the commit; LFS files by the Hub's metadata, others by downloading them. See `SourceSpec.resolve`."""
        commit, siblings = self.listing()
        by_name = {sibling.rfilename: sibling for sibling in siblings}
        chosen = select(by_name, self.include, self.label)
        for name in chosen:
            check_name(name, self.label)
        check_distinct(chosen, self.label)
        return LockedSource(
            kind="hub",
            name=self.hub,
            revision=commit,
            files={name: self._pin(by_name[name], commit, context.store) for name in chosen},
            asked=self.asked(),
        )

    def fetch(self, locked: LockedSource, wanted: Collection[str], context: SourceContext, progress: Progress) -> None:
        """Download what is missing, at the locked commit. See `SourceSpec.fetch`."""
        store = context.store
        for name, pin in self.missing(locked, wanted, store).items():
            part = store.downloads / f"{pin.sha256}.part"
            with store.lock(part.name):
                if not store.has(pin.sha256):
                    self._download(name, locked.revision, pin.digest).to(part, progress)
                    store.put(part, expected=pin.digest)

    def watch(self, locked: LockedSource, context: SourceContext) -> Sighting:
        """One request; a second one where a small file's old git sha1 is not known here. See `SourceSpec.watch`."""
        try:
            commit, siblings = self.listing()
        except SourceError as error:
            if not is_absent(error):
                raise
            return Sighting(locked.revision, gone=error.what)
        if commit == locked.revision:
            return Sighting(commit)
        now = {sibling.rfilename: sibling for sibling in siblings}
        changed: list[str] = []
        small: list[str] = []
        for name, pin in locked.files.items():
            sibling = now.get(name)
            if sibling is None or (sibling.lfs is not None and sibling.lfs.sha256 != pin.sha256):
                changed.append(name)
            elif sibling.lfs is None:
                (small if sibling.size in (None, pin.size) else changed).append(name)
        before = self._git_names(locked, small, context.store)
        changed += [name for name in small if before.get(name) != now[name].blob_id]
        return Sighting(commit, tuple(sorted(changed)))

    def _git_names(self, locked: LockedSource, names: list[str], store: Store) -> dict[str, str]:
        """Git's sha1 of the locked files; none for those that cannot be known any more."""
        pins = {name: locked.files[name].sha256 for name in names}
        if all(store.has(sha256) for sha256 in pins.values()):
            return {name: git_blob_sha1(store.path(sha256)) for name, sha256 in pins.items()}
        try:
            _, siblings = self.listing(locked.revision)
        except SourceError as error:
            if not is_absent(error):
                raise
            return {}  # history was rewritten
        return {each.rfilename: str(each.blob_id) for each in siblings if each.lfs is None}

    def bytes_to_fetch(self, locked: LockedSource, wanted: Collection[str], context: SourceContext) -> int:
        """The missing files' bytes; partial downloads count as had."""
        parts = {
            pin: context.store.downloads / f"{pin.sha256}.part"
            for pin in self.missing(locked, wanted, context.store).values()
        }
        return sum(max(0, pin.size - (part.stat().st_size if part.exists() else 0)) for pin, part in parts.items())

    def listing(self, revision: str | None = None) -> tuple[str, list[RepoSibling]]:
        """The commit that the revision (default: the spec's) is at, and what the Hub says of each of its files.

        Raises:
            SourceError: it cannot be had; `is_absent` tells whether that is because it does not exist.
        """
        from httpx2 import TransportError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        with _hub_errors(self.label):
            for attempt in range(1, METADATA_TRIES + 1):
                try:
                    info = HfApi().repo_info(
                        self.hub,
                        revision=revision or self.revision,
                        repo_type=self.repo_type,
                        files_metadata=True,
                        timeout=METADATA_TIMEOUT,
                    )
                    break
                except (HfHubHTTPError, TransportError) as error:
                    response = getattr(error, "response", None)
                    if attempt == METADATA_TRIES or (response is not None and response.status_code not in RETRY_STATUS):
                        raise
                    wait(attempt, response.headers.get("Retry-After") if response is not None else None)
        siblings = getattr(info, "siblings", None)
        if not info.sha or siblings is None:
            raise SourceError("the Hub gave no commit or no list of files", where=self.label)
        return str(info.sha), list(siblings)

    def _pin(self, sibling: RepoSibling, commit: str, store: Store) -> Pinned:
        """Digest of one file; a file kept in git itself has only git's sha1 there, so its bytes are needed."""
        where = f"{self.label}: {sibling.rfilename}"
        if sibling.lfs is not None:
            try:
                return Pinned(sha256=sibling.lfs.sha256, size=sibling.lfs.size)
            except ValueError as error:
                raise SourceError("the Hub's metadata holds no sha256", where=where) from error
        if not re.fullmatch(r"[0-9a-f]{40}", str(sibling.blob_id)):
            raise SourceError("the Hub's metadata holds no blob id", where=where)
        part = store.downloads / f"git-{sibling.blob_id}.part"
        with store.lock(part.name):
            self._download(sibling.rfilename, commit, None, size=sibling.size).to(part, lambda count: None)
            if (got := git_blob_sha1(part)) != sibling.blob_id:
                part.unlink()
                raise SourceError(f"the file's git sha1 is {got}, the Hub lists {sibling.blob_id}", where=where)
            digest = store.put(part)
        return Pinned(sha256=digest.sha256, size=digest.size)

    def _download(self, name: str, commit: str, digest: FileDigest | None, size: int | None = None) -> Download:
        from huggingface_hub import constants, get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        where = f"{self.label}: {name}"

        def refuse(response: httpx2.Response) -> NoReturn:
            from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

            with _hub_errors(where):
                hf_raise_for_status(response)
            raise SourceError(f"the Hub answers {response.status_code}", where=where)

        return Download(
            get_session(),
            hf_hub_url(self.hub, name, repo_type=self.repo_type, revision=commit),
            where,
            size=digest.size if digest else size,
            sha256=digest.sha256 if digest else None,
            headers=build_hf_headers(),
            timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT),
            refuse=refuse,
        )


def is_absent(error: SourceError) -> bool:
    """Whether the Hub answered that there is no such repo (that we may see) or no such revision."""
    from huggingface_hub import errors

    absent = errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.DisabledRepoError
    return isinstance(error.__cause__, absent) and not isinstance(error.__cause__, errors.GatedRepoError)


_LOGIN = "log in with `hf auth login` or set HF_TOKEN to a token that may read it"


@contextlib.contextmanager
def _hub_errors(where: str) -> Iterator[None]:
    """Say in one line what the client raises; its own texts go over many lines and may quote headers."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        fix = f"accept its conditions on its page on the Hub, then {_LOGIN}"
        raise SourceError("the repo is gated", where=where, fix=fix) from error
    except errors.DisabledRepoError as error:
        raise SourceError("the repo was disabled", where=where) from error
    except errors.RepositoryNotFoundError as error:
        fix = f"check the name and repo_type, and {_LOGIN}"
        raise SourceError("no such repo, or it is private", where=where, fix=fix) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError("no such branch, tag or commit", where=where, fix="check `revision`") from error
    except errors.EntryNotFoundError as error:
        raise SourceError("no such file at this commit", where=where, fix="run `hubpub lock`") from error
    except errors.OfflineModeIsEnabled as error:
        raise SourceError("the Hub is needed but HF_HUB_OFFLINE is set", where=where, fix="unset it") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        later = "try again later" if status in RETRY_STATUS else None
        raise SourceError(
            f"the Hub answers {status}", where=where, fix=_LOGIN if status in (401, 403) else later
        ) from error
    except httpx2.TimeoutException as error:
        raise SourceError("the Hub does not answer in time", where=where, fix="try again later") from error
    except httpx2.HTTPError as error:
        fix = "check the connection, the proxy and HF_ENDPOINT"
        raise SourceError(f"the Hub cannot be reached ({error})", where=where, fix=fix) from error
    except (ValueError, KeyError, TypeError) as error:
        fix = "check HF_ENDPOINT"
        raise SourceError("the Hub's answer cannot be understood", where=where, fix=fix) from error

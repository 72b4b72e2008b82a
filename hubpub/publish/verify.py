"""``hubpub verify OWNER/REPO@REVISION``: every file of a published release against the manifest found beside it."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import yaml

from hubpub.errors import DigestMismatch, GateError, PublishError, ReleaseError, SourceError
from hubpub.manifest import MANIFEST, MAX_BYTES, Digest, Manifest, read_manifest
from hubpub.publish.client import Hub
from hubpub.publish.diff import GITATTRIBUTES
from hubpub.publish.remote import RemoteFile, content_of
from hubpub.publish.trouble import client_errors, diagnose
from hubpub.report import Reporter, counted
from hubpub.source.download import Download
from hubpub.source.names import matches
from hubpub.store import Store, default_root
from hubpub.store.files import storage_errors

if TYPE_CHECKING:
    import httpx2

_REMOTE = re.compile(
    r"(?P<scheme>hf://)?(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[^@\s]+))?", re.A
)
_MAX_RECIPE = 4 << 20
_SHOWN = 20
"""Files that one message names."""


def remote_address(where: str) -> tuple[str, str] | None:
    """Repo and revision of ``OWNER/REPO[@REVISION]``, with or without ``hf://`` before it; None if it is neither."""
    match = _REMOTE.fullmatch(where)
    return (match["repo"], match["revision"] or "main") if match else None


def verify_remote(repo: str, revision: str, reporter: Reporter) -> Manifest:
    """Download every file of ``repo`` at ``revision`` and compare it with the manifest found there.

    The revision is pinned to its commit first. Files come one after the other and are removed when they were compared,
    so the disk holds one at a time; what an interrupted verification compared is not brought again.

    Raises:
        SourceError: no such repo or revision, or it cannot be downloaded.
        ReleaseError: it holds no manifest, or other files than that lists; all that is wrong, in one line.
        GateError: all is whole, but it missed a budget.
    """
    hub = Hub(repo, reporter, writing=False)
    try:
        commit = hub.head(revision)
        if commit is None:
            fix = "check the name, and log in with `hf auth login` if it is private"
            raise SourceError("no such repo or revision, or it is private", where=f"{repo}@{revision}", fix=fix)
        where = f"{repo}@{commit[:12]}"
        there = hub.tree(commit)
        if MANIFEST not in there:
            raise ReleaseError(f"holds no {MANIFEST}, so hubpub did not publish it", where=where)
        if there[MANIFEST].size > MAX_BYTES:
            raise ReleaseError(f"its {MANIFEST} is larger than {MAX_BYTES} bytes", where=where)
        with Store(default_root()) as store:
            key = hashlib.sha256(f"{hub.endpoint} {repo} {commit}".encode()).hexdigest()[:32]
            with store.lock(f"verify-{key}"):
                desk = store.downloads / f"verify-{key}"
                with storage_errors("make room for the download"):
                    desk.mkdir(exist_ok=True)
                return _Verification(hub, commit, where, there, desk, reporter).run()
    except PublishError as error:  # nothing was to be published
        raise SourceError(error.what, where=error.where, fix=error.fix) from error


class _Verification:
    def __init__(
        self, hub: Hub, commit: str, where: str, there: Mapping[str, RemoteFile], desk: Path, reporter: Reporter
    ) -> None:
        self.hub, self.commit, self.where, self.there = hub, commit, where, there
        self.desk, self.reporter = desk, reporter

    def run(self) -> Manifest:
        manifest = self._manifest()
        listed: dict[str, Digest] = manifest.listed_files()
        wrong = [f"{path} is missing" for path in sorted(listed.keys() - self.there.keys())]
        extra = self.there.keys() - listed.keys() - {MANIFEST, GITATTRIBUTES}
        wrong += [f"{path} is not in the manifest" for path in self._not_kept(sorted(extra), manifest)]
        present = sorted(listed.keys() & self.there.keys())
        self.reporter.start("verify", f"download {self.where}", sum(listed[path].size for path in present))
        for path in present:
            size = self.there[path].size
            if size != listed[path].size:
                wrong.append(f"{path} has {size} bytes, {listed[path].size} are recorded")
            elif not self._sound(path, listed[path]):
                wrong.append(f"{path} has other bytes than recorded")
        shutil.rmtree(self.desk, ignore_errors=True)
        self.reporter.end("verify", f"{len(wrong)} wrong" if wrong else f"{counted(len(present), 'files')} as recorded")
        if wrong:
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            fix = "do not use it, and tell its owner"
            raise ReleaseError("; ".join(wrong[:_SHOWN]) + more, where=self.where, fix=fix)
        if missed := manifest.missed():
            raise GateError("\n".join(missed), where=self.where)
        return manifest

    def _manifest(self) -> Manifest:
        path = self.desk / MANIFEST
        with storage_errors("write the manifest"):
            path.write_bytes(content_of(self.hub, self.commit, MANIFEST, self.there[MANIFEST]))
        try:
            return read_manifest(self.desk)
        except ReleaseError as error:
            raise ReleaseError(error.what, where=f"{self.where}: {MANIFEST}", fix="tell its owner") from error

    def _not_kept(self, extra: list[str], manifest: Manifest) -> list[str]:
        """Those of the ``extra`` files that the published recipe does not speak of under ``publish.keep``."""
        keep = self._keep(manifest) if extra else ()
        kept = [path for path in extra if any(matches(pattern, path) for pattern in keep)]
        if kept:
            self.reporter.note(f"not of the release, kept by its recipe: {', '.join(kept[:_SHOWN])}")
        return [path for path in extra if path not in kept]

    def _keep(self, manifest: Manifest) -> tuple[str, ...]:
        listed, recorded = self.there.get(manifest.recipe), manifest.records.get(manifest.recipe)
        if listed is None or recorded is None or listed.size > _MAX_RECIPE:
            return ()
        content = content_of(self.hub, self.commit, manifest.recipe, listed)
        if hashlib.sha256(content).hexdigest() != recorded.sha256:
            return ()
        try:
            data = yaml.safe_load(content)
            patterns = data["publish"]["keep"]
        except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
            return ()
        return tuple(pattern for pattern in patterns if isinstance(pattern, str)) if isinstance(patterns, list) else ()

    def _sound(self, path: str, digest: Digest) -> bool:
        done = self.desk / f"{digest.sha256}.sound"
        if done.exists():  # by an earlier try, or under another name
            self.reporter.advance(digest.size)
            return True
        part = self.desk / f"{digest.sha256}.part"
        if digest.size and part.exists() and part.stat().st_size > digest.size:
            part.unlink()
        self.reporter.advance(part.stat().st_size if part.exists() else 0)
        try:
            self._download(path, digest).to(part, self.reporter.advance)
        except DigestMismatch:
            return False
        with storage_errors("note what was verified"):
            done.touch()
            part.unlink()
        return True

    def _download(self, path: str, digest: Digest) -> Download:
        from huggingface_hub import constants, get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        where = f"{self.where}: {path}"

        def refuse(response: httpx2.Response) -> NoReturn:
            from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

            try:
                hf_raise_for_status(response)
            except client_errors() as error:
                raise diagnose(error).error(where) from error
            raise SourceError(f"the Hub answers {response.status_code}", where=where)

        return Download(
            get_session(),
            hf_hub_url(self.hub.repo, path, revision=self.commit, endpoint=self.hub.endpoint),
            where,
            size=digest.size,
            sha256=digest.sha256,
            headers=build_hf_headers(),
            timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT),
            refuse=refuse,
        )

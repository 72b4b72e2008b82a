"""A Hub on loopback, as far as reading goes: repo info with file metadata, and resolve; LFS bytes on another origin."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import unquote

from loopback import Answer, Asked, Loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class CdnStub(Loopback):
    """Where the Hub keeps large files; must never see a token."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}

    def answer(self, asked: Asked) -> Answer:
        return Answer(body=self.blobs[asked.path.lstrip("/")])


class HubStub(Loopback):
    """One repo ``owner/repo`` with ``files``; those in ``lfs`` live on ``cdn``."""

    repo = "owner/repo"

    def __init__(self, files: dict[str, bytes], cdn: CdnStub, lfs: set[str], token: str = "") -> None:
        super().__init__()
        self.files = files
        self.cdn = cdn
        self.lfs = lfs
        self.token = token
        self.error_code = ""
        """When set, every answer is this refusal."""
        self.listed: dict[str, bytes] = {}
        """Files that the metadata describes as if they held these bytes."""
        self.extra_siblings: list[dict[str, object]] = []
        for name in lfs:
            cdn.blobs[hashlib.sha256(files[name]).hexdigest()] = files[name]

    def answer(self, asked: Asked) -> Answer:
        if asked.path.startswith("/elsewhere/"):
            return Answer(404)
        if asked.path.startswith("/portal/"):
            return Answer(body=b"<html>log in to this network</html>")
        if self.error_code:
            status = {"GatedRepo": 403, "RepoNotFound": 401}.get(self.error_code, 404)
            return Answer(status, headers={"X-Error-Code": self.error_code})
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            return Answer(401, headers={"X-Error-Code": "RepoNotFound"})
        if asked.path.startswith(f"/api/models/{self.repo}/revision/"):
            revision = unquote(asked.path.rpartition("/")[2])
            if revision not in ("main", "v1", COMMIT):
                return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            return Answer(body=json.dumps(self._info()).encode(), headers={"Content-Type": "application/json"})
        prefix = f"/{self.repo}/resolve/{COMMIT}/"
        name = unquote(asked.path.removeprefix(prefix))
        if not asked.path.startswith(prefix) or name not in self.files:
            return Answer(404, headers={"X-Error-Code": "EntryNotFound"})
        if name in self.lfs:
            sha256 = self._siblings()[name]["lfs"]["sha256"]
            return Answer(302, headers={"Location": f"{self.cdn.url}/{sha256}", "X-Repo-Commit": COMMIT})
        return Answer(
            body=self.files[name], headers={"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha1(self.files[name])}"'}
        )

    def _siblings(self) -> dict[str, dict[str, dict[str, object]]]:
        return {
            name: {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
            for name, data in self.files.items()
        }

    def _info(self) -> dict[str, object]:
        siblings: list[dict[str, object]] = [
            {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            | (self._siblings()[name] if name in self.lfs else {})
            for name, data in (self.files | self.listed).items()
        ]
        return {"id": self.repo, "sha": COMMIT, "siblings": siblings + self.extra_siblings}

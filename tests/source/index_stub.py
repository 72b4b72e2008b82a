"""A package index on loopback: PEP 503 pages or PEP 691 JSON, and the files."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from urllib.parse import quote, unquote

from loopback import Answer, Asked, Loopback
from packaging.utils import canonicalize_name


class IndexStub(Loopback):
    """``files`` by name; ``hashes`` False leaves them out of the pages, ``login`` is ``user:password``."""

    def __init__(self, files: dict[str, bytes], *, as_json: bool = False, hashes: bool = True, login: str = "") -> None:
        super().__init__()
        self.files = files
        self.as_json = as_json
        self.hashes = hashes
        self.login = login
        self.wrong_hash: str | None = None

    @property
    def simple(self) -> str:
        return f"{self.url}/simple"

    def answer(self, asked: Asked) -> Answer:
        if (
            self.login
            and asked.headers.get("authorization") != f"Basic {base64.b64encode(self.login.encode()).decode()}"
        ):
            return Answer(401, headers={"WWW-Authenticate": "Basic realm=index"})
        kind, _, rest = asked.path.lstrip("/").partition("/")
        if kind == "files":
            name = unquote(rest)
            return Answer(body=self.files[name]) if name in self.files else Answer(404)
        wanted = [name for name in self.files if canonicalize_name(name.split("-")[0]) == rest.strip("/")]
        return self._page(wanted) if kind == "simple" and wanted else Answer(404)

    def _page(self, names: list[str]) -> Answer:
        hashes = {name: self.wrong_hash or hashlib.sha256(self.files[name]).hexdigest() for name in names}
        if self.as_json:
            files = [
                {
                    "filename": name,
                    "url": f"../../files/{quote(name)}",
                    "hashes": {"sha256": hashes[name]} if self.hashes else {},
                }
                for name in names
            ]
            body = json.dumps({"meta": {"api-version": "1.0"}, "name": "x", "files": files})
            return Answer(body=body.encode(), headers={"Content-Type": "application/vnd.pypi.simple.v1+json"})
        ends = {name: f"#sha256={sha256}" if self.hashes else "" for name, sha256 in hashes.items()}
        links = [f'<a href="../../files/{quote(name)}{ends[name]}">{html.escape(name)}</a>' for name in names]
        body = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>"
        return Answer(body=body.encode(), headers={"Content-Type": "text/html; charset=utf-8"})

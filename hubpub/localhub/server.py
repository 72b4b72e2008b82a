"""The Hub as a server on loopback, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hubpub.errors import LocalHubError
from hubpub.localhub.database import Database
from hubpub.localhub.faults import Fault, Faults, Request
from hubpub.localhub.refusal import Refusal
from hubpub.localhub.repos import Commit, Kind, Repo, Repos
from hubpub.localhub.roots import in_use
from hubpub.localhub.seed import seed
from hubpub.localhub.tokens import Role, Tokens

if TYPE_CHECKING:
    import uvicorn

_HOST = "127.0.0.1"  # and nothing else: this Hub is a rehearsal stage
MULTIPART_BYTES = 64 << 20


class LocalHub:
    """A Hub on loopback that ``huggingface_hub`` cannot tell from the real one for publishing and loading.

    Use it as a context manager; ``HF_ENDPOINT=hub.endpoint`` and ``HF_TOKEN=hub.token()`` are all a client needs.

    Args:
        root: the folder where it keeps everything; made when missing. One server at a time.
        port: 0 for a free one.
        xet: speak Xet; without it only LFS.
        page_size: entries of a page of a tree.
        multipart_bytes: LFS files above that arrive in parts of that size.
    """

    def __init__(
        self,
        root: Path,
        *,
        port: int = 0,
        xet: bool = True,
        page_size: int = 1000,
        multipart_bytes: int = MULTIPART_BYTES,
    ) -> None:
        self._root = root
        self._port = port
        self._xet = xet
        self._page_size = page_size
        self._multipart_bytes = multipart_bytes

    def __enter__(self) -> Self:
        _need_libraries()
        with ExitStack() as stack:
            self._blobs = stack.enter_context(in_use(self._root, serve=True))
            self._socket = stack.enter_context(_listen(self._port))
            self._database = Database(self._root)
            stack.callback(self._database.close)
            self._start()
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._faults.stopping.set)
        self._server.should_exit = True
        self._thread.join()

    def _start(self) -> None:
        import uvicorn

        from hubpub.localhub.app import make_app
        from hubpub.localhub.call import Hub
        from hubpub.localhub.connection import Connection

        self._tokens = Tokens(self._database)
        self._repos = Repos(self._database, self._blobs)
        secret = bytes.fromhex(self._database.secret("secret"))
        self.admin = self._database.secret("admin")
        self._faults = Faults()
        self._hub = Hub(
            database=self._database,
            repos=self._repos,
            blobs=self._blobs,
            tokens=self._tokens,
            cas=self._make_cas(secret),
            endpoint=self.endpoint,
            page_size=self._page_size,
            multipart_bytes=self._multipart_bytes,
            secret=secret,
        )
        app = make_app(self._hub, self._root, self._faults, self.admin)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=60,
            h11_max_incomplete_event_size=1 << 20,
        )
        self._server = uvicorn.Server(config)
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(self._server, started), name="localhub", daemon=True)
        self._thread.start()
        started.wait()

    def _make_cas(self, secret: bytes) -> Any:
        if not self._xet:
            return None
        from hubpub.localhub.xet import Cas

        return Cas(self._root, self._blobs, secret)

    def _serve(self, server: uvicorn.Server, started: threading.Event) -> None:
        import asyncio

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            started.set()  # the socket listens already: what connects now is answered soon
            await server.serve(sockets=[self._socket])

        asyncio.run(run())

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must say."""
        return f"http://{_HOST}:{self._socket.getsockname()[1]}"

    # tokens

    def token(self, role: Role = "write", user: str = "tester") -> str:
        """A new token of a user; write tokens of ``tester`` may change every repo that was seeded."""
        return self._tokens.make(role, user)

    def same_token(self, role: Role = "write", user: str = "tester") -> str:
        """The token of that role that the user already has, else a new one."""
        return self._tokens.same(role, user)

    def revoke(self, token: str) -> None:
        """From now on the token is unknown."""
        self._tokens.revoke(token)

    def trust(self, repo_id: str, repository: str, *, repo_type: Kind = "model") -> str:
        """Let CI jobs of ``repository`` (``owner/name`` on GitHub) publish to a repo; the jobs' request token.

        A job has it as ``ACTIONS_ID_TOKEN_REQUEST_TOKEN``, with ``id_token_url`` as ``ACTIONS_ID_TOKEN_REQUEST_URL``.
        """
        from hubpub.localhub import oidc

        oidc.trust(self._hub, repo_type, repo_id, repository)
        return oidc.request_token(self._hub, repository)

    @property
    def id_token_url(self) -> str:
        """Where a CI job asks for its id token."""
        return f"{self.endpoint}/_hub/oidc/id-token?api-version=2.0"

    def id_token(self, repository: str, *, audience: str | None = None, seconds: int = 300) -> str:
        """An id token of a CI job, to go into ``HF_OIDC_ID_TOKEN``; for this Hub unless ``audience`` says otherwise."""
        from hubpub.localhub import oidc

        return oidc.id_token(self._hub, repository, audience or self.endpoint, seconds=seconds)

    # contents

    def seed(
        self,
        repo_id: str,
        folder: Path,
        *,
        repo_type: Kind = "model",
        message: str = "Seed",
        revision: str = "main",
        tag: str | None = None,
    ) -> str:
        """Make the head of a branch equal to a folder, by one more commit, whose id is returned; see ``seed.seed``."""
        return seed(
            self._database,
            self._blobs,
            repo_id,
            folder,
            repo_type=repo_type,
            message=message,
            revision=revision,
            tag=tag,
        )

    def head(self, repo_id: str, revision: str = "main", *, repo_type: Kind = "model") -> str:
        """Commit id of a revision."""
        return self._at(repo_id, revision, repo_type)[1].oid

    def files(self, repo_id: str, revision: str = "main", *, repo_type: Kind = "model") -> dict[str, tuple[int, str]]:
        """Size and sha256 of every file by path."""
        _, commit = self._at(repo_id, revision, repo_type)
        return {path: (file.size, file.sha256) for path, file in self._repos.files(commit.tree).items()}

    def commits(self, repo_id: str, revision: str = "main", *, repo_type: Kind = "model") -> list[str]:
        """Commit ids, newest first; the last is the one that the Hub makes when a repo is created."""
        return [each.oid for each in self._repos.history(*self._at(repo_id, revision, repo_type))]

    def _at(self, repo_id: str, revision: str, repo_type: Kind) -> tuple[Repo, Commit]:
        try:
            repo = self._repos.get(repo_type, repo_id)
            return repo, self._repos.resolve(repo, revision)
        except Refusal as refusal:
            raise LocalHubError(refusal.message, where=repo_id) from None

    # faults and log

    def fault(
        self,
        path: str,
        *,
        method: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        delay: float = 0.0,
        cut_after: int | None = None,
        cut_request_after: int | None = None,
        after: bool = False,
        hang: bool = False,
        nth: int = 1,
        times: int = 1,
    ) -> None:
        """Do something to coming requests whose path matches; the arguments are the attributes of ``Fault``."""
        self._faults.add(
            Fault(
                path=path,
                method=method,
                status=status,
                headers=headers or {},
                body=body,
                delay=delay,
                cut_after=cut_after,
                cut_request_after=cut_request_after,
                after=after,
                hang=hang,
                nth=nth,
                times=times,
            )
        )

    def clear_faults(self) -> None:
        """No faults any more."""
        self._faults.clear()

    @property
    def requests(self) -> list[Request]:
        """Every request so far, oldest first."""
        return self._faults.requests()

    def clear_requests(self) -> None:
        """Forget them."""
        self._faults.requests(clear=True)


def _need_libraries() -> None:
    import importlib.util

    missing = [name for name in ("starlette", "uvicorn", "lz4") if importlib.util.find_spec(name) is None]
    if missing:
        raise LocalHubError(f"the Hub on loopback needs {' and '.join(missing)}", fix="install hubpub[hub]")


def _listen(port: int) -> socket.socket:
    # The protocol is named because asyncio sets TCP_NODELAY only where it is; without, each answer takes 40 ms.
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((_HOST, port))
        found.listen(128)
    except (OSError, OverflowError) as error:
        found.close()
        why = getattr(error, "strerror", None) or str(error)
        raise LocalHubError(f"port {port}: {why}", where=_HOST, fix="name another port, or 0 for a free one") from None
    return found

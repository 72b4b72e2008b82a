"""Where a distribution can be had: package indexes and link pages, read by ``unearth`` under the user's pip options."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hubpub.errors import SourceError
from hubpub.source.download import RETRY_STATUS, wait, without_secrets
from hubpub.source.pipconfig import PipConfig

if TYPE_CHECKING:
    import ssl

    import httpx2
    from unearth import Link
    from unearth.fetchers import Fetcher


@dataclass(frozen=True)
class Offer:
    """A file that an index offers; ``sha256`` as the index gives it, ``yanked`` its reason for advising against it."""

    filename: str
    version: str
    is_wheel: bool
    sha256: str | None
    local: Path | None
    link: Link
    yanked: str | None = None

    @property
    def url(self) -> str:
        """Where it lies, possibly with a password: never print it."""
        return self.link.url_without_fragment


class Indexes:
    """The indexes and link pages of a pip configuration. Yanked files count: a recipe names an exact version."""

    def __init__(self, config: PipConfig) -> None:
        self.config = config
        self._problems: list[str] = []

    def offers(self, name: str) -> list[Offer]:
        """Every file of the project ``name``, those on this machine first, else in the configuration's order.

        A place that cannot be read is passed over; `problems` then says why.
        """
        import httpx2
        from unearth import PackageFinder

        self._problems = []
        found: list[Offer] = []
        for is_index, location in self._places():
            # One finder per place, so that one dead index does not hide the others.
            index_urls, find_links = ([location], []) if is_index else ([], [location])
            finder = PackageFinder(
                cast("Fetcher", self.client), index_urls=index_urls, find_links=find_links, ignore_compatibility=True
            )
            try:
                with _warnings_into(self._problems):
                    packages = finder.find_all_packages(name, allow_yanked=True)
                    found += [_offer(package.link, package.version or "") for package in packages]
            except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, OSError) as error:
                reason = "is not readable" if isinstance(error, ValueError) else str(error) or type(error).__name__
                self._problems.append(f"{without_secrets(location)}: {reason}")
        return sorted(found, key=lambda offer: offer.local is None)

    @property
    def problems(self) -> str | None:
        """Which places could not be read and why, for a message."""
        return "; ".join(self._problems) or None

    def _places(self) -> Iterator[tuple[bool, str]]:
        for link in self.config.usable_find_links:
            yield False, link
        if not self.config.no_index:
            yield True, self.config.index_url or _default_index()
            for url in self.config.extra_index_urls:
                yield True, url

    @cached_property
    def client(self) -> httpx2.Client:
        """An HTTP client with the configuration's proxy, certificates, trusted hosts, netrc and keyring."""
        from unearth.auth import MultiDomainBasicAuth

        config = self.config
        secured = [url for is_index, url in self._places() if is_index]
        client: httpx2.Client = _client_class()(
            retries=config.retries,
            trusted_hosts=config.trusted_hosts,
            mounts=_trusting_mounts(config),
            verify=_certificates(config) or True,
            proxy=config.proxy,
            timeout=config.timeout,
            follow_redirects=True,
            auth=MultiDomainBasicAuth(prompting=False, index_urls=secured),
        )
        return client


def _offer(link: Link, version: str) -> Offer:
    hashes = link.hash_option or {}
    sha256 = next(iter(hashes.get("sha256", [])), None)
    return Offer(
        filename=link.filename,
        version=version,
        is_wheel=link.is_wheel,
        sha256=sha256.lower() if sha256 else None,
        local=link.file_path if link.is_file else None,
        link=link,
        yanked=_reason(link.yank_reason),
    )


def _reason(yanked: object) -> str | None:
    """A page gives a text, empty when nobody said why; a JSON page may say just true."""
    if yanked is None or yanked is False:
        return None
    said = " ".join(yanked.split())[:200] if isinstance(yanked, str) else ""
    return "".join(char for char in said if char.isprintable()) or "no reason is given"


def _default_index() -> str:
    """The index that unearth (like pip) uses when nothing is configured."""
    from unearth import PackageFinder

    return str(PackageFinder().sources[0]["url"])


def _certificates(config: PipConfig) -> ssl.SSLContext | None:
    """A context for a configured authority or client certificate; None leaves the choice to the HTTP library.

    Raises:
        SourceError: a file is missing or holds no certificate.
    """
    if not (config.cert or config.client_cert):
        return None
    import ssl

    bundle = Path(config.cert).expanduser() if config.cert else None
    try:
        if bundle and bundle.is_dir():
            context = ssl.create_default_context(capath=bundle)
        else:
            context = ssl.create_default_context(cafile=bundle)
        if config.client_cert:
            context.load_cert_chain(Path(config.client_cert).expanduser())
    except OSError as error:  # ssl.SSLError is one
        raise SourceError(
            f"cert or client-cert cannot be used ({error.strerror or error})", where="pip's configuration"
        ) from error
    return context


def _trusting_mounts(config: PipConfig) -> dict[str, httpx2.BaseTransport]:
    """Transports for trusted hosts: certificates not verified, but the proxy used (unearth's own go past it)."""
    from urllib.request import getproxies, proxy_bypass

    import httpx2

    proxies = getproxies()
    mounts: dict[str, httpx2.BaseTransport] = {}
    for host in config.trusted_hosts:
        proxy = config.proxy or (None if proxy_bypass(host) else proxies.get("https") or proxies.get("http"))
        mounts[f"all://{host}"] = httpx2.HTTPTransport(verify=False, proxy=proxy)
    return mounts


def _client_class() -> Any:
    """Unearth's client, asking again where an index page fails for the moment (httpx2 itself never does)."""
    import httpx2
    from unearth.fetchers.sync import PyPIClient

    class Client(PyPIClient):
        def __init__(self, *, retries: int, **options: Any) -> None:
            super().__init__(**options)
            self._retries = retries

        def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
            if stream:  # a `Download`, which has its own way of going on
                return super().send(request, stream=True, **options)
            for attempt in range(1, self._retries + 1):
                try:
                    response = super().send(request, **options)
                except httpx2.TransportError as error:
                    if "CERTIFICATE_VERIFY_FAILED" in str(error):
                        raise
                    wait(attempt)
                    continue
                if response.status_code not in RETRY_STATUS:
                    return response
                wait(attempt, response.headers.get("Retry-After"))
            return super().send(request, **options)

    return Client


@contextlib.contextmanager
def _warnings_into(problems: list[str]) -> Iterator[None]:
    """Collect what unearth logs about pages that it passes over; it masks passwords in them itself."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if "Client Error(404)" not in message:  # an index that just does not have the project
                problems.append(message)

    logger = logging.getLogger("unearth")
    handler, propagated = Collect(logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated

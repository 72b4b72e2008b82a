"""The user's own pip configuration: which indexes, mirrors, proxies and certificates to use.

pip tells it itself (`pip config list`); where pip is not installed beside us its files and variables are read as
https://pip.pypa.io/en/stable/topics/configuration/ documents them. Index URLs may hold passwords: never print them.
"""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from hubpub.errors import SourceError

_ALIASES = {"default-timeout": "timeout", "pypi-url": "index-url"}
_TRUE = {"y", "yes", "t", "true", "on", "1"}


@dataclass(frozen=True, repr=False)
class PipConfig:
    """The options of pip that decide where distributions come from. ``timeout`` is in seconds."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    keyring_provider: str | None = None
    no_index: bool = False
    timeout: float = 15.0
    retries: int = 5

    @property
    def usable_find_links(self) -> tuple[str, ...]:
        """Without local folders that do not exist: pip only warns about them, other tools stop."""
        local = {link: str(_local(link)) for link in self.find_links if not _is_remote(link)}
        return tuple(
            local.get(link, link) for link in self.find_links if link not in local or Path(local[link]).exists()
        )


def read(command: str = "download") -> PipConfig:
    """What pip itself would use for ``pip <command>``.

    Raises:
        SourceError: pip cannot read its configuration, or a number in it is none.
    """
    deciding = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "XDG_")) or key == "HOME"}
    found = _merged(_from_pip(sys.executable, tuple(sorted(deciding.items()))), command)

    def words(key: str) -> tuple[str, ...]:
        return tuple(found.get(key, "").split())

    try:
        timeout = float(found.get("timeout") or PipConfig.timeout)
        retries = int(found.get("retries") or PipConfig.retries)
    except ValueError as error:
        raise SourceError("timeout or retries is not a number", where="pip's configuration") from error
    bundle = found.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    return PipConfig(
        index_url=found.get("index-url"),
        extra_index_urls=words("extra-index-url"),
        find_links=words("find-links"),
        trusted_hosts=words("trusted-host"),
        cert=bundle or None,
        client_cert=found.get("client-cert"),
        proxy=found.get("proxy"),
        keyring_provider=found.get("keyring-provider"),
        no_index=found.get("no-index", "").lower() in _TRUE,
        timeout=timeout,
        retries=retries,
    )


def uv_environment(config: PipConfig | None = None) -> dict[str, str]:
    """The same configuration as variables for uv, which does not read pip's; what is already set stays as it is.

    Raises:
        SourceError: the configuration says ``no-index`` and has links to a server: uv has no variable for that.
    """
    config = config or read("install")
    found: dict[str, str | None] = {
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # pip looks at all indexes alike
        "UV_HTTP_TIMEOUT": str(max(1, round(config.timeout))),
        "UV_HTTP_RETRIES": str(config.retries),
        "UV_FIND_LINKS": ",".join(config.usable_find_links),
        "UV_INSECURE_HOST": " ".join(config.trusted_hosts),
        "SSL_CLIENT_CERT": config.client_cert,
        "HTTP_PROXY": config.proxy,
        "HTTPS_PROXY": config.proxy,
        "UV_KEYRING_PROVIDER": "subprocess" if config.keyring_provider not in (None, "auto", "disabled") else None,
    }
    if config.cert:
        found["SSL_CERT_DIR" if Path(config.cert).is_dir() else "SSL_CERT_FILE"] = config.cert
    if not config.no_index:
        found["UV_DEFAULT_INDEX"] = config.index_url
        found["UV_INDEX"] = " ".join(config.extra_index_urls)
    elif any(_is_remote(link) for link in config.usable_find_links):
        raise SourceError(
            "no-index together with find-links on a server cannot be told to uv",
            where="pip's configuration",
            fix="set UV_DEFAULT_INDEX yourself or use a local folder",
        )
    else:
        found["UV_OFFLINE"] = "1"
    return {name: value for name, value in found.items() if value and name not in os.environ}


def _is_remote(link: str) -> bool:
    return urlsplit(link).scheme in ("http", "https")


def _local(link: str) -> Path:
    from urllib.request import url2pathname

    parts = urlsplit(link)
    return Path(url2pathname(parts.path) if parts.scheme == "file" else link).expanduser()


def _merged(lines: Mapping[tuple[str, str], str], command: str) -> dict[str, str]:
    """Options by name; later sections win, as in pip: global, then the command's, then the environment."""
    merged: dict[str, str] = {}
    for section in ("global", command, ":env:"):
        for (where, key), value in lines.items():
            if where == section and value:
                merged[_ALIASES.get(key, key)] = value
    return merged


@lru_cache(maxsize=8)  # asking takes about 0.4 s, and a build has many sources
def _from_pip(python: str, deciding: tuple[tuple[str, str], ...]) -> dict[tuple[str, str], str]:
    """(section, option) -> value, as pip of the interpreter ``python`` sees it under the ``deciding`` variables."""
    asked = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if asked.returncode:
        if "No module named pip" in asked.stderr:
            return dict(_from_files_and_environment())
        said = (asked.stderr.strip() or asked.stdout.strip()).splitlines()
        raise SourceError(
            f"pip cannot read its configuration ({said[-1] if said else 'no message'})", fix="try `pip config list`"
        )
    found = {}
    for line in asked.stdout.splitlines():
        name, equals, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if equals and section:
            found[section, key] = str(ast.literal_eval(value))
    return found


def _from_files_and_environment() -> Iterator[tuple[tuple[str, str], str]]:
    """The same without pip; files in pip's order, so that a later one wins."""
    chosen = os.environ.get("PIP_CONFIG_FILE")
    home = Path.home()
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    user = [home / ".pip" / "pip.conf", config_home / "pip" / "pip.conf"]
    machine = [Path(folder) / "pip" / "pip.conf" for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    if sys.platform == "darwin":
        machine = [Path("/Library/Application Support/pip/pip.conf")]
        support = home / "Library" / "Application Support" / "pip"
        user[1] = support / "pip.conf" if support.is_dir() else user[1]
    files = [*machine, *([] if sys.platform == "darwin" else [Path("/etc/pip.conf")])]
    files += [] if chosen and Path(chosen).exists() else user
    files += [Path(sys.prefix) / "pip.conf", *([Path(chosen)] if chosen else [])]
    for path in [] if chosen == os.devnull else files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise SourceError("cannot be read as pip's configuration", where=str(path)) from error
        for section in parser.sections():
            for key, value in parser.items(section):
                yield (section, key.replace("_", "-")), value
    for name, value in os.environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            yield (":env:", name[4:].lower().replace("_", "-")), value

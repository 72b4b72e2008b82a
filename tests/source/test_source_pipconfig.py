"""The user's pip configuration, with and without pip, and the same for uv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import good_wheel, make_zip
from index_stub import IndexStub

from hubpub.errors import SourceError
from hubpub.source import PypiSource, SourceContext, pipconfig
from hubpub.source.index import Indexes
from hubpub.source.pipconfig import PipConfig

CONFIG = """\
[global]
index-url = https://me:s3cret@mirror.test/simple
extra-index-url =
    file:///srv/simple
    https://second.test/simple
timeout = 44
trusted-host = mirror.test
[download]
retries = 7
[install]
retries = 8
no-index = true
find-links = {folder}
"""


@pytest.fixture(params=[True, False], ids=["pip", "without pip"])
def with_pip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """Without pip: an interpreter that says it has none, as one in a bare environment does."""
    has_pip: bool = request.param
    if not has_pip:
        bare = tmp_path / "python"
        bare.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
        bare.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(bare))
    return has_pip


@pytest.fixture
def config_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pip_options: Callable[..., None]) -> Path:
    pip_options()
    monkeypatch.delenv("PIP_RETRIES")
    path = tmp_path / "pip.conf"
    path.write_text(CONFIG.format(folder=tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    return path


def test_files_sections_and_variables(with_pip: bool, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "99")
    config = pipconfig.read()
    assert config.index_url == "https://me:s3cret@mirror.test/simple"
    assert config.extra_index_urls[-2:] == ("file:///srv/simple", "https://second.test/simple")
    assert config.timeout == 99
    assert config.retries == 7
    assert not config.no_index
    assert config.trusted_hosts == ("mirror.test",)
    assert "s3cret" not in repr(config)
    install = pipconfig.read("install")
    assert install.retries == 8
    assert install.no_index
    assert install.find_links == (str(config_file.parent),)


def test_both_ways_of_reading_agree_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pipconfig.read()
    monkeypatch.setattr(pipconfig, "_from_pip", lambda *_: dict(pipconfig._from_files_and_environment()))
    for name in PipConfig.__dataclass_fields__:
        assert getattr(pipconfig.read(), name) == getattr(asked, name)


@pytest.mark.parametrize("text", ["[global\n", "no section\n"])
def test_a_broken_file_is_one_line(with_pip: bool, config_file: Path, text: str) -> None:
    config_file.write_text(text)
    with pytest.raises(SourceError) as caught:
        pipconfig.read()
    assert "\n" not in str(caught.value)


def test_a_number_that_is_none(with_pip: bool, config_file: Path) -> None:
    config_file.write_text("[global]\ntimeout = soon\n")
    with pytest.raises(SourceError, match=r"not a number|timeout"):
        pipconfig.read()


def test_nothing_configured_uses_the_default_index_of_the_library(pip_options: Callable[..., None]) -> None:
    pip_options()
    config = pipconfig.read()
    assert config.index_url is None
    places = list(Indexes(config)._places())
    assert len(places) == 1
    assert places[0][1].startswith("https://")


def test_a_missing_certificate_is_named() -> None:
    with pytest.raises(SourceError, match="cert or client-cert cannot be used"):
        _ = Indexes(PipConfig(cert="/no/such/file.pem")).client


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_certificates_and_trusted_hosts(
    context: SourceContext, tmp_path: Path, pip_options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    making = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*making, *names], check=True, capture_output=True)
    spec = PypiSource(pypi="pkg", version="1.0")
    with IndexStub({"pkg-1.0-py3-none-any.whl": good_wheel(b"x")}) as index:
        index.use_tls(cert, key)
        pip_options(index_url=index.simple)
        with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
            spec.resolve(context)
        pip_options(index_url=index.simple, cert=str(cert))
        assert spec.resolve(context).files
        pip_options(index_url=index.simple, trusted_host="127.0.0.1")
        assert spec.resolve(context).files


def test_variables_for_uv(pip_options: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip_options()
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    config = PipConfig(
        index_url="https://mirror.test/simple",
        extra_index_urls=("file:///a/simple", "https://b.test/simple"),
        find_links=(str(tmp_path), "/no/such/folder"),
        trusted_hosts=("b.test", "c.test:8080"),
        cert=str(tmp_path),
        proxy="http://proxy.test:3128",
        timeout=44.0,
    )
    assert pipconfig.uv_environment(config) == {
        "UV_DEFAULT_INDEX": "https://mirror.test/simple",
        "UV_INDEX": "file:///a/simple https://b.test/simple",
        "UV_FIND_LINKS": str(tmp_path),
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INSECURE_HOST": "b.test c.test:8080",
        "SSL_CERT_DIR": str(tmp_path),
        "HTTP_PROXY": "http://proxy.test:3128",
        "HTTPS_PROXY": "http://proxy.test:3128",
        "UV_HTTP_TIMEOUT": "44",
        "UV_HTTP_RETRIES": "5",
    }
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.test/simple")
    assert "UV_DEFAULT_INDEX" not in pipconfig.uv_environment(config), "what the user set for uv itself stays"
    assert pipconfig.uv_environment(PipConfig(no_index=True))["UV_OFFLINE"] == "1"
    with pytest.raises(SourceError, match="no-index"):
        pipconfig.uv_environment(PipConfig(no_index=True, find_links=("https://a.test/links",)))


def test_uv_installs_with_them(tmp_path: Path, pip_options: Callable[..., None]) -> None:
    from uv import find_uv_bin

    metadata = b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n"
    wheel = make_zip(
        [
            ("pkg.py", b"x = 1\n"),
            ("pkg-1.0.dist-info/METADATA", metadata),
            ("pkg-1.0.dist-info/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("pkg-1.0.dist-info/RECORD", b""),
        ]
    )
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with IndexStub({"pkg-1.0-py3-none-any.whl": wheel}, login="me:s3cret") as index:
        pip_options(index_url=index.simple.replace("//", "//me:s3cret@"), find_links=f"{one} /no/such/folder {two}")
        command = [find_uv_bin(), "pip", "install", "--target", str(tmp_path / "site"), "--no-cache", "pkg==1.0"]
        run = subprocess.run(
            [*command, "--python", sys.executable],
            env=os.environ | pipconfig.uv_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "site" / "pkg.py").read_text() == "x = 1\n"

"""``hubpub hub serve`` and ``seed``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from hub_client import run_client

from hubpub.errors import LocalHubError
from hubpub.localhub import LocalHub

HUBPUB = str(Path(sys.executable).with_name("hubpub"))


def hubpub(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [HUBPUB, "hub", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | env, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_seed_then_serve(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "hub"
    first = hubpub("seed", folder, "me/model", "--tag", "v1", HUBPUB_HUB=str(root))
    assert (first.returncode, first.stderr) == (0, "")
    (folder / "config.json").write_text("[]")
    second = hubpub("seed", folder, "me/model", "--root", root, "--message", "two", "--json")
    told = json.loads(second.stdout)
    with subprocess.Popen([HUBPUB, "hub", "serve", "--root", str(root)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        line = server.stdout.readline()
        found = re.fullmatch(r"export HF_ENDPOINT=(http://127\.0\.0\.1:\d+) HF_TOKEN=(hf_LocalHubWrite\w+)\n", line)
        assert found, line
        info = httpx2.get(f"{found[1]}/api/models/me/model").json()
        assert info["sha"] == told["commit"]
        assert httpx2.get(f"{found[1]}/me/model/resolve/v1/config.json").text == "{}"
        assert httpx2.get(f"{found[1]}/me/model/resolve/main/config.json").text == "[]"
        # while it runs
        (folder / "new").write_text("new")
        third = hubpub("seed", folder, "me/model", "--root", root)
        assert third.returncode == 0, third.stderr
        assert httpx2.get(f"{found[1]}/me/model/resolve/main/new").text == "new"
        refused = hubpub("serve", "--root", root)
        assert refused.returncode == 1
        assert refused.stderr.splitlines() == [
            f"hubpub: {root}: another server uses this folder; stop it, or name another folder with --root"
        ]
        port = found[1].rpartition(":")[2]
        taken = hubpub("serve", "--root", tmp_path / "other", "--port", port)
        assert taken.returncode == 1
        assert re.fullmatch(rf"hubpub: 127\.0\.0\.1: port {port}: Address already in use; .*\n", taken.stderr)
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    again = hubpub("seed", folder, "me/data", "--root", root, "--type", "dataset", "--quiet")
    assert (again.returncode, again.stdout) == (0, "")


def test_the_tokens_stay_and_are_told(tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        command = [HUBPUB, "hub", "serve", "--root", str(tmp_path / "hub"), "--json", "--no-xet"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            lines = ""
            while not lines.endswith("}\n"):
                lines += server.stdout.readline()
            told.append(json.loads(lines))
            path = f"{told[-1]['endpoint']}/api/whoami-v2"
            for name, role in (("token", "write"), ("read_token", "read")):
                answer = httpx2.get(path, headers={"authorization": f"Bearer {told[-1][name]}"}).json()
                assert answer["auth"]["accessToken"]["role"] == role
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
    assert [told[0][name] for name in ("token", "read_token", "admin")] == [
        told[1][name] for name in ("token", "read_token", "admin")
    ]


@pytest.mark.parametrize("name", ["model", "a/b/c", "a/b c", "../x/y", "a/b.git"])
def test_seed_refuses_bad_names(tmp_path: Path, folder: Path, name: str) -> None:
    done = hubpub("seed", folder, name, "--root", tmp_path / "hub")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Invalid repo name" in done.stderr


def test_seed_refuses_what_is_no_folder_and_a_tag_that_is_there(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "hub"
    done = hubpub("seed", tmp_path / "absent", "me/model", "--root", root)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert hubpub("seed", folder, "me/model", "--root", root, "--tag", "v1").returncode == 0
    (folder / "config.json").write_text("[]")
    done = hubpub("seed", folder, "me/model", "--root", root, "--tag", "v1")
    assert (done.returncode, done.stderr) == (1, "hubpub: me/model: Reference v1 already exists\n")
    with LocalHub(root) as hub:
        assert hub.files("me/model")["config.json"][0] == 2
        assert len(hub.commits("me/model")) == 2  # the second seed left nothing
        with pytest.raises(LocalHubError, match="Repository not found"):
            hub.head("me/absent")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("")
    done = hubpub("serve", "--root", tmp_path / "hub")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_missing_libraries_are_named(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").unlink(missing_ok=True)
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('uvicorn', 'lz4') else real(name, *a)\n"
        f"sys.argv = ['hubpub', 'hub', 'serve', '--root', {str(tmp_path / 'hub')!r}]\n"
        "from hubpub.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "hubpub: the Hub on loopback needs uvicorn and lz4; install hubpub[hub]\n",
    )


def test_only_loopback_is_bound(tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        port = int(hub.endpoint.rpartition(":")[2])
        addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
        for address in addresses - {"127.0.0.1"}:
            with socket.socket() as probe:
                probe.settimeout(1)
                if not address.startswith("127."):
                    assert probe.connect_ex((address, port)) != 0
        assert hub.endpoint.startswith("http://127.0.0.1:")
        assert run_client(hub, "say(api.whoami()['name'])", xet=False).stdout == '"tester"\n'

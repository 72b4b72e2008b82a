"""What may happen to the server and between clients: races, kill -9, a full disk. Never a half commit."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from hub_client import run_client, start_client

from hubpub.localhub import LocalHub


@dataclass
class Served:
    """A Hub in a process of its own."""

    endpoint: str
    token: str
    admin: str
    process: subprocess.Popen[str]

    def same_token(self) -> str:
        return self.token

    def ask(self, method: str, path: str, **rest: object) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.admin}"}
        return httpx2.request(method, self.endpoint + path, headers=headers, **rest)  # type: ignore[arg-type]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def served(root: Path, **more: object) -> Iterator[Served]:
    command = [str(Path(sys.executable).with_name("hubpub")), "hub", "serve", "--root", str(root), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more) as process:  # type: ignore[call-overload]
        try:
            lines = ""
            while not lines.endswith("}\n"):
                line = process.stdout.readline()
                assert line, "the server ended"
                lines += line
            told = json.loads(lines)
            yield Served(told["endpoint"], told["token"], told["admin"], process)
        finally:
            process.kill()


def test_four_clients_race_and_one_wins(hub: LocalHub, model: Path, tmp_path: Path) -> None:
    before = hub.commits("tester/model")
    code = f"""
me = os.environ["ME"]
operations = [CommitOperationAdd(f"{{me}}.bin", os.urandom(1000)), CommitOperationAdd("x", me.encode())]
Path({str(tmp_path)!r}, "ready " + me).touch()
while not Path({str(tmp_path / "go")!r}).exists():
    pass
try:
    api.create_commit("tester/model", operations, commit_message="x", parent_commit={before[0]!r})
    say("won")
except HfHubHTTPError as error:
    say(error.response.status_code)
"""
    clients = [start_client(hub, code, tmp_path / name, xet=True, ME=name) for name in "abcd"]
    while len(list(tmp_path.glob("ready *"))) < 4:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    answers = [json.loads(client.communicate(timeout=120)[0]) for client in clients]
    assert sorted(map(str, answers)) == ["412", "412", "412", "won"]
    assert hub.commits("tester/model")[1:] == before
    winner = "abcd"[answers.index("won")]
    added = set(hub.files("tester/model")) - set(hub.files("tester/model", before[0]))
    assert added == {"x", f"{winner}.bin"}


def test_many_threads_commit_without_a_parent(hub: LocalHub, model: Path) -> None:
    """Nobody loses a file where nobody says what the parent must be."""
    token, errors = hub.token(), []

    def commit(number: int) -> None:
        lines = [
            {"key": "header", "value": {"summary": f"{number}", "description": ""}},
            {"key": "file", "value": {"path": f"{number}.txt", "content": "eA==", "encoding": "base64"}},
        ]
        answer = httpx2.post(
            f"{hub.endpoint}/api/models/tester/model/commit/main",
            content="\n".join(map(json.dumps, lines)),
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
        )
        if answer.status_code != 200:
            errors.append(answer.text)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {f"{number}.txt" for number in range(16)} < set(hub.files("tester/model"))
    assert len(hub.commits("tester/model")) == 18


@pytest.mark.slow
@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_a_server_that_is_killed_keeps_whole_commits(tmp_path: Path, xet: bool) -> None:
    root = tmp_path / "hub"
    (tmp_path / "big.bin").write_bytes(os.urandom(80 << 20))
    code = f"""
api.create_repo("tester/m", exist_ok=True)
api.create_commit("tester/m", [CommitOperationAdd("big.bin", {str(tmp_path / "big.bin")!r}),
                               CommitOperationAdd("config.json", b"{{}}")], commit_message="x")
"""
    with served(root) as server:
        client = start_client(server, code, tmp_path / "home", xet=xet)
        deadline = time.monotonic() + 60
        while True:  # until some of it is there, not all
            arrived = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
            if arrived > 20 << 20:
                break
            assert time.monotonic() < deadline
            assert client.poll() is None, client.communicate()
            time.sleep(0.01)
        server.kill()
        client.kill()
        client.communicate()
    with served(root) as server:
        listed = httpx2.get(f"{server.endpoint}/api/models/tester/m/tree/main").json()
        assert [each["path"] for each in listed] == [".gitattributes"]
        assert list((root / "incoming").iterdir()) == []
        done = run_client(server, code, xet=xet)
        assert done.returncode == 0, done.stderr
        whole = f"""
path = api.hf_hub_download("tester/m", "big.bin")
assert Path(path).read_bytes() == Path({str(tmp_path / "big.bin")!r}).read_bytes()
assert set(api.list_repo_files("tester/m")) == {{".gitattributes", "big.bin", "config.json"}}
"""
        done = run_client(server, whole, xet=xet)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_kills_at_any_time_leave_a_history_of_whole_commits(tmp_path: Path) -> None:
    """Commits go on while the server is killed again and again: what was answered is there, and nothing is half."""
    root = tmp_path / "hub"
    answered: list[str] = []
    for round_ in range(5):
        with served(root) as server:
            headers = {"authorization": f"Bearer {server.token}"}
            body = {"name": "m", "organization": "tester"}
            httpx2.post(f"{server.endpoint}/api/repos/create", json=body, headers=headers)
            killer = threading.Timer(0.2 + 0.15 * round_, server.kill)
            killer.start()
            number = 0
            while True:
                number += 1
                names = [f"{round_}-{number}-{part}" for part in range(5)]
                lines = [{"key": "header", "value": {"summary": names[0], "description": ""}}]
                lines += [
                    {"key": "file", "value": {"path": each, "content": each, "encoding": "utf-8"}} for each in names
                ]
                try:
                    answer = httpx2.post(
                        f"{server.endpoint}/api/models/tester/m/commit/main",
                        content="\n".join(map(json.dumps, lines)),
                        headers=headers,
                    )
                except httpx2.HTTPError:
                    break
                assert answer.status_code == 200
                answered.append(names[0])
            killer.join()
    with LocalHub(root) as hub:
        files = hub.files("tester/m")
        commits = hub.commits("tester/m")
        roots = {name[:-2] for name in files if name != ".gitattributes"}
        assert {f"{each}-{part}" for each in roots for part in range(5)} | {".gitattributes"} == set(files)
        assert set(answered) <= set(files)
        assert len(commits) == len(roots) + 1
        assert len(roots) - len(answered) <= 5
        for name in answered[-3:]:
            assert httpx2.get(f"{hub.endpoint}/tester/m/resolve/main/{name}").text == name


@pytest.mark.slow
def test_a_limit_on_file_size_stands_for_a_full_disk(tmp_path: Path) -> None:
    """A file may not grow beyond 3 MiB: the upload fails with 507, and what was there is as it was."""
    root, megabytes = tmp_path / "hub", 3 << 20

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes, megabytes))

    code = """
api.create_repo("tester/m", exist_ok=True)
try:
    api.create_commit("tester/m", [CommitOperationAdd("big.bin", os.urandom(20 << 20))], commit_message="big")
except Exception as error:
    text = str(error) + str(error.__cause__)
    say("507" in text)
api.create_commit("tester/m", [CommitOperationAdd("small.bin", os.urandom(1 << 20))], commit_message="small")
say(sorted(api.list_repo_files("tester/m")))
"""
    with served(root, preexec_fn=limit) as server:
        done = run_client(server, code, xet=False)
        assert done.returncode == 0, done.stderr
        told = [json.loads(line) for line in done.stdout.splitlines()]
        log = server.ask("GET", "/_hub/requests").json()
    assert 507 in {each["status"] for each in log}
    assert told == [True, [".gitattributes", "small.bin"]]
    assert list((root / "incoming").iterdir()) == []


@pytest.mark.slow
def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    """Whatever is short of room, blob or database: 507, the old head, and the next commit works."""
    mount = tmp_path / "mount"
    mount.mkdir()
    space = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        probe = subprocess.run([*space, "mount", "-t", "tmpfs", "tmpfs", str(mount)], capture_output=True, timeout=20)
    except OSError:
        pytest.skip("no namespaces here")
    if probe.returncode:
        pytest.skip("no user and mount namespaces here")
    case = Path(__file__).with_name("hub_disk_case.py")
    frees = [0, 4, 16, 40, 64, 100, 200, 400]
    done = subprocess.run(
        [*space, sys.executable, str(case), str(mount), *map(str, frees)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(frees)
    statuses = [result["status"] for result in results]
    assert set(statuses) == {507, 200}, statuses
    assert statuses == sorted(statuses, reverse=True), statuses
    for result in results:
        assert result["whole"], result
        assert result["after"] == 200, result
        assert result["moved"] == (result["status"] == 200), result

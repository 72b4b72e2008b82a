"""Publishing and loading by the unmodified client, once by Xet and once by LFS."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hub_client import run_client

from hubpub.localhub import LocalHub

both = pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])


def said(hub: LocalHub, code: str, *, xet: bool, token: str | None = None, **env: str) -> list[object]:
    """What the client says; it must end well."""
    done = run_client(hub, code, xet=xet, token=token, **env)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@both
def test_publish_and_load(hub: LocalHub, xet: bool) -> None:
    code = """
big = os.urandom(5 << 20)
files = {"weights.onnx": big, "config.json": b"{}", "empty": b"", "a/b/ü ñ 100%.txt": "ü".encode(),
         "README.md": b"---\\nlicense: mit\\n---\\n# Hi", "blob": b"\\0\\1", ".hidden/x#y?z": b"z"}
api.create_repo("tester/new")
first = api.repo_info("tester/new").sha
done = api.create_commit("tester/new", [CommitOperationAdd(name, data) for name, data in files.items()],
                         commit_message="first", commit_description="why", parent_commit=first)
info = api.repo_info("tester/new", files_metadata=True)
assert info.sha == done.oid and info.card_data.license == "mit"
assert {each.rfilename: each.size for each in info.siblings if each.rfilename != ".gitattributes"} == {
    name: len(data) for name, data in files.items()}
say(sorted(each.rfilename for each in info.siblings if each.lfs))
folder = Path(api.snapshot_download("tester/new"))
for name, data in files.items():
    assert (folder / name).read_bytes() == data, name
listed = {each.path: each for each in api.list_repo_tree("tester/new", recursive=True, expand=True)}
assert set(listed) == {*files, ".gitattributes", "a", "a/b", ".hidden"}
assert {each.last_commit.oid for path, each in listed.items() if path != ".gitattributes"} == {done.oid}
assert listed[".gitattributes"].last_commit.oid == first
import hashlib
assert listed["weights.onnx"].lfs.sha256 == hashlib.sha256(big).hexdigest()
git = hashlib.sha1(b"blob 2\\0{}").hexdigest()
assert listed["config.json"].blob_id == git
assert [each.path for each in api.list_repo_tree("tester/new", "a")] == ["a/b"]
found = api.get_paths_info("tester/new", ["config.json", "a", "absent"], expand=True)
assert [each.path for each in found] == ["config.json", "a"], found
commits = api.list_repo_commits("tester/new")
say([[each.title, each.message, each.authors] for each in commits])
api.hf_hub_download("tester/new", "a/b/ü ñ 100%.txt", revision=done.oid)
"""
    lfs, commits = said(hub, code, xet=xet)
    assert lfs == ["blob", "weights.onnx"]
    assert commits == [["first", "why", ["tester"]], ["initial commit", "", ["tester"]]]
    used = {request.path.split("/")[1] for request in hub.requests}
    assert ("xet" in used) == xet
    assert ("_lfs" in used) == (not xet)
    if not xet:
        assert len([request for request in hub.requests if request.path == "/_lfs/part"]) == 5


@both
def test_what_is_there_is_not_sent_again(hub: LocalHub, model: Path, xet: bool) -> None:
    code = f"""
before = api.repo_info("tester/model").sha
done = api.upload_folder(repo_id="tester/model", folder_path={str(model)!r})
assert done.oid == before == api.repo_info("tester/model").sha
operations = [CommitOperationAdd("weights.onnx", {str(model / "weights.onnx")!r})]
assert api.create_commit("tester/model", operations, commit_message="same").oid == before
operations = [CommitOperationAdd("copy of weights", {str(model / "weights.onnx")!r})]
assert api.create_commit("tester/model", operations, commit_message="same content").oid != before
"""
    said(hub, code, xet=xet)
    sent = [request.bytes_in for request in hub.requests]
    if not xet:  # by Xet the content goes once, as the Hub has no Xet hash of what was seeded
        assert sum(sent) < 10000
    assert len(hub.commits("tester/model")) == 3


@both
def test_a_moved_head_is_412_and_nothing_changes(hub: LocalHub, model: Path, xet: bool) -> None:
    code = """
old = api.repo_info("tester/model").sha
new = api.create_commit("tester/model", [CommitOperationAdd("one", b"1")], commit_message="one", parent_commit=old).oid
try:
    api.create_commit("tester/model", [CommitOperationAdd("two", b"2")], commit_message="two", parent_commit=old)
except HfHubHTTPError as error:
    say(error.response.status_code)
assert api.repo_info("tester/model").sha == new
"""
    assert said(hub, code, xet=xet) == [412]
    assert "two" not in hub.files("tester/model")


def test_copies_and_deletes(hub: LocalHub, model: Path) -> None:
    before = hub.files("tester/model")
    code = """
api.create_commit("tester/model", [
    CommitOperationCopy("weights.onnx", "copies/weights.onnx"),
    CommitOperationCopy("config.json", "copies/config.json"),
    CommitOperationDelete("weights.onnx"), CommitOperationDelete("sub/")], commit_message="move")
for operation in (CommitOperationDelete("absent"), CommitOperationDelete("sub/"), CommitOperationDelete("copies")):
    try:
        api.create_commit("tester/model", [operation], commit_message="no")
    except RemoteEntryNotFoundError as error:
        say("exist" in str(error))
try:
    api.create_commit("tester/model", [CommitOperationAdd("config.json/x", b"x")], commit_message="no")
except BadRequestError as error:
    say("both a file and a folder" in str(error))
"""
    assert said(hub, code, xet=True) == [True, True, True, True]
    after = hub.files("tester/model")
    assert after == {
        ".gitattributes": before[".gitattributes"],
        "config.json": before["config.json"],
        "copies/config.json": before["config.json"],
        "copies/weights.onnx": before["weights.onnx"],
        "empty": before["empty"],
    }


def test_many_files_in_one_commit(tmp_path: Path) -> None:
    code = """
api.create_repo("tester/many")
names = [f"folder {n % 7}/{n:03}.txt" for n in range(600)]
api.create_commit("tester/many", [CommitOperationAdd(name, name.encode()) for name in names], commit_message="many")
assert sorted(api.list_repo_files("tester/many")) == sorted([".gitattributes", *names])
found = api.get_paths_info("tester/many", names)
assert [each.path for each in found] == names
api.delete_folder("folder 3", "tester/many", commit_message="less")
say(len(api.list_repo_files("tester/many")))
"""
    with LocalHub(tmp_path / "hub", page_size=200) as hub:
        assert said(hub, code, xet=False) == [601 - len([n for n in range(600) if n % 7 == 3])]
        assert len(hub.commits("tester/many")) == 3
        paths = [request.path.rpartition("/tester/many/")[2].partition("/")[0] for request in hub.requests]
        assert (paths.count("preupload"), paths.count("tree")) == (3, 4 + 3)


@both
def test_upload_folder_with_deletes_and_ignored_files(hub: LocalHub, model: Path, xet: bool) -> None:
    (model / "empty").unlink()
    (model / ".gitignore").write_text("*.log\n!kept.log\nbuild/\n")
    (model / "build").mkdir()
    for name in ("x.log", "kept.log", "build/out"):
        (model / name).write_text(name)
    code = f"""
api.upload_folder(repo_id="tester/model", folder_path={str(model)!r}, delete_patterns="*", commit_message="new")
"""
    said(hub, code, xet=xet)
    assert set(hub.files("tester/model")) == {
        *(".gitattributes", ".gitignore", "config.json", "kept.log", "sub/ü ñ.txt", "weights.onnx")
    }


def test_the_head_of_a_seeded_history(hub: LocalHub, model: Path) -> None:
    first = hub.head("tester/model")
    (model / "config.json").write_text('{"a": 1}')
    (model / "empty").unlink()
    second = hub.seed("tester/model", model, message="second")
    assert hub.commits("tester/model")[:2] == [second, first]
    assert hub.head("tester/model", "v1") == first
    content = b'{"a": 1}'
    assert hub.files("tester/model")["config.json"] == (len(content), hashlib.sha256(content).hexdigest())
    assert "empty" in hub.files("tester/model", first)
    assert "empty" not in hub.files("tester/model", second)
    code = f"""
folder = Path(api.snapshot_download("tester/model", revision="v1"))
assert (folder / "config.json").read_bytes() == b"{{}}" and (folder / "empty").exists()
assert folder.name == {first!r}
"""
    said(hub, code, xet=True)


def test_datasets(hub: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train-0.parquet").write_bytes(b"PAR1 train")
    (folder / "data" / "test-0.parquet").write_bytes(b"PAR1 test")
    hub.seed("tester/data", folder, repo_type="dataset")
    code = """
assert sorted(api.list_repo_files("tester/data", repo_type="dataset")) == [
    ".gitattributes", "data/test-0.parquet", "data/train-0.parquet"]
path = api.hf_hub_download("tester/data", "data/train-0.parquet", repo_type="dataset")
assert Path(path).read_bytes() == b"PAR1 train"
info = api.dataset_info("tester/data", files_metadata=True)
say([each.rfilename for each in info.siblings if each.lfs])
api.create_commit("tester/data", [CommitOperationAdd("x.bin", b"x" * 100)], repo_type="dataset", commit_message="x")
operations = [CommitOperationAdd("y", b"y")]
pull = api.create_commit("tester/data", operations, repo_type="dataset", commit_message="y", create_pr=True)
api.merge_pull_request("tester/data", pull.pr_num, repo_type="dataset")
assert "y" in api.list_repo_files("tester/data", repo_type="dataset")
import httpx2
say(httpx2.get(os.environ["HF_ENDPOINT"] + "/api/datasets/tester/data/parquet").json())
system = HfFileSystem()
assert system.ls("datasets/tester/data/data", detail=False)[0] == "datasets/tester/data/data/test-0.parquet"
with system.open("datasets/tester/data/data/test-0.parquet", "rb") as file:
    file.seek(5)
    assert file.read() == b"test"
try:
    api.model_info("tester/data")
except RepositoryNotFoundError:
    say("not a model")
"""
    lfs, parquet, other = said(hub, code, xet=False)
    assert lfs == ["data/test-0.parquet", "data/train-0.parquet"]
    base = f"{hub.endpoint}/datasets/tester/data/resolve/main/data"
    assert parquet == {"default": {"train": [f"{base}/train-0.parquet"], "test": [f"{base}/test-0.parquet"]}}
    assert other == "not a model"

"""Building a release again from the release alone: from a folder, and from the Hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import make_zip
from hub_stub import CdnStub, HubStub
from index_stub import IndexStub
from toy import Finished, Project, hubpub, make_project, tree

from hubpub.build import Built, Silent, build, verify_release
from hubpub.build.rebuild import recipe_of
from hubpub.errors import DigestMismatch, HubpubError, RecipeError, ReleaseError, SourceError
from hubpub.manifest import MANIFEST, Manifest, read_manifest
from hubpub.store import Store

WHEEL = "toyweights-1.0-py3-none-any.whl"


def _wheel(project: Project) -> bytes:
    members = [
        (f"toyweights/{path.relative_to(project.folder)}", path.read_bytes())
        for path in sorted([*project.folder.glob("data/*"), *project.folder.glob("speech/*")])
    ]
    info = "toyweights-1.0.dist-info"
    return make_zip([*members, (f"{info}/METADATA", b"Metadata-Version: 2.1\nName: toyweights\nVersion: 1.0\n")])


def _from_index(project: Project) -> Project:
    """The same project, its bytes from a wheel."""
    text = (
        json.dumps(project.recipe)
        .replace('"speech/', '"data/toyweights/speech/')
        .replace('"data/model', '"data/toyweights/data/model')
    )
    project.recipe = json.loads(text.replace('"data/notes', '"data/toyweights/data/notes'))
    project.recipe["sources"] = {
        "data": {"pypi": "toyweights", "version": "1.0", "include": ["toyweights/**"], "license": "apache-2.0"}
    }
    project.save()
    return project


class Published:
    """A release made from a wheel, moved away from its project, which is gone."""

    def __init__(self, folder: Path, store: Path, index: IndexStub, built: Built) -> None:
        self.folder, self.store, self.index, self.built = folder, store, index, built

    @property
    def manifest(self) -> Manifest:
        return self.built.manifest


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    project = make_project(folder / "project")
    wheel = _wheel(project)
    with IndexStub({WHEEL: wheel}) as index, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_INDEX_URL", index.simple)
        built = _from_index(project).build(folder / "store")
        assert built.bytes_fetched == 0  # what resolving fetched was not fetched again
        shutil.copytree(built.folder, folder / "moved")
        shutil.rmtree(project.folder)
        yield Published(folder / "moved", folder / "store", index, built)


@pytest.fixture
def release(published: Published, tmp_path: Path, pip_index: Callable[[str], None]) -> Path:
    """A copy, to be changed; pip knows the index."""
    pip_index(published.index.simple)
    shutil.copytree(published.folder, tmp_path / "release")
    return tmp_path / "release"


@pytest.fixture
def warm(published: Published, tmp_path: Path) -> Path:
    """A store that has every step."""
    shutil.copytree(published.store, tmp_path / "warm", symlinks=True)
    return tmp_path / "warm"


def _rebuild(where: str | Path, store: Path, output: Path) -> tuple[Built, Manifest | None]:
    """What the command line does."""
    with Store(store) as opened, recipe_of(str(where), opened) as (path, _name, release):
        return build(path, opened, Silent(), output=output, locked=release is not None), release


def test_from_the_release_alone(published: Published, release: Path, store: Path, tmp_path: Path) -> None:
    built, found = _rebuild(release, store, tmp_path / "again")
    assert found == published.manifest
    assert built.manifest.digest == published.manifest.digest
    assert built.bytes_fetched == len(published.index.files[WHEEL])
    assert len(built.ran) == len(published.built.ran)
    ours, theirs = tree(release), tree(tmp_path / "again")
    observed = {"README.md", MANIFEST, *(name for name in ours if name.endswith(".timings.jsonl"))}
    assert {name for name in ours if ours[name] != theirs.get(name)} <= observed
    assert list((store / "scratch").iterdir()) == []


def test_in_its_own_place(release: Path, warm: Path, published: Published) -> None:
    built, _ = _rebuild(release, warm, release)
    assert built.manifest.digest == published.manifest.digest
    assert verify_release(release)
    assert _rebuild(release, warm, release)[0].unchanged


def test_the_command_line_says_whether_it_is_the_same(release: Path, warm: Path, tmp_path: Path) -> None:
    done = hubpub("build", release, "--cache", warm, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["same_as_release"] is True
    assert Path(said["release"]) == tmp_path / "dist" / "toy"
    again = hubpub("build", release, "--cache", warm, cwd=tmp_path)
    assert again.stdout.splitlines()[-2].startswith("unchanged: dist/toy, 6 files")
    assert again.stdout.splitlines()[-1] == "the same content as the release"
    part = hubpub("build", release, "--cache", warm, "--json", "--only", "notes.txt", cwd=tmp_path)
    assert json.loads(part.stdout)["same_as_release"] is None


def test_a_release_of_local_folders_is_refused(finished: Finished, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError) as caught:
        _rebuild(finished.release, store, tmp_path / "again")
    assert str(caught.value) == (
        f"{finished.release}: cannot be built from itself: it was made from local folders, which no release holds: "
        "data (../data), speech (../speech); use its recipe where these folders are: `hubpub build RECIPE`, "
        "or `hubpub eval … --recipe RECIPE`"
    )
    assert not (tmp_path / "again").exists()


def test_a_part_of_a_release_is_refused(finished: Finished, copied: Finished, store: Path, tmp_path: Path) -> None:
    part = copied.project.build(copied.store, only="notes.txt")
    with pytest.raises(ReleaseError, match="is only a part of a release"):
        _rebuild(part.folder, store, tmp_path / "again")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "name", ["toy.yaml", "toy.lock", "scripts/convert.py", "scripts/convert.requirements.txt", "templates/speech.md.j2"]
)
@pytest.mark.parametrize("damage", ["edit", "delete", "link"])
def test_a_tampered_recipe_is_refused(release: Path, store: Path, tmp_path: Path, name: str, damage: str) -> None:
    file = release / "recipe" / name
    if damage == "edit":
        file.write_text(file.read_text() + "# harmless\n")
    else:
        file.rename(tmp_path / "elsewhere")
        if damage == "link":
            file.symlink_to(tmp_path / "elsewhere")
    says = f"recipe/{name} is not what the manifest records" if damage == "edit" else f"recipe/{name} is missing"
    with pytest.raises(ReleaseError, match=says) as caught:
        _rebuild(release, store, tmp_path / "again")
    assert str(caught.value).startswith(f"{release}: ")
    assert list((store / "scratch").iterdir()) == []


def test_what_merely_lies_in_the_recipe_folder_is_not_used(release: Path, store: Path, tmp_path: Path) -> None:
    _write(release / "recipe" / "scripts" / "helper.py", "raise SystemExit(1)")
    _write(release / "recipe" / "templates" / "other.md.j2", "x")
    os.mkfifo(release / "recipe" / "pipe")
    (release / "recipe" / "link").symlink_to("/etc")
    with Store(store) as opened, recipe_of(str(release), opened) as (path, name, _):
        assert name == "toy"
        assert {each.name for each in path.parent.rglob("*") if each.is_file()} == {
            *("toy.yaml", "toy.lock", "convert.py", "convert.requirements.txt", "speech.md.j2")
        }


def _resealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """An attacker who knows how the digest is made."""
    data = read_manifest(folder).model_dump(mode="json")
    change(data)
    manifest = Manifest.model_validate(data).sealed()
    (folder / MANIFEST).write_text(manifest.text())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.update(recipe="recipe/none.yaml"), "holds no recipe"),
        (lambda data: data.update(recipe="/etc/passwd"), "holds no recipe"),
        (lambda data: data.update(recipe="model.onnx"), "holds no recipe"),
        (
            lambda data: data["records"].update({"recipe/../../x": data["records"]["recipe/toy.yaml"]}),
            "leaves its folder",
        ),
        (lambda data: data["records"].update({"recipe//etc/x": data["records"]["recipe/toy.yaml"]}), "empty"),
        (lambda data: data["records"].clear(), "holds no recipe"),
    ],
)
def test_a_manifest_made_to_mislead(
    release: Path, store: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    _resealed(release, change)
    with pytest.raises(ReleaseError, match=says):
        _rebuild(release, store, tmp_path / "again")


def test_the_name_of_the_output_is_the_recipes(release: Path, store: Path) -> None:
    _resealed(release, lambda data: data.update(name="../../../outside"))
    with Store(store) as opened, recipe_of(str(release), opened) as (_, name, _manifest):
        assert name == "toy"


def test_a_recipe_that_this_version_does_not_read_is_named_as_the_reader_knows_it(
    release: Path, store: Path, tmp_path: Path
) -> None:
    import hashlib

    recipe = release / "recipe" / "toy.yaml"
    recipe.write_text(recipe.read_text().replace("version: 1", "version: 9"))
    digest = {"sha256": hashlib.sha256(recipe.read_bytes()).hexdigest(), "size": recipe.stat().st_size}
    _resealed(release, lambda data: data["records"].update({"recipe/toy.yaml": digest}))
    with pytest.raises(RecipeError) as caught:
        _rebuild(release, store, tmp_path / "again")
    assert str(caught.value).startswith(f"{release}/recipe/toy.yaml:1:")


def test_other_bytes_in_the_index_stop_it(
    published: Published, release: Path, store: Path, tmp_path: Path, pip_index: Callable[[str], None]
) -> None:
    other = make_zip([("toyweights/data/model.onnx", b"poisoned")])
    with IndexStub({WHEEL: other}) as index:
        pip_index(index.simple)
        with pytest.raises(DigestMismatch):
            _rebuild(release, store, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("where", ["empty", "file", "no-manifest"])
def test_what_is_no_release(where: str, store: Path, tmp_path: Path) -> None:
    path = tmp_path / where
    if where == "file":
        path.write_bytes(b"\0\1\2")
    else:
        path.mkdir()
    if where == "no-manifest":
        _write(path / "recipe" / "toy.yaml", "version: 1")
    with pytest.raises(HubpubError) as caught:
        _rebuild(path, store, tmp_path / "again")
    assert len(str(caught.value).splitlines()) == 1


# -- from the Hub


@pytest.fixture
def hub(published: Published, monkeypatch: pytest.MonkeyPatch, pip_index: Callable[[str], None]) -> Iterator[HubStub]:
    """A repo that holds the release; small files in git, the models as LFS."""
    from huggingface_hub import constants

    pip_index(published.index.simple)
    files = {
        path.relative_to(published.folder).as_posix(): path.read_bytes()
        for path in published.folder.rglob("*")
        if path.is_file()
    }
    lfs = {name for name in files if name.endswith(".onnx") or ".data." in name}
    with CdnStub() as cdn, HubStub({**files, ".gitattributes": b"*.onnx lfs\n"}, cdn, lfs) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.mark.parametrize("revision", ["", "@main", "@v1"])
def test_from_the_hub(hub: HubStub, published: Published, warm: Path, tmp_path: Path, revision: str) -> None:
    if revision == "@v1":
        _rebuild(f"hf://owner/repo{revision}", warm, tmp_path / "again")
    with Store(warm) as opened, recipe_of(f"hf://owner/repo{revision}", opened) as (path, name, release):
        assert (name, release) == ("toy", published.manifest)
        assert path.read_bytes() == (published.folder / "recipe" / "toy.yaml").read_bytes()
    if revision == "@v1":
        assert verify_release(tmp_path / "again").digest == published.manifest.digest
    assert not [asked.path for asked in hub.log if asked.path.endswith((".onnx", "README.md", ".000"))]


def test_the_command_line_reads_the_hub(hub: HubStub, published: Published, store: Path, tmp_path: Path) -> None:
    done = hubpub(
        *("build", "hf://owner/repo@v1", "--cache", store, "--only", "notes.txt", "-q"),
        cwd=tmp_path,
        HF_ENDPOINT=hub.url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read_manifest(tmp_path / "dist" / "toy.partial").files.keys() == {"notes.txt"}


def test_a_tampered_recipe_on_the_hub_is_refused(hub: HubStub, store: Path, tmp_path: Path) -> None:
    hub.files["recipe/scripts/convert.py"] += b"# harmless\n"
    with pytest.raises(
        ReleaseError, match=r"hf://owner/repo: recipe/scripts/convert\.py is not what the manifest records"
    ):
        _rebuild("hf://owner/repo", store, tmp_path / "again")


def test_a_repo_that_is_no_release(hub: HubStub, store: Path, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}"}
    with pytest.raises(SourceError, match="owner/repo@main"):
        _rebuild("hf://owner/repo", store, tmp_path / "again")


def test_a_revision_that_does_not_exist(hub: HubStub, store: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such branch, tag or commit"):
        _rebuild("hf://owner/repo@v2", store, tmp_path / "again")


@pytest.mark.parametrize(
    "where", ["hf://", "hf://repo", "hf://a/b/c", "hf://a--b/c", "hf://owner/repo@", "hf://../..", "hf://a/b\n"]
)
def test_what_is_no_address(where: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="is not hf://OWNER/REPO or hf://OWNER/REPO@REVISION"):
        _rebuild(where, store, tmp_path / "again")

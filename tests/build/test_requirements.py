"""What a script says of itself, the requirements that must answer it, and the environment made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import make_zip
from index_stub import IndexStub
from toy import BODY, CONVERT, Project

from hubpub.errors import StepError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("print('no block')", "convert.py has no PEP 723 block; start it with `# /// script`"),
        ("", "convert.py has no PEP 723 block"),
        ("# /// script\n# dependencies = []\n", "convert.py has no PEP 723 block"),
        (CONVERT + "\n# /// script\n# dependencies = []\n# ///\n", "convert.py has more than one PEP 723 block"),
        ("# /// script\n# dependencies = [\n# ///\n", "the PEP 723 block of convert.py is not valid: "),
        ("# /// script\n# dependencies = 'numpy'\n# ///\n", "is not valid: dependencies is not a list of texts"),
        ("# /// script\n# dependencies = [1]\n# ///\n", "is not valid: dependencies is not a list of texts"),
        ("# /// script\n# requires-python = 3\n# ///\n", "is not valid: requires-python is not a text"),
        ("# /// script\n# requires-python = 'snake'\n# ///\n", "is not valid: Invalid specifier: 'snake'"),
        ("# /// script\n# dependencies = ['a b c']\n# ///\n", "is not valid: "),
        ("# /// script\n# requires-python = '>=4'\n# ///\n", "convert.py needs Python >=4, this is 3."),
        ("# /// script\n# requires-python = '<3.11'\n# ///\n", "convert.py needs Python <3.11, this is 3."),
        ("# /// script\n# dependencies = ['numpy']\n# ///\n", "convert.requirements.txt does not pin numpy"),
        ("# /// script\n# dependencies = ['Six>=2']\n# ///\n", "convert.requirements.txt does not pin Six>=2"),
        (b"\xff\xfe\x00", "has no PEP 723 block"),
    ],
)
def test_a_header_that_cannot_be(
    step: Callable[..., str], small: tuple[Project, Path], text: str | bytes, says: str
) -> None:
    project = small[0]
    project.requirements.write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")
    assert says in step(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("header", ["six", "six==1.17.0", "six>=1 ; python_version>'3'", "numpy; python_version<'3'"])
def test_a_header_that_its_requirements_answer(small: tuple[Project, Path], header: str) -> None:
    from hubpub.build.environment import check_requirements, read_header

    text = f'# /// script\n# dependencies = ["{header}"]\n# ///\n'
    pins = (
        "# by uv\n\nSIX==1.17.0 \\\n    --hash=sha256:" + "0" * 64 + " \\\n    --hash=sha256:" + "1" * 64 + "\n"
        "    # via nobody\nsix==0.1 ; python_version < '3' --hash=sha256:" + "2" * 64 + "\n"
    )
    check_requirements(read_header(text, "s.py", where="w"), pins, "s.requirements.txt", where="w")


@pytest.mark.parametrize(
    "line",
    [
        "six",
        "six>=1.0 --hash=sha256:" + "0" * 64,
        "six==1.17.0",
        "six==1.* --hash=sha256:" + "0" * 64,
        "six==1.17.0 --hash=sha256:abc",
        "six==1.17.0 --hash=md5:" + "0" * 32,
        "six==1.17.0 # --hash=sha256:" + "0" * 64,
        "six @ file:///six.whl --hash=sha256:" + "0" * 64,
        "-r other.txt",
        "--index-url http://localhost/simple",
        "-e .",
        "./six.whl",
        "six==1.17.0 ; nonsense == 'x' --hash=sha256:" + "0" * 64,
        "\xff\x00",
    ],
)
def test_requirements_that_are_not_pinned(step: Callable[..., str], small: tuple[Project, Path], line: str) -> None:
    small[0].requirements.write_bytes(line.encode("latin-1") + b"\n")
    said = step("pass")
    assert "convert.requirements.txt: " in said
    assert "is not pinned by version and hash" in said or "is not a requirement" in said
    assert "uv pip compile --universal --generate-hashes" in said


def _wheel(name: str, version: str, body: str) -> bytes:
    info = f"{name}-{version}.dist-info"
    return make_zip(
        [
            (f"{name}.py", body.encode()),
            (f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()),
            (f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            (f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n".encode()),
        ]
    )


def _use_dependency(project: Project, sha256: str) -> None:
    project.without_measurements()
    project.script.write_text('# /// script\n# dependencies = ["toydep"]\n# ///\nimport toydep\n' + BODY)
    project.requirements.write_text(f"toydep==1.0 --hash=sha256:{sha256}\n")


def test_a_dependency_comes_from_the_users_index_into_an_environment_of_its_own(
    project: Project, store: Path, pip_index: Callable[[str], None]
) -> None:
    wheel = _wheel("toydep", "1.0", "value = 1\n")
    with IndexStub({"toydep-1.0-py3-none-any.whl": wheel}) as index:
        pip_index(index.simple)
        _use_dependency(project, hashlib.sha256(wheel).hexdigest())
        built = project.build(store)
        assert index.asked_for(".whl")
    assert (
        built.manifest.steps["convert"].identity["requirements"]
        == built.manifest.records["recipe/scripts/convert.requirements.txt"].sha256
    )
    asked = len(index.log)
    project.recipe["steps"]["convert"]["args"] = ["9"]
    project.save()
    assert project.build(store).ran == ("convert",)
    assert len(index.log) == asked, "an environment is made once"


@pytest.mark.parametrize(("files", "says"), [(True, "ash mismatch"), (False, "toydep")])
def test_a_dependency_that_cannot_be_had(
    project: Project, store: Path, pip_index: Callable[[str], None], files: bool, says: str
) -> None:
    wheel = _wheel("toydep", "1.0", "value = 1\n")
    with IndexStub({"toydep-1.0-py3-none-any.whl": wheel} if files else {}) as index:
        pip_index(index.simple)
        _use_dependency(project, "0" * 64)
        with pytest.raises(StepError, match=f"steps.convert: its environment cannot be made: .*{says}") as caught:
            project.build(store)
    assert len(str(caught.value).splitlines()) == 1
    assert not (project.folder / "dist" / "toy").exists()
    project.script.write_text(CONVERT)
    project.requirements.write_text("")
    assert project.build(store)

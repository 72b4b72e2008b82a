"""The seal holds by bytes, not by name, and for every kind of step that there will ever be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import Project, make_project

from hubpub.build.seal import check_seals
from hubpub.build.task import EVERYTHING, Outcome, Ref, Room, Task
from hubpub.errors import StepError
from hubpub.store import Store


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = make_project(tmp_path / "project")
    project.recipe["corpora"]["chords"]["sealed"] = True
    return project


def plan_of(project: Project, store: Path) -> Any:
    from hubpub.build import Silent, plan

    project.save()
    with Store(store) as opened:
        return plan(project.path, opened, Silent(), locked=False, only=None, variant=None)[0]


def test_the_final_evaluation_may_read_it(project: Project, tmp_path: Path) -> None:
    made = plan_of(project, tmp_path / "store")
    assert {"corpora/chords", "runs/sharded", "disjointness"} <= {task.name for task in made.tasks}


def test_a_copy_under_another_name_may_not_be_calibrated_on(project: Project, tmp_path: Path) -> None:
    shutil.copyfile(project.folder / "speech" / "chord1.wav", project.folder / "speech" / "tuning.wav")
    with pytest.raises(StepError) as caught:
        plan_of(project, tmp_path / "store")
    line = str(caught.value)
    assert "corpora.tuning: reads speech/tuning.wav, which belongs to the sealed corpus 'chords'" in line
    assert line.startswith(f"{project.path}:{project.line_of('tuning:')}:")


def test_a_copy_may_not_be_given_to_a_script(project: Project, tmp_path: Path) -> None:
    shutil.copyfile(project.folder / "speech" / "chord1.wav", project.folder / "data" / "innocent.txt")
    project.recipe["steps"]["convert"]["inputs"]["hint.txt"] = "data/innocent.txt"
    with pytest.raises(StepError, match="which belongs to the sealed corpus"):
        plan_of(project, tmp_path / "store")


def test_a_copy_may_not_be_evaluated_on_before(project: Project, tmp_path: Path) -> None:
    shutil.copyfile(project.folder / "speech" / "chord1.wav", project.folder / "speech" / "again.wav")
    project.recipe["corpora"]["early"] = {
        **project.recipe["corpora"]["chords"],
        "sealed": False,
        "clips": [{"audio": "speech/again.wav"}],
    }
    project.recipe["measure"]["whole"]["corpus"] = project.recipe["measure"]["sharded"]["corpus"] = "early"
    project.recipe["gates"] = []
    with pytest.raises(StepError, match="seal this corpus too"):
        plan_of(project, tmp_path / "store")


class Tuning(Task):
    """A step of a kind that is not there yet."""

    kind = "tuning"

    def identity(self) -> dict[str, Any]:
        return {}

    def run(self, room: Room) -> Outcome:
        return Outcome()


def test_a_step_that_takes_a_prepared_corpus_may_not_take_this_one(project: Project, tmp_path: Path) -> None:
    made = plan_of(project, tmp_path / "store")
    corpora = made.loaded.recipe.corpora
    bad = Tuning("tune", (("corpus", Ref("corpora/chords", EVERYTHING)),), where="toy.yaml:7:3: files.x")
    good = Tuning("tune", (("corpus", Ref("corpora/tuning", EVERYTHING)),), where="toy.yaml:7:3: files.x")
    check_seals([*made.tasks, good], corpora, made.sources)
    with pytest.raises(StepError, match=r"^toy.yaml:7:3: files.x: reads corpora/chords/\*, which"):
        check_seals([*made.tasks, bad], corpora, made.sources)
    bad.reads_sealed = True
    check_seals([*made.tasks, bad], corpora, made.sources)

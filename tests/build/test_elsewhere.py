"""Runs that this machine cannot make: not run and said so, never a result; made where they can be."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy import Finished, Project, Recorder, make_project

sys.path.insert(0, str(Path(__file__).parents[1] / "coremlfile"))

from core_ml_fake import site
from ml_packages import write_embedder

from hubpub.build import Built, plan, verify_release
from hubpub.build.compare import compare
from hubpub.build.evaluate import Evaluated, evaluate
from hubpub.build.measured import open_measured
from hubpub.coremlfile import device
from hubpub.coremlfile.device import NEEDS_MACOS
from hubpub.errors import MeasureError, RecipeError
from hubpub.manifest import CARD
from hubpub.store import Store

VIA = {"model": "toy.mlpackage", "features": "campplus", "threads": 1}
SAID = f"not run: {NEEDS_MACOS}: cpu, ne"


def _system(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(device, "sys", SimpleNamespace(platform=name))


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    _system(monkeypatch, "linux")


@pytest.fixture(scope="module")
def linux_release(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Built where there is no Core ML; not to be changed."""
    folder = tmp_path_factory.mktemp("linux")
    project = _project(folder / "project")
    with pytest.MonkeyPatch.context() as patch:
        _system(patch, "linux")
        return Finished(project, folder / "store", project.build(folder / "store"))


def _project(folder: Path) -> Project:
    project = make_project(folder)
    recipe = project.recipe
    write_embedder(folder / "data" / "toy.mlpackage")
    recipe["sources"]["data"]["include"] = ["*.mlpackage/**", "*.txt"]
    recipe.update(steps={}, files={"toy.mlpackage": "data/toy.mlpackage"}, gates=[])
    del recipe["corpora"]["tuning"]
    recipe["measure"] = {"plain": _run("coreml", ["download_size"])}
    for name, units in (("cpu", "CPU_ONLY"), ("ne", "CPU_AND_NE")):
        metrics = ["load_time", "latency", "cosine", "argmax_agreement"]
        recipe["measure"][name] = {**_run("coreml-device", metrics, units=units), "reference": "plain"}
    recipe["card"]["summary"] = "On the CPU {{ measured['cpu/cosine'] }}, of {{ measured['plain/download_size'] }}."
    project.save()
    return project


def _run(client: str, metrics: list[Any], **via: Any) -> dict[str, Any]:
    return {
        "files": ["toy.mlpackage"],
        "via": {"client": client, **VIA, **via},
        "corpus": "chords",
        "metrics": metrics,
    }


def _eval(finished: Finished, output: Path) -> Evaluated:
    with Store(finished.store) as opened:
        return evaluate(str(finished.release), finished.project.path, opened, Recorder(), output=output, locked=True)


def test_not_run_is_said_everywhere_and_no_figure_exists(linux_release: Finished, linux: None) -> None:
    manifest = verify_release(linux_release.release)
    assert manifest.not_run == {"cpu": NEEDS_MACOS, "ne": NEEDS_MACOS}
    assert manifest.runs == ("plain",)
    assert {each.run for each in manifest.all_measurements()} == {"plain"}
    assert not any("cpu" in name or "ne" in name.split("/") for name in (*manifest.steps, *manifest.records))
    card = (linux_release.release / CARD).read_text()
    assert "Core ML runs on macOS only, so where this was built these were not run: `cpu`, `ne`.\n" in card
    assert "On the CPU (not measured), of " in card
    reporter = Recorder()
    again = linux_release.project.build(linux_release.store, reporter=reporter)
    assert again.unchanged
    assert reporter.notes == [SAID]
    with Store(linux_release.store) as opened:
        made, _ = plan(linux_release.project.path, opened, reporter, locked=True, only=None, variant=None)
    assert made.not_run == manifest.not_run
    assert not any(task.name.endswith(("/cpu", "/ne")) for task in made.tasks)
    assert reporter.notes == [SAID, SAID]


def test_what_is_compared_with_such_a_run_is_not_run_either(
    linux_release: Finished, tmp_path: Path, linux: None
) -> None:
    done = _eval(linux_release, tmp_path / "eval")
    assert done.evaluation.left_out == {"cpu": NEEDS_MACOS, "ne": NEEDS_MACOS}
    project = _project(tmp_path / "project")
    project.recipe["measure"]["ne"] |= {"via": {"client": "coreml", **VIA}, "reference": "cpu"}
    project.save()
    built = project.build(tmp_path / "store")
    assert built.manifest.not_run == {"cpu": NEEDS_MACOS, "ne": f"run cpu is compared with: {NEEDS_MACOS}"}


def test_nothing_is_decided_by_what_is_not_run(tmp_path: Path, linux: None) -> None:
    """Refused before anything is made: a missing measurement would fail its gate."""
    project = _project(tmp_path / "project")
    whole = dict(project.recipe)
    kept = {"toy.mlpackage": "data/toy.mlpackage"}
    deciding: dict[str, Any] = {
        "gates[0]": {"gates": [{"measure": "ne/cosine", "min": 0.99}]},
        "publish.load[0]": {"publish": {"repo": "me/toy", "load": ["cpu"]}},
        "choices.which.runs[0]": {
            "files": {"notes.txt": "data/notes.txt"},
            "choices": {
                "which": {"runs": ["cpu"], "promote": {"most": "cpu/cosine"}, "candidates": {"a": kept, "b": kept}}
            },
        },
    }
    for place, change in deciding.items():
        project.recipe = {**whole, **change}
        project.save()
        with pytest.raises(RecipeError) as caught:
            project.build(tmp_path / "store")
        (problem,) = caught.value.problems
        assert problem.field == place
        run = "ne" if "gates" in change else "cpu"
        assert problem.message.startswith(f"run {run} is not run here: Core ML runs on macOS only; build it")
        assert not (project.folder / "dist" / "toy").exists()


def test_a_mac_makes_them_on_the_release(
    linux_release: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the store of the build that could not: nothing of that is taken for a result."""
    _system(monkeypatch, "darwin")
    monkeypatch.setenv("PYTHONPATH", str(site(tmp_path, off_by=0.5)))
    done = _eval(linux_release, tmp_path / "eval")
    assert done.evaluation.left_out == {}
    assert {name for name in done.ran if name.startswith("runs/")} == {"runs/cpu", "runs/ne"}
    found = {each.key: each for each in done.evaluation.measurements if each.against is None}
    for run in ("cpu", "ne"):
        metrics = ("load_time", "latency_median", "latency_p95", "cosine", "argmax_agreement")
        assert all(found[f"{run}/{metric}"].reference in (None, "plain") for metric in metrics)
        assert found[f"{run}/cosine"].client.startswith("Core ML, toy.mlpackage on CPU_")
    assert found["cpu/cosine_min"].value == pytest.approx(1, abs=1e-12)
    assert found["ne/cosine_min"].value < found["cpu/cosine_min"].value
    with Store(linux_release.store) as opened, ExitStack() as stack:
        sides = [open_measured(str(each), opened, stack) for each in (linux_release.release, tmp_path / "eval")]
        rows = {row.key: row for row in compare(*sides).figures}
    assert rows["ne/cosine"].old is None
    assert rows["ne/cosine"].new == found["ne/cosine"]
    _system(monkeypatch, "linux")
    assert _eval(linux_release, tmp_path / "again").evaluation.left_out.keys() == {"cpu", "ne"}
    _system(monkeypatch, "darwin")
    built: Built = linux_release.project.build(linux_release.store, output=tmp_path / "mac")
    assert not built.manifest.not_run
    assert built.manifest.runs == ("plain", "cpu", "ne")
    card = (tmp_path / "mac" / CARD).read_text()
    assert "## Not run" not in card
    assert "On the CPU 1.000000, of " in card


def test_a_unit_that_fails_stops_a_build_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _system(monkeypatch, "darwin")
    monkeypatch.setenv("PYTHONPATH", str(site(tmp_path, broken=["CPU_AND_NE"])))
    project = _project(tmp_path / "project")
    wanted = r"^run ne: toy.mlpackage on CPU_AND_NE: Core ML does not load it: Error compiling for ANE$"
    with pytest.raises(MeasureError, match=wanted):
        project.build(tmp_path / "store")
    assert not (project.folder / "dist" / "toy").exists()

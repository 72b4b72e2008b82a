"""What `hubpub check` says of where a release goes, and of corpora that stand in for others."""

# ruff: noqa: E501 (tables with a case in each line)
from __future__ import annotations

from pathlib import Path

import pytest
from recipe_tools import BASE, changed, problems

from hubpub.recipe import load_recipe
from hubpub.recipe.model import PublishSpec

PUBLISH = """\
publish:
  repo: owner/demo
  branch: main
  tag: v1.0
  drop_in_for: weights
  load: [fp32, sharded]
  keep: [LICENSE, "figures/*.png"]
"""
FULL = BASE + PUBLISH

CASES = [
    ("drop_in_for: weights", "drop_in_for: wieghts", "publish.drop_in_for: there is no source 'wieghts'; did you mean 'weights'?"),
    ("drop_in_for: weights", "drop_in_for: convert", "publish.drop_in_for: there is no source 'convert'"),
    ("[fp32, sharded]", "[fp32, shraded]", "publish.load[1]: there is no run 'shraded'; did you mean 'sharded'?"),
    ("[fp32, sharded]", "[fp32, fp32]", "publish.load[1]: run 'fp32' is named already"),
    ("[fp32, sharded]", "fp32", "publish.load: must be a list"),
    ("tag: v1.0", "tag: main", "publish.tag: 'main' is the branch too, so nobody can tell which of them is meant"),
    ("tag: v1.0", "tag: HEAD", "publish.tag: 'HEAD' means something else to git; choose another name"),
    ("branch: main", "branch: refs/pr/1", "publish.branch: 'refs/pr/1' means something else to git; choose another name"),
    ("branch: main", "branch: next.lock/a", "publish.branch: 'next.lock/a' has a part that ends in .lock, which git refuses"),
    ("branch: main", "branch: a..b", "publish.branch: 'a..b' is not a branch or tag: letters, digits and _ + -, single . and / between them"),
    ("branch: main", f"branch: {'0f' * 20}", f"publish.branch: '{'0f' * 20}' would be taken for a commit; choose another name"),
    ("repo: owner/demo", "repo: demo", "publish.repo: 'demo' is not a repo id such as owner/name"),
    ("[LICENSE,", "[../LICENSE,", "publish.keep[0]: '../LICENSE' leaves its folder"),
    ("[LICENSE,", "[/LICENSE,", "publish.keep[0]: '/LICENSE' is absolute"),
    ("  language: [en]\n", "  language: [en]\n  base_model: [other/demo, owner/demo]\n", "card.base_model[1]: 'owner/demo' is where the release goes, and no repo is its own base model"),
    ("role: calibration", "role: calibration\n    stand_in_for: ''", "corpora.tuning.stand_in_for: string should have at least 1 character, got ''"),
    ("role: calibration", "role: evaluation\n    stand_in_for: x", "corpora.tuning.stand_in_for: only a calibration corpus stands in for another; figures are of the corpus that they name"),
]  # fmt: skip


def test_a_sound_section_is_accepted(tmp_path: Path) -> None:
    assert problems(tmp_path, FULL) == []


@pytest.mark.parametrize(("old", "new", "expected"), CASES, ids=[case[1].strip()[:30] for case in CASES])
def test_one_mistake_is_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    text = changed(old, new, FULL)
    (line,) = problems(tmp_path, text)
    place, said = line.split(": ", 1)
    assert said == expected
    key = expected.split(": ", 1)[0].rsplit(".", 1)[-1].split("[")[0]
    assert key in text.splitlines()[int(place.split(":")[0]) - 1]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = changed("tag: v1.0", "tag: HEAD", changed("drop_in_for: weights", "drop_in_for: nothing", FULL))
    assert len(problems(tmp_path, text)) == 2


@pytest.mark.parametrize("tag", ["v1", "2026.11.21", "20261121", "deadbeef", "release/v1.0+cpu"])
def test_ordinary_tags_are_accepted(tmp_path: Path, tag: str) -> None:
    assert problems(tmp_path, changed("tag: v1.0", f"tag: '{tag}'", FULL)) == []


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    assert problems(tmp_path, f"{BASE}publish: {{repo: owner/demo}}\n") == []
    spec = load_recipe(path).recipe.publish
    assert spec == PublishSpec(repo="owner/demo", branch="main", tag=None, drop_in_for=None, load=(), keep=())


def test_a_stand_in_is_accepted_for_calibration(tmp_path: Path) -> None:
    text = changed("role: calibration", "role: calibration\n    stand_in_for: VoxConverse dev", FULL)
    assert problems(tmp_path, text) == []
    assert load_recipe(tmp_path / "demo.yaml").recipe.corpora["tuning"].stand_in_for == "VoxConverse dev"

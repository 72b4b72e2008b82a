"""``hubpub publish`` and ``hubpub diff`` against a Hub on loopback, with the unmodified client, in both its modes."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import urlopen

import pytest
from made_up import FILES, REPO, Stage, listing, make_release, noise

CHANGED = {**FILES, "config.json": b'{"stride": 320}\n'}


def test_a_new_repo_is_made_and_equal_to_the_release_after_one_commit(stage: Stage, release: Path) -> None:
    done = stage.publish(release)
    assert stage.holds(release)
    assert stage.commits_asked() == 1
    assert len(stage.hub.commits(REPO)) == 2  # the first is the Hub's own
    assert done["state"] == "published"
    assert done["commit"] == stage.hub.head(REPO)
    assert done["url"] == f"{stage.hub.endpoint}/{REPO}/commit/{done['commit']}"
    assert done["verified"] == len(listing(release))
    assert stage.sent() >= 140_000


def test_the_same_release_is_not_published_twice(stage: Stage, release: Path) -> None:
    stage.publish(release)
    before = stage.hub.commits(REPO)
    stage.hub.clear_requests()
    assert stage.publish(release)["state"] == "unchanged"
    assert stage.hub.commits(REPO) == before
    assert {each.method for each in stage.hub.requests} == {"GET"}


def test_new_timings_alone_make_no_commit(lfs_stage: Stage, release: Path) -> None:
    lfs_stage.hub.seed(REPO, release)
    before = lfs_stage.hub.commits(REPO)
    again = make_release(lfs_stage.folder / "again", seconds=2.0)
    assert listing(again) != listing(release)
    done = lfs_stage.run("publish", again, "--repo", REPO)
    assert "nothing to publish: it holds this release; only timings differ" in done.stdout
    assert lfs_stage.hub.commits(REPO) == before
    assert lfs_stage.holds(release)


def test_a_changed_release_sends_what_changed_and_tells_the_figures(stage: Stage, release: Path) -> None:
    stage.hub.seed(REPO, release)
    new = make_release(stage.folder / "new", CHANGED, wer=0.04, seconds=2.0)
    stage.hub.clear_requests()
    done = stage.run("publish", new, "--repo", REPO)
    assert stage.holds(new)
    assert stage.sent() == 0  # the weights did not change, the rest lies in git
    assert "run/wer  5.00 % → 4.00 %" in done.stdout
    assert "run/rtf  1.00 s → 2.00 s" in done.stdout
    assert "changed  config.json" in done.stdout
    assert "files verified by hash" in done.stdout


def test_only_a_changed_weight_travels(stage: Stage, release: Path) -> None:
    stage.hub.seed(REPO, release)
    new = make_release(stage.folder / "new", {**FILES, "other/weights.bin": noise(3)})
    stage.hub.clear_requests()
    stage.publish(new)
    assert stage.holds(new)
    assert 70_000 <= stage.sent() < 75_000


def test_a_renamed_weight_is_not_sent_again(stage: Stage, release: Path) -> None:
    stage.hub.seed(REPO, release)
    files = {path.replace("other/", "moved/"): content for path, content in FILES.items()}
    new = make_release(stage.folder / "new", files)
    shown = json.loads(stage.run("diff", new, "--repo", REPO, "--json").stdout)
    assert [each["sends"] for each in shown["added"] if each["path"] == "moved/weights.bin"] == [0]
    stage.hub.clear_requests()
    stage.publish(new)
    assert stage.holds(new)
    assert stage.sent() == 0


def test_files_that_the_release_does_not_hold_go_unless_they_are_kept(lfs_stage: Stage, release: Path) -> None:
    old = lfs_stage.folder / "old"
    for path in ("old.bin", "assets/logo.svg", "assets/deep/logo.svg"):
        (old / path).parent.mkdir(parents=True, exist_ok=True)
        (old / path).write_text(path)
    lfs_stage.hub.seed(REPO, old)
    release = make_release(release, publish={"repo": REPO, "keep": ["assets/*"]})
    done = lfs_stage.run("publish", release)
    assert lfs_stage.holds(release, kept=["assets/logo.svg"])
    assert "assets/logo.svg" in lfs_stage.hub.files(REPO)
    assert "removed  old.bin" in done.stdout
    assert "removed  assets/deep/logo.svg" in done.stdout
    assert "kept     assets/logo.svg" in done.stdout


def test_diff_and_dry_run_change_nothing(lfs_stage: Stage, release: Path) -> None:
    for command in (["diff"], ["publish", "--dry-run"]):
        lfs_stage.hub.clear_requests()
        done = lfs_stage.run(*command, release, "--repo", REPO)
        assert "which does not exist yet" in done.stdout
        assert "to send: at most 1" in done.stdout
        assert {each.method for each in lfs_stage.hub.requests} == {"GET"}
    lfs_stage.hub.seed(REPO, release)
    before = lfs_stage.hub.commits(REPO)
    new = make_release(lfs_stage.folder / "new", CHANGED, wer=0.04)
    lfs_stage.hub.clear_requests()
    shown = json.loads(lfs_stage.run("diff", new, "--repo", REPO, "--json", HF_TOKEN="").stdout)
    assert [each["path"] for each in shown["changed"]] == ["README.md", "config.json", "hubpub.json"]
    assert shown["figures"][0]["key"] == "run/wer"
    assert (shown["figures"][0]["old"]["value"], shown["figures"][0]["new"]["value"]) == (0.05, 0.04)
    downloads = [each.path for each in lfs_stage.hub.requests if "/resolve/" in each.path]
    assert [path.rpartition("/")[2] for path in downloads] == ["hubpub.json"]
    assert lfs_stage.publish(new, "--dry-run")["state"] == "dry-run"
    assert lfs_stage.hub.commits(REPO) == before


@pytest.mark.parametrize("damage", ["card", "timings", "file", "manifest", "lost card"])
def test_what_was_changed_by_hand_is_repaired(lfs_stage: Stage, release: Path, damage: str) -> None:
    """New timings are no reason to publish, but an edited card, a lost record or a damaged manifest is."""
    again = make_release(lfs_stage.folder / "again", seconds=2.0)
    if damage == "lost card":
        (release / "README.md").unlink()
    else:
        names = {"timings": "measurements/run.timings.jsonl", "file": "config.json", "manifest": "hubpub.json"}
        path = release / names.get(damage, "README.md")
        path.write_bytes(path.read_bytes().replace(b"1", b"9"))  # of the same size
    lfs_stage.hub.seed(REPO, release)
    assert lfs_stage.publish(again)["state"] == "published"
    assert lfs_stage.holds(again)


def test_a_branch_is_made_from_main_and_main_stays(lfs_stage: Stage, release: Path) -> None:
    lfs_stage.hub.seed(REPO, release)
    before = lfs_stage.hub.head(REPO)
    new = make_release(lfs_stage.folder / "new", CHANGED)
    assert lfs_stage.publish(new, "--branch", "next")["state"] == "published"
    assert lfs_stage.hub.head(REPO) == before
    assert lfs_stage.holds(new, "next")
    assert lfs_stage.publish(new, "--branch", "next")["state"] == "unchanged"
    assert lfs_stage.publish(release, "--branch", "copy")["commit"] == before


def test_the_recipe_says_where_it_goes(lfs_stage: Stage) -> None:
    release = make_release(lfs_stage.folder / "dist" / "toy", publish={"repo": REPO, "private": True, "tag": "v1"})
    done = lfs_stage.run("publish")  # the only release in dist/
    assert "release: dist/toy" in done.stdout
    assert "tag: v1" in done.stdout
    assert lfs_stage.hub.head(REPO, "v1") == lfs_stage.hub.head(REPO)
    assert lfs_stage.holds(release)
    stranger = lfs_stage.run("diff", release, HF_TOKEN=lfs_stage.hub.token(user="somebody")).stdout
    assert "which does not exist yet, or this login may not see it" in stranger  # it is private
    bare = make_release(lfs_stage.folder / "bare")
    assert "does not say where it is published; add `publish:" in lfs_stage.run("publish", bare, code=1).stderr


def test_a_tag_is_put_on_last_and_never_moved(lfs_stage: Stage, release: Path) -> None:
    stage = lfs_stage
    first = stage.hub.seed(REPO, release)
    for _ in range(2):  # only the tag is missing, then nothing
        done = stage.publish(release, "--tag", "v1")
        assert (done["state"], done["tag"], stage.hub.head(REPO, "v1")) == ("unchanged", "v1", first)
    new = make_release(stage.folder / "new", CHANGED)
    stage.hub.clear_requests()
    said = stage.run("publish", new, "--repo", REPO, "--tag", "v1", code=1).stderr
    assert f"the tag v1 is on {first[:12]}, which is another release" in said
    assert {each.method for each in stage.hub.requests} == {"GET"}
    assert stage.publish(new, "--tag", "v2")["tag"] == "v2"
    assert (stage.hub.head(REPO, "v1"), stage.hub.head(REPO, "v2")) == (first, stage.hub.head(REPO))


def test_a_pull_request_leaves_main_and_is_opened_once(stage: Stage, release: Path) -> None:
    stage.hub.seed(REPO, release)
    before = stage.hub.head(REPO)
    new = make_release(stage.folder / "new", CHANGED, wer=0.04)
    opened = stage.publish(new, "--pr", "--tag", "v2")
    assert opened["state"] == "pull-request"
    assert opened["url"] == f"{stage.hub.endpoint}/{REPO}/discussions/{opened['pull_request']}"
    assert stage.hub.head(REPO) == before
    assert stage.holds(new, f"refs/pr/{opened['pull_request']}")
    stage.hub.clear_requests()
    again = stage.publish(new, "--pr")
    assert (again["pull_request"], stage.commits_asked()) == (opened["pull_request"], 0)


def many(count: int) -> dict[str, bytes]:
    return {**FILES, **{f"parts/{number:03}.txt": b"%d\n" % number for number in range(count)}}


def test_a_large_release_becomes_visible_at_once(stage: Stage, release: Path) -> None:
    stage.hub.seed(REPO, release)
    before = stage.hub.commits(REPO)
    large = make_release(stage.folder / "large", many(205))
    assert stage.publish(large)["state"] == "published"
    assert stage.holds(large)
    assert stage.commits_asked() == 3  # to the pull request
    assert len(stage.hub.commits(REPO)) == len(before) + 1
    assert stage.publish(large)["state"] == "unchanged"


@pytest.mark.parametrize("route", ["/commit/refs/pr/", "/merge", "/discussions/1/status"])
def test_a_large_release_that_fails_midway_leaves_main(lfs_stage: Stage, release: Path, route: str) -> None:
    stage = lfs_stage
    stage.hub.seed(REPO, release)
    before = stage.hub.head(REPO)
    large = make_release(stage.folder / "large", many(110))
    stage.hub.fault(route, method="POST", status=403)
    if "status" in route:  # the pull request is open already: break its merge as well
        stage.hub.fault("/merge", method="POST", status=403)
    said = stage.run("publish", large, "--repo", REPO, code=1).stderr
    assert "the token may not do this" in said
    assert stage.hub.head(REPO) == before
    stage.hub.clear_faults()
    with urlopen(f"{stage.hub.endpoint}/api/models/{REPO}/discussions/1") as answer:
        status = json.load(answer)["status"]
    assert ("pull request 1 could not be closed" in said) == ("status" in route) == (status != "closed")
    assert stage.publish(large)["state"] == "published"
    assert stage.holds(large)


def test_removing_all_but_a_few_files_of_a_large_release(lfs_stage: Stage, release: Path) -> None:
    large = make_release(lfs_stage.folder / "large", many(120))
    lfs_stage.hub.seed(REPO, large)
    lfs_stage.publish(release)
    assert lfs_stage.holds(release)


def test_a_gitignore_in_the_repo_does_not_swallow_files(lfs_stage: Stage, release: Path) -> None:
    old = lfs_stage.folder / "old"
    old.mkdir()
    (old / ".gitignore").write_text("*.bin\n")
    before = lfs_stage.hub.seed(REPO, old)
    kept = make_release(release, publish={"repo": REPO, "keep": [".gitignore"]})
    said = lfs_stage.run("publish", kept, code=1).stderr
    assert "the repo's .gitignore would leave out model.bin, other/weights.bin" in said
    assert lfs_stage.hub.head(REPO) == before


def test_a_card_that_the_hub_refuses_is_found_before_anything_is_sent(lfs_stage: Stage, release: Path) -> None:
    lfs_stage.hub.seed(REPO, release)
    before = lfs_stage.hub.head(REPO)
    new = make_release(lfs_stage.folder / "new", {**FILES, "model.bin": noise(9)})
    lfs_stage.hub.clear_requests()
    refused = '{"errors": [{"message": "license is unknown"}], "warnings": []}'
    lfs_stage.hub.fault("/validate-yaml", status=400, body=refused)
    make_release(new, {**FILES, "model.bin": noise(9)}, card="Another toy.")
    said = lfs_stage.run("publish", new, "--repo", REPO, code=1).stderr
    assert "the Hub refuses the card's metadata: license is unknown; correct `card` in the recipe" in said
    assert lfs_stage.sent() == 0
    assert lfs_stage.hub.head(REPO) == before


def test_access_is_checked_before_anything_is_sent(lfs_stage: Stage, release: Path) -> None:
    lfs_stage.hub.seed(REPO, release)
    new = make_release(lfs_stage.folder / "new", {**FILES, "model.bin": noise(9)})
    reader = lfs_stage.hub.token("read")
    revoked = lfs_stage.hub.token()
    lfs_stage.hub.revoke(revoked)
    lfs_stage.hub.clear_requests()
    for token, words in (
        (reader, "the token may not do this"),
        (revoked, "the Hub does not accept the token"),
        ("", "there is no token"),
        ("hf_schlüssel", "the token holds characters that no token has"),
        ("hf_line\nbreak", "log in with `hf auth login`"),
    ):
        done = lfs_stage.run("publish", new, "--repo", REPO, code=1, HF_TOKEN=token)
        assert words in done.stderr
        assert "hf_" not in done.stderr
        assert len(done.stderr.splitlines()) == 1 + done.stderr.count("checks: ")
    assert not any("/preupload/" in each.path or "/commit/" in each.path for each in lfs_stage.hub.requests)


def test_a_release_that_was_touched_is_refused(lfs_stage: Stage, release: Path) -> None:
    (release / "config.json").write_bytes(b'{"stride": 999}\n')
    said = lfs_stage.run("publish", release, "--repo", REPO, code=3).stderr
    assert "config.json" in said
    assert lfs_stage.hub.requests == []
    (release / "config.json").write_bytes(b"{}\n")
    assert "config.json has 3 bytes, 16 are recorded" in lfs_stage.run("diff", release, "--repo", REPO, code=1).stderr


def test_a_ci_job_publishes_without_a_secret(lfs_stage: Stage, release: Path) -> None:
    """Trusted publishing: the job's identity is exchanged for a token of one repo."""
    lfs_stage.hub.seed(REPO, release)
    lfs_stage.hub.trust(REPO, "owner/recipes")
    new = make_release(lfs_stage.folder / "new", CHANGED)
    identity = lfs_stage.hub.id_token("owner/recipes")
    trusted = {"HF_TOKEN": "", "HF_OIDC_RESOURCE": REPO}
    stranger = lfs_stage.hub.id_token("stranger/recipes")
    said = lfs_stage.run("publish", new, "--repo", REPO, code=1, HF_OIDC_ID_TOKEN=stranger, **trusted).stderr
    assert stranger not in said
    said = lfs_stage.run("publish", new, "--repo", REPO, code=1, **trusted).stderr
    assert "no token could be had: HF_OIDC_RESOURCE is set but no OIDC id token is available" in said
    assert lfs_stage.publish(new, HF_OIDC_ID_TOKEN=identity, **trusted)["state"] == "published"
    assert lfs_stage.holds(new)


def test_bad_options_are_one_line(lfs_stage: Stage, release: Path) -> None:
    for option, value in (("--repo", "no-owner"), ("--branch", "a b"), ("--tag", "-x")):
        arguments = ["--repo", REPO] if option != "--repo" else []
        said = lfs_stage.run("publish", release, *arguments, f"{option}={value}", code=1).stderr
        assert f"{option}: {value!r} cannot be used" in said
    assert lfs_stage.hub.requests == []

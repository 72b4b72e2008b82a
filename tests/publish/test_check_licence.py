"""What upstream's licences allow: a table in both directions, and which sources count."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_tools import publishable, reasons, release, rewrite
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.hub_terms import LICENSES
from hubpub.manifest import read_manifest
from hubpub.publish.licence import COPYLEFT, PERMISSIVE, PUBLIC_DOMAIN, published_sources, refused
from hubpub.recipe.model import Recipe

__all__ = ["publishable", "release"]

ALLOWED = [
    ("mit", "mit"),
    ("mit", "apache-2.0"),
    ("mit", "cc-by-nc-4.0"),
    ("mit", "other"),
    ("cc0-1.0", "unlicense"),
    ("public domain", "mit"),
    ("cc-by-4.0", "apache-2.0"),
    ("cc-by-nc-4.0", "cc-by-nc-4.0"),
    ("cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    ("cc-by-nc-3.0", "cc-by-nc-4.0"),
    ("cc-by-sa-3.0", "cc-by-sa-4.0"),
    ("cc-by-sa-4.0", "gpl-3.0"),
    ("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    ("llama3.1", "llama3.1"),
    ("gemma", "gemma"),
    ("openrail", "openrail"),
    ("gpl-3.0", "agpl-3.0"),
    ("lgpl-2.1", "gpl-3.0"),
    ("mpl-2.0", "lgpl-3.0"),
    ("other", "other"),
    ("MIT", "apache-2.0"),
    ("Apache-2.0", "mit"),
    ("GPL-3.0-or-later", "gpl-3.0"),
    ("GPL-2.0-or-later", "gpl-3.0"),
    ("GPL-2.0-only WITH Classpath-exception-2.0", "gpl-2.0"),
    ("CC-BY-NC-4.0 OR MIT", "mit"),
    ("MIT AND Apache-2.0", "bsd-3-clause"),
    ("(MIT AND CC-BY-SA-4.0) OR (Apache-2.0 AND ISC)", "mit"),
    ("LicenseRef-Somebody", "other"),
]
REFUSED = [
    ("cc-by-nc-4.0", "mit", "forbids commercial use"),
    ("cc-by-nc-4.0", "apache-2.0", "forbids commercial use"),
    ("cc-by-nc-4.0", "cc-by-4.0", "forbids commercial use"),
    ("cc-by-nc-4.0", "cc-by-nc-3.0", "forbids commercial use"),
    ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "share-alike"),
    ("cc-by-nc-sa-4.0", "cc-by-sa-4.0", "share-alike"),
    ("cc-by-sa-4.0", "cc-by-4.0", "share-alike"),
    ("cc-by-sa-4.0", "cc-by-sa-3.0", "share-alike"),
    ("cc-by-nd-4.0", "cc-by-nd-4.0", "no modified copies"),
    ("cc-by-nc-nd-4.0", "cc-by-nc-nd-4.0", "no modified copies"),
    ("mit", "cc0-1.0", "notice to be kept"),
    ("gpl-3.0", "mit", "share-alike"),
    ("gpl-2.0", "gpl-3.0", "share-alike"),
    ("agpl-3.0", "gpl-3.0", "share-alike"),
    ("llama3.1", "llama3.2", "terms of its own"),
    ("llama3", "mit", "terms of its own"),
    ("gemma", "apache-2.0", "terms of its own"),
    ("openrail", "bigscience-openrail-m", "terms of its own"),
    ("cc-by-nc-4.0", "other", "does not say that it keeps them"),
    ("gpl-3.0", "unknown", "does not say that it keeps them"),
    ("other", "mit", "does not say what is allowed"),
    ("unknown", "unknown", "does not say what is allowed"),
    ("NOASSERTION", "mit", "does not say what is allowed"),
    ("", "mit", "does not say what is allowed"),
    ("LicenseRef-Somebody", "mit", "none that the Hub has an id for"),
    ("MIT AND CC-BY-NC-4.0", "mit", "forbids commercial use"),
    ("GPL-3.0-only OR CC-BY-NC-4.0", "mit", "share-alike"),
    ("MIT AND (GPL-3.0-only OR CC-BY-NC-4.0)", "mit", "share-alike"),
]


@pytest.mark.parametrize(("upstream", "card"), ALLOWED)
def test_allowed(upstream: str, card: str) -> None:
    assert refused(upstream, card, changed=True) is None


@pytest.mark.parametrize(("upstream", "card", "why"), REFUSED)
def test_refused(upstream: str, card: str, why: str) -> None:
    said = refused(upstream, card, changed=True)
    assert said is not None
    assert why in said
    assert "; " in said, "it says what to do"


@pytest.mark.parametrize("licence", ["cc-by-nd-4.0", "cc-by-nc-nd-3.0"])
def test_no_derivatives_may_be_passed_on_as_they_came(licence: str) -> None:
    assert refused(licence, licence, changed=False) is None
    assert refused(licence, "mit", changed=False) is not None


def test_every_id_of_the_hub_may_stay_as_it_is() -> None:
    """But for those that say nothing, and those that allow no changes."""
    refused_ids = {licence for licence in LICENSES if refused(licence, licence, changed=True)}
    assert refused_ids == {"unknown", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"}


def test_the_table_speaks_of_the_hubs_ids() -> None:
    spdx_only = {"0bsd", "mit-0", "public domain", "psf-2.0", "python-2.0"}
    assert (PUBLIC_DOMAIN | PERMISSIVE | set(COPYLEFT)) - LICENSES == spdx_only
    assert set().union(*COPYLEFT.values()) <= LICENSES


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["mit", "and", "or", "(", ")", "gpl-3.0", "with", "other", "x", "OR"]), max_size=20).map(
        " ".join
    )
    | st.text(max_size=40),
    st.sampled_from(sorted(LICENSES)),
)
def test_any_expression_has_an_answer(upstream: str, card: str) -> None:
    said = refused(upstream, card, changed=True)
    assert said is None or "; " in said


def test_an_expression_of_many_choices_is_bounded() -> None:
    bomb = " and ".join(f"(a{n} or b{n})" for n in range(90))
    assert refused(bomb, "mit", changed=True) is not None


def toy(release: Path) -> Recipe:
    from hubpub.recipe import load_recipe

    return load_recipe(release / read_manifest(release).recipe).recipe


def test_audio_that_is_measured_or_calibrated_on_does_not_count(release: Path) -> None:
    assert published_sources(toy(release)) == {"data": True}
    manifest = read_manifest(release)
    speech = manifest.sources["speech"].model_copy(update={"license": "cc-by-nc-nd-4.0"})
    rewrite(release, sources={**manifest.sources, "speech": speech})
    assert reasons(release) == []


def test_what_is_kept_and_what_is_changed(release: Path) -> None:
    recipe = toy(release)
    kept = recipe.model_copy(update={"files": {"notes.txt": "data/notes.txt"}})
    assert published_sources(kept) == {"data": False}
    chained = recipe.model_copy(update={"files": {"sharded/model.onnx": recipe.files["sharded/model.onnx"]}})
    assert published_sources(chained) == {"data": True}


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("cc-by-nc-4.0", "its licence cc-by-nc-4.0 forbids commercial use, apache-2.0 allows it or does not say so; …"),
        ("cc-by-nd-4.0", "its licence cc-by-nd-4.0 allows no modified copies to be published; …"),
        (None, "no licence is stated, so nothing says that it may be published; state `license` there and build again"),
    ],
)
def test_a_release_against_the_licence_of_its_source(release: Path, licence: str | None, said: str) -> None:
    manifest = read_manifest(release)
    data = manifest.sources["data"].model_copy(update={"license": licence})
    rewrite(release, sources={**manifest.sources, "data": data})
    (line,) = reasons(release)
    assert line.startswith(f"sources.data (../data): {said.removesuffix('…')}")

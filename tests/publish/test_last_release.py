"""Which release ``hubpub publish`` means when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import make_release

from hubpub.build.last import last_release, note_last
from hubpub.errors import ReleaseError


def test_the_noted_one_counts_whatever_the_ages_are(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        make_release(tmp_path / name)
        note_last(tmp_path / name, partial=False)
    note_last(tmp_path / "one", partial=False)  # built again and found in place
    note_last(tmp_path / "two.partial", partial=True)
    assert last_release(tmp_path) == tmp_path / "one"


def test_without_a_note_only_a_single_release_is_clear(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no release was finished here"):
        last_release(tmp_path)
    make_release(tmp_path / "one")
    make_release(tmp_path / "one.rejected")
    make_release(tmp_path / "two.partial")
    assert last_release(tmp_path) == tmp_path / "one"
    make_release(tmp_path / "two")
    with pytest.raises(ReleaseError, match="cannot be told: one, two; name its folder"):
        last_release(tmp_path)
    (tmp_path / ".last").write_text("gone\n")
    with pytest.raises(ReleaseError, match="cannot be told"):
        last_release(tmp_path)
    (tmp_path / ".last").write_text("../two\n")
    with pytest.raises(ReleaseError, match="cannot be told"):
        last_release(tmp_path)

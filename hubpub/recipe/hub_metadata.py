"""What a recipe may say of a card's metadata."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from hubpub.errors import nearest
from hubpub.hub_terms import LANGUAGE, LICENSES, PIPELINE_TAGS


def _license(value: str) -> str:
    if value not in LICENSES:
        hint = nearest(value, LICENSES) or "; use `other` with license_name and license_link"
        raise ValueError(f"{value!r} is not a licence identifier of the Hub{hint}")
    return value


def _pipeline_tag(value: str) -> str:
    if value not in PIPELINE_TAGS:
        raise ValueError(f"{value!r} is not a task of the Hub{nearest(value, PIPELINE_TAGS)}")
    return value


License = Annotated[str, AfterValidator(_license)]
"""Licence identifier as the Hub spells it."""

PipelineTag = Annotated[str, AfterValidator(_pipeline_tag)]
"""Task of the model, which decides the widget."""

REPO_ID = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"

Language = Annotated[str, Field(pattern=LANGUAGE)]
"""ISO 639 code in lower case, such as ``en`` or ``zh-Hant``."""

RepoId = Annotated[str, Field(pattern=REPO_ID, max_length=96)]
"""``owner/name`` on the Hub."""

HubTag = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\n]+$")]
"""A free tag."""

"""How text is made comparable before errors are counted."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Normalizer = Literal["none", "basic"]


def normalize(text: str, normalizer: Normalizer) -> str:
    """Words separated by single spaces.

    ``none`` touches white space only. ``basic`` is Unicode NFKC and case folding; what is neither a letter, a mark nor
    a number becomes a space, but for an apostrophe inside a word (``don't``, typographic too); invisible format
    characters go without a trace.
    """
    if normalizer == "basic":
        # Folding can undo the composition, so compose again.
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = re.sub(r"[’ʼ＇]", "'", text)  # noqa: RUF001 — these are the apostrophes in use
        text = re.sub(r"(?<!\w)'|'(?!\w)", " ", "".join(map(_letter, text)))
    return " ".join(text.split())


def _letter(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cf":
        return ""
    return char if char == "'" or category[0] in "LMN" else " "

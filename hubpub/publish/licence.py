"""What the licences of the sources allow the release to be published under.

Only sources whose bytes are in published files count: files kept from them, and files made from theirs by scripts and
transformations. Audio that is merely measured on gives no byte away, and neither does audio that a quantization is
calibrated on. The table speaks of the Hub's licence ids; it is a safety net against oversights, not legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hubpub.hub_terms import LICENSES
from hubpub.manifest import Manifest
from hubpub.recipe import Recipe

PUBLIC_DOMAIN = frozenset({"0bsd", "cc0-1.0", "mit-0", "pddl", "public domain", "unlicense", "wtfpl"})
"""Asks for nothing."""

PERMISSIVE = frozenset(
    {
        *("afl-3.0", "apache-2.0", "apple-ascl", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause"),
        *("bsd-3-clause-clear", "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
        *("cdla-permissive-1.0", "cdla-permissive-2.0", "ecl-2.0", "etalab-2.0", "isc", "mit", "ms-pl", "ncsa"),
        *("odc-by", "open-mdw", "postgresql", "psf-2.0", "python-2.0", "zlib"),
    }
)
"""Asks for its notice to be kept, and no more."""

_GPL = ("gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0")

COPYLEFT: dict[str, frozenset[str]] = {
    name: frozenset({name, *others})
    for name, others in {
        "agpl-3.0": (),
        "cc-by-sa-3.0": ("cc-by-sa-4.0",),
        "cc-by-sa-4.0": ("gpl-3.0",),
        "cdla-sharing-1.0": (),
        "epl-1.0": ("epl-2.0",),
        "epl-2.0": (),
        "eupl-1.1": ("eupl-1.2",),
        "eupl-1.2": ("agpl-3.0", "gpl-2.0", "gpl-3.0"),
        "gfdl": (),
        "gpl": _GPL,
        "gpl-2.0": ("gpl",),
        "gpl-3.0": ("agpl-3.0",),
        "lgpl": ("lgpl-2.1", "lgpl-3.0", *_GPL),
        "lgpl-2.1": ("lgpl", "gpl", "gpl-2.0", "gpl-3.0"),
        "lgpl-3.0": ("agpl-3.0", "gpl-3.0"),
        "lgpl-lr": (),
        "lppl-1.3c": (),
        "mpl-2.0": ("agpl-3.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0"),
        "odbl": (),
        "ofl-1.1": (),
        "osl-3.0": (),
    }.items()
}
"""Share-alike: the licence itself, later versions of it, and those that its text names as compatible."""

_CC = re.compile(r"cc-by(?P<nc>-nc)?(?P<terms>-sa|-nd)?-(?P<version>\d\.\d)")
_NOT_SAID = frozenset({"", "other", "unknown", "noassertion", "none"})


def licence_refusals(manifest: Manifest, recipe: Recipe) -> list[str]:
    """A line for every source whose licence does not allow what the card says."""
    lines = []
    for name, changed in sorted(published_sources(recipe).items()):
        source = manifest.sources.get(name)
        if source is None:
            continue
        licence = source.license
        if licence is None:
            lines.append(
                f"sources.{name} ({source.name}): no licence is stated, so nothing says that it may be published; "
                "state `license` there and build again"
            )
        elif why := refused(licence, manifest.license, changed=changed):
            lines.append(f"sources.{name} ({source.name}): {why}")
    return lines


def published_sources(recipe: Recipe) -> dict[str, bool]:
    """The sources whose bytes are in published files, and whether any of these was changed on the way."""
    found: dict[str, bool] = {}

    def visit(origin: str, changed: bool, seen: frozenset[str]) -> None:
        if origin in recipe.sources:
            found[origin] = found.get(origin, False) or changed
        elif origin in recipe.steps and origin not in seen:
            for reference in recipe.steps[origin].inputs.values():
                visit(reference.partition("/")[0], True, seen | {origin})

    for _, rule in recipe.rules():
        for reference in (rule.source, *rule.sidecars):
            visit(reference.partition("/")[0], bool(rule.chain), frozenset())
    return found


def refused(upstream: str, card: str, *, changed: bool) -> str | None:
    """Why what is under ``upstream`` (a Hub id or an SPDX expression) may not be published as ``card``; None if it may.

    Args:
        upstream: where licences may be chosen from (``OR``), one that allows it is enough; of ``AND``, each must.
        card: the Hub id that the card states.
        changed: the files are not published as they came.
    """
    reasons = []
    for together in _alternatives(upstream):
        why = next((why for each in together if (why := _refused(each, card, changed))), None)
        if why is None:
            return None
        reasons.append(why)
    return reasons[0]


def _refused(upstream: str, card: str, changed: bool) -> str | None:
    """The table for one licence."""
    said = f"its licence {upstream or '(nothing)'}"
    cc = _CC.fullmatch(upstream)
    if upstream in _NOT_SAID:
        if upstream == card == "other":
            return None
        return f"{said} does not say what is allowed, so {card} cannot be; find out, and state it"
    if cc and cc["terms"] == "-nd" and changed:
        return f"{said} allows no modified copies to be published; keep its files byte for byte, or leave them out"
    if upstream == card or upstream in PUBLIC_DOMAIN:
        return None
    if upstream in PERMISSIVE:
        if card in PUBLIC_DOMAIN:
            return f"{said} asks for its notice to be kept, and {card} waives that; state {upstream}"
        return None
    if upstream not in LICENSES:
        fix = "state `other` with its name and its link"
        return None if card == "other" else f"{said} is none that the Hub has an id for, so {card} is not it; {fix}"
    if card in ("other", "unknown"):
        return f"{said} passes its terms on, and {card} does not say that it keeps them; state {upstream}"
    if cc:
        return _creative_commons(cc, upstream, card)
    if upstream in COPYLEFT:
        if card in COPYLEFT[upstream]:
            return None
        allowed = ", ".join(sorted(COPYLEFT[upstream]))
        return f"{said} must stay (share-alike), {card} is not it; state {allowed.replace(', ', ' or ')}"
    return f"{said} has terms of its own that go with every copy, {card} drops them; state {upstream}"


def _creative_commons(upstream: re.Match[str], name: str, card: str) -> str | None:
    """Adapted material under the Creative Commons licences: no term of upstream's may be missing."""
    other = _CC.fullmatch(card)
    if upstream["terms"] == "-nd":
        return f"its licence {name} must stay on unchanged copies; state {name}"
    if upstream["terms"] == "-sa":
        kept = other and (other["nc"], other["terms"]) == (upstream["nc"], "-sa")
        if (kept and other and other["version"] >= upstream["version"]) or card in COPYLEFT.get(name, ()):
            return None
        return f"its licence {name} must stay (share-alike), {card} is not it; state {name}"
    if other and other["nc"] and other["version"] >= upstream["version"]:
        return None
    return f"its licence {name} forbids commercial use, {card} allows it or does not say so; state {name}"


def _alternatives(expression: str) -> list[tuple[str, ...]]:
    """An SPDX expression as a choice (``OR``) of licences that hold together (``AND``), by their Hub ids."""
    text = " ".join(expression.lower().split())
    if not re.search(r"[()]| or | and ", text):
        return [(_hub_id(text),)]
    tokens = re.findall(r"[()]|[^\s()]+", text)[:200]
    alternatives = _choice(iter([*tokens, ")"]))
    return [together for together in alternatives if together] or [(text,)]


def _choice(tokens: Iterator[str]) -> list[tuple[str, ...]]:
    """One level of brackets, up to the closing one."""
    choice: list[tuple[str, ...]] = []
    together: list[tuple[str, ...]] = [()]
    words: list[str] = []

    def join(inner: list[tuple[str, ...]]) -> None:
        nonlocal together
        together = [(*left, *right) for left in together for right in inner][:100]

    def end_of_name() -> None:
        if words:
            join([(_hub_id(" ".join(words)),)])
            words.clear()

    for token in tokens:
        if token == "(":
            join(_choice(tokens))
        elif token in ("and", "or", ")"):
            end_of_name()
            if token != "and":
                choice += together
                together = [()]
            if token == ")":
                break
        else:
            words.append(token)
    return choice


def _hub_id(spdx: str) -> str:
    """SPDX' name in lower case, without what the Hub's ids do not say."""
    name = spdx.partition(" with ")[0].strip()
    return _SPDX.get(name, re.sub(r"-(?:only|or-later)$", "", name))


_SPDX = {
    "cc-pddc": "public domain",
    "gfdl-1.3": "gfdl",
    "gpl-2.0-or-later": "gpl",
    "lgpl-2.1-or-later": "lgpl",
    "odbl-1.0": "odbl",
    "odc-by-1.0": "odc-by",
    "pddl-1.0": "pddl",
    "public-domain": "public domain",
}

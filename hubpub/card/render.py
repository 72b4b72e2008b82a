"""Renders the card: Hub metadata from the recipe, everything else by a sandboxed Jinja template from the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hubpub.card.figures import cell, duration, figure, number, size
from hubpub.card.listen import listen
from hubpub.card.parts import by_part
from hubpub.card.sensitivity import shown
from hubpub.card.tables import choices, side_by_side
from hubpub.errors import ReleaseError
from hubpub.manifest import Manifest
from hubpub.measure.result import others_in_words
from hubpub.report import counted

MAX_CARD_BYTES = 4 << 20
PROSE = "card"
"""Where an error is, when it is in the recipe's prose."""


def render_card(manifest: Manifest, card: Mapping[str, Any], template: Path) -> str:
    """The text of ``README.md``.

    Args:
        manifest: the release.
        card: what the recipe says under ``card``.
        template: a Jinja template; it sees ``manifest``, ``card``, ``runs``, ``listen`` and others as plain data.

    Raises:
        ReleaseError: the template is not valid, or names something that the manifest does not hold.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters.update(size=size, figure=figure, cell=cell, duration=duration)
    environment.globals.update(number=number, counted=counted)
    data = manifest.model_dump(mode="json")
    # Prose may quote figures: it is rendered from the same data, so that no number is typed by hand.
    facts: dict[str, Any] = {
        "manifest": data,
        "runs": _runs(manifest),
        "measured": _lookup(manifest),
        "verdicts": _verdicts(manifest),
    }
    machines = (each.machine for each in manifest.all_measurements())
    facts["machines"] = list(dict.fromkeys(f"{each.cpu}, {each.cores} cores, {each.system}" for each in machines))
    facts |= {"comparisons": side_by_side(manifest), "choices": choices(manifest), "parts": by_part(manifest)}
    facts["searches"] = shown({name: step.facts for name, step in manifest.steps.items()})
    facts["listen"] = listen(manifest)
    said = {each["name"] for each in facts["listen"]}
    facts["heard"] = {name: corpus for name, corpus in data["corpora"].items() if name not in said}
    facts["origins"] = {path: _origin(manifest, path) for path in manifest.files}
    place: str | Path = PROSE
    try:
        prose = _render_all(environment, dict(card), facts)
        place = template
        body = environment.from_string(template.read_text("utf-8")).render(card=prose, **facts)
    except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f"{place}:{line}" if line and place is template else str(place)
        raise ReleaseError(f"the card cannot be rendered: {' '.join(str(error).split())}", where=where) from error
    text = front_matter(manifest, card) + body.strip() + "\n"
    if len(text.encode()) > MAX_CARD_BYTES:
        raise ReleaseError(f"the card is larger than {MAX_CARD_BYTES} bytes", where=str(template))
    return text


def front_matter(manifest: Manifest, card: Mapping[str, Any]) -> str:
    """The metadata block that the Hub reads."""
    fields = (
        "license",
        "license_name",
        "license_link",
        "language",
        "base_model",
        "base_model_relation",
        "library_name",
        "pipeline_tag",
        "tags",
    )
    data = {
        field: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for field in fields
        if (value := card.get(field))
    }
    if marks := [name for name in ("synthetic", "provisional") if getattr(manifest, name)]:
        data["tags"] = [*data.get("tags", []), *marks]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)}---\n\n"


def _runs(manifest: Manifest) -> list[dict[str, Any]]:
    """The measurements, grouped by run: of the whole corpus, of its strata, of each clip; those of candidates apart."""
    runs: dict[str, dict[str, Any]] = {}
    for each in (each for each in manifest.all_measurements() if "@" not in each.run):
        seen = manifest.observed.steps.get(f"runs/{each.run}", {})
        beside = others_in_words(seen.get("others_share"))
        run = runs.setdefault(each.run, {"name": each.run, "client": each.client, "versions": {}, "beside": beside})
        kind = "figures" if each.subset is None else "parts" if each.subset.startswith("clip:") else "strata"
        run.setdefault(kind, []).append(each.model_dump(mode="json"))
        run["versions"].update(each.versions)
    return [{"figures": [], "strata": [], "parts": [], **run} for run in runs.values()]


def _verdicts(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {"budget": str(verdict.gate), "passed": verdict.passed, "reason": verdict.reason}
        for verdict in manifest.all_verdicts()
    ]


def _origin(manifest: Manifest, path: str) -> str:
    """How a file came to be, in a few words."""
    made_by = manifest.files[path].made_by
    step = manifest.steps.get(made_by)
    if step is None:
        return f"kept from {made_by}"
    if step.kind == "transform":
        chain = made_by.rpartition("#")[0]
        names = [name for name in manifest.steps if name.rpartition("#")[0] == chain] or [made_by]
        steps = [manifest.steps[name] for name in sorted(names, key=lambda name: (len(name), name))]
        transforms = ", ".join(each.identity["params"]["transform"] for each in steps)
        return f"{transforms} of {steps[0].identity['primary']}"
    return f"{step.kind} {made_by}"


def _lookup(manifest: Manifest) -> dict[str, str]:
    """``run/metric`` (and ``run/metric - other/metric``) → the figure as it is written."""
    found = {
        each.key if each.against is None else f"{each.key} - {each.against}": figure(each.model_dump(mode="json"))
        for each in manifest.all_measurements()
        if each.subset is None
    }
    return _Figures(found, manifest)


class _Figures(dict[str, str]):
    """Prose may quote what is not there: of a part of a recipe not all is measured, nor on every machine."""

    def __init__(self, found: Mapping[str, str], manifest: Manifest) -> None:
        super().__init__(found)
        self._manifest = manifest

    def __missing__(self, key: str) -> str:
        if self._manifest.partial or key.partition("/")[0] in self._manifest.not_run:
            return "(not measured)"
        raise KeyError(key)


def _render_all(environment: Any, value: Any, facts: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return environment.from_string(value).render(**facts)
    if isinstance(value, Mapping):
        return {key: _render_all(environment, item, facts) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_render_all(environment, item, facts) for item in value]
    return value

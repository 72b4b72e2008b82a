"""The metadata block of a README.md: what the Hub refuses in it, and what it warns of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.hub_terms import LANGUAGE, LICENSES, PIPELINE_TAGS

if TYPE_CHECKING:
    from starlette.responses import Response

    from hubpub.localhub.call import Call

_BLOCK = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_MODEL_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]+", re.ASCII)
_MAX = 1 << 20


def validate_yaml(call: Call) -> Response:
    """Errors and warnings for the README.md in the body; 400 where there are errors."""
    from starlette.responses import JSONResponse

    content = call.json.get("content")
    errors, warnings = validate(content if isinstance(content, str) else "", str(call.json.get("repoType") or "model"))
    value = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return JSONResponse(value, status_code=400 if errors else 200)


def card_data(path: Path) -> dict[str, Any]:
    """Metadata of the README.md at ``path`` as JSON values; empty where there is none that can be read."""
    try:
        with path.open("rb") as file:
            data = _load(file.read(_MAX).decode(errors="replace"))
        value = json.loads(json.dumps(data, default=str))
    except (OSError, ValueError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def validate(content: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of a card.

    Args:
        content: the README.md.
        kind: ``model`` or ``dataset``; the model rules hold for models only.
    """
    try:
        data = _load(content)
    except ValueError as error:
        return [f"Invalid YAML: {error}"], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"], []
    errors: list[str] = []
    warnings: list[str] = []
    for key, check in (_COMMON | (_MODEL if kind == "model" else {})).items():
        if key in data and data[key] is not None:
            errors.extend(check(key, data[key]))
    if "license" not in data:
        warnings.append('"license" is missing')
    if data.get("license") == "other" and not data.get("license_name"):
        warnings.append('"license_name" is missing for the license "other"')
    return errors, warnings


def _load(content: str) -> Any:
    """The block's value, or ``ValueError``; keys that come twice are an error, as for the Hub's parser."""
    import yaml

    found = _BLOCK.match(content)
    if found is None:
        return None
    if len(found[1]) > _MAX:
        raise ValueError("too large")

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise yaml.MarkedYAMLError(problem=f"duplicated mapping key {twice!r}", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(problem="aliases are not allowed")  # they can grow without bound
            return super().compose_node(parent, index)

    try:
        return yaml.load(found[1], Loader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 2}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{getattr(error, 'problem', None) or type(error).__name__}{place}") from None


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not value.strip():
        yield f'"{key}" must be a string'


def _texts(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield f'"{key}" must be an array'
        return
    for index, each in enumerate(value):
        if not isinstance(each, str) or not each:
            yield f'"{key}[{index}]" must be a string'


def _license(key: str, value: Any) -> Iterator[str]:
    for each in _each(value):
        if not isinstance(each, str) or each not in LICENSES:
            yield f'"{key}" must be one of [{", ".join(sorted(LICENSES))}], not {each!r}'


def _language(key: str, value: Any) -> Iterator[str]:
    for each in _each(value):
        # YAML 1.1 reads the code of Norwegian as False
        if not isinstance(each, str) or not re.fullmatch(LANGUAGE, each):
            yield (
                f'"{key}" with value {each!r} is not valid. It must be an ISO 639-1, 639-2 or 639-3 code '
                '(two/three letters), or a special value like "code", "multilingual".'
            )


def _pipeline_tag(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str) or value not in PIPELINE_TAGS:
        yield f'"{key}" must be one of [{", ".join(sorted(PIPELINE_TAGS))}], not {value!r}'


def _ids(key: str, value: Any) -> Iterator[str]:
    for each in _each(value):
        if not isinstance(each, str) or not _MODEL_ID.fullmatch(each):
            yield f'"{key}" with value {each!r} is not valid. Use an id of the Hub such as owner/name.'


def _relation(key: str, value: Any) -> Iterator[str]:
    known = ("adapter", "finetune", "merge", "quantized")
    if value not in known:
        yield f'"{key}" must be one of [{", ".join(known)}]'


def _model_index(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, list) or not value:
        yield f'"{key}" must be an array'
        return
    for index, model in enumerate(value):
        place = f"{key}[{index}]"
        yield from _need(place, model, "name")
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list):
            yield f'"{place}.results" must be an array'
            continue
        for number, result in enumerate(results):
            yield from _result(f"{place}.results[{number}]", result)


def _result(place: str, result: Any) -> Iterator[str]:
    if not isinstance(result, dict):
        yield f'"{place}" must be a mapping'
        return
    yield from _need(f"{place}.task", result.get("task"), "type")
    if result.get("dataset") is not None:
        yield from _need(f"{place}.dataset", result["dataset"], "type", "name")
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f'"{place}.metrics" must be an array of at least one'
        return
    for number, metric in enumerate(metrics):
        yield from _need(f"{place}.metrics[{number}]", metric, "type", "value")


def _need(place: str, value: Any, *names: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f'"{place}" is required'
        return
    for name in names:
        if value.get(name) is None:
            yield f'"{place}.{name}" is required'


_Check = Callable[[str, Any], Iterator[str]]
_COMMON: dict[str, _Check] = {
    "license": _license,
    "license_name": _text,
    "language": _language,
    "tags": _texts,
    "pretty_name": _text,
}
_MODEL: dict[str, _Check] = {
    "pipeline_tag": _pipeline_tag,
    "library_name": _text,
    "base_model": _ids,
    "base_model_relation": _relation,
    "datasets": _ids,
    "metrics": _texts,
    "model-index": _model_index,
}

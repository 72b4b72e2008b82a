"""What a recipe may say: these models are the schema (`hubpub schema` prints it for editors)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter

from hubpub.corpus.spec import CorpusSpec
from hubpub.gate import GateSpec
from hubpub.measure.clients import AnyClient
from hubpub.measure.metrics import AnyMetric, MetricName
from hubpub.measure.metrics.base import Metric
from hubpub.source import HubSource, LocalSource, PypiSource
from hubpub.transform.shard import Shard

Transform = Shard
"""The union of transformations, told apart by ``transform``: a new one adds a line here."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
"""Name of a source, step, corpus, run or variant."""

Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/.+$", max_length=400)]
"""A file: ``<source or step>/<path within it>``."""

FilePath = Annotated[str, Field(min_length=1, max_length=400)]
"""A relative POSIX path below a folder."""


class Model(BaseModel):
    """Base of the recipe's own models: unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _source_kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else vars(value)
    return next((kind for kind in ("pypi", "hub", "path") if kind in keys), None)


Source = Annotated[
    Annotated[PypiSource, Tag("pypi")] | Annotated[HubSource, Tag("hub")] | Annotated[LocalSource, Tag("path")],
    Discriminator(
        _source_kind,
        custom_error_type="source_kind",
        custom_error_message="a source says where its bytes come from: one of `pypi:`, `hub:` or `path:`",
    ),
]


class ScriptStep(Model):
    """A Python script that runs in an environment of its own and turns declared inputs into declared outputs.

    It finds its inputs below ``inputs/`` and writes below ``outputs/`` of the folder that it is started in.
    """

    script: FilePath = Field(description="PEP 723 script, relative to the recipe's folder")
    requirements: FilePath | None = Field(
        None, description="hash-pinned requirements of the script; default: beside it, ending in .requirements.txt"
    )
    inputs: dict[FilePath, Reference] = Field(
        default_factory=dict, description="name below inputs/ → the file that appears there"
    )
    args: tuple[str, ...] = Field((), description="arguments of the script")
    outputs: tuple[FilePath, ...] = Field(min_length=1, description="the files, below outputs/, that it must write")
    timeout_minutes: float = Field(120, gt=0, description="the script is stopped after this time, minutes")


class FileRule(Model):
    """How a published file comes to be: kept byte for byte, or the end of a chain of transformations."""

    source: Reference = Field(alias="from", description="the file it is made from")
    sidecars: tuple[Reference, ...] = Field(
        (),
        alias="with",
        description="files that must lie beside it (external data); those named like it are found without",
    )
    chain: tuple[Transform, ...] = Field((), description="transformations, in order; none: keep it byte for byte")


FileEntry = Annotated[
    Annotated[Reference, Tag("reference")] | Annotated[FileRule, Tag("rule")],
    Discriminator(lambda value: "reference" if isinstance(value, str) else "rule"),
]


MetricEntry = Annotated[
    Annotated[MetricName, Tag("name")] | Annotated[AnyMetric, Tag("options")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "options"),
]
_METRIC: TypeAdapter[Metric] = TypeAdapter(AnyMetric)


class RunSpec(Model):
    """One client run over one corpus, and the metrics taken from it."""

    files: tuple[FilePath, ...] = Field(min_length=1, description="published files (globs) that the client is given")
    via: AnyClient = Field(description="the client that loads them, and its options")
    corpus: Name
    metrics: tuple[MetricEntry, ...] = Field(min_length=1, description="names, or mappings with options")
    reference: Name | None = Field(None, description="the run that deltas, agreement and distances are taken against")

    def metric_specs(self) -> tuple[Metric, ...]:
        """The metrics, the short form written out."""
        return tuple(
            _METRIC.validate_python({"metric": entry}) if isinstance(entry, str) else entry for entry in self.metrics
        )


class CardSpec(Model):
    """The model card: its template, and what no measurement can say."""

    template: Name = Field(description="name of a Jinja template: templates/<name>.md.j2 beside or above the recipe")
    title: str
    summary: str = Field(description="the opening paragraph; plain text or Markdown")
    sections: dict[str, str] = Field(default_factory=dict, description="heading → Markdown, after the tables")
    license: str = Field(description="licence identifier as the Hub spells it")
    language: tuple[str, ...] = Field(min_length=1)
    base_model: tuple[str, ...] = Field((), description="owner/name of the upstream models on the Hub")
    base_model_relation: Literal["quantized", "finetune", "adapter", "merge"] | None = None
    library_name: str | None = None
    pipeline_tag: str | None = None
    tags: tuple[str, ...] = ()


class Recipe(Model):
    """A published repo, as source code."""

    version: Literal[1]
    name: Name
    sources: dict[Name, Source] = Field(min_length=1)
    variants: dict[Name, dict[str, str | int | float | bool]] = Field(default_factory=dict)
    steps: dict[Name, ScriptStep] = Field(default_factory=dict)
    files: dict[FilePath, FileEntry] = Field(min_length=1)
    corpora: dict[Name, CorpusSpec] = Field(default_factory=dict)
    measure: dict[Name, RunSpec] = Field(default_factory=dict)
    gates: tuple[GateSpec, ...] = ()
    card: CardSpec

    def rule(self, path: str) -> FileRule:
        """The rule of a published file, the short form written out."""
        rule = self.files[path]
        return rule if isinstance(rule, FileRule) else FileRule.model_validate({"from": rule})

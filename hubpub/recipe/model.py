"""What a recipe may say: these models are the schema (`hubpub schema` prints it for editors)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, model_validator

from hubpub.corpus.spec import CorpusSpec
from hubpub.gate import GateSpec
from hubpub.hub_terms import LANGUAGE
from hubpub.measure.clients import AnyClient
from hubpub.measure.metrics import AnyMetric, MetricName
from hubpub.measure.metrics.base import Metric
from hubpub.recipe.hub_metadata import REPO_ID, HubTag, Language, License, PipelineTag, RepoId
from hubpub.source import HubSource, LocalSource, PypiSource
from hubpub.transform.dynamic_int8 import DynamicInt8
from hubpub.transform.fp16 import Fp16
from hubpub.transform.palettize import Palettize
from hubpub.transform.safetensors_int8 import SafetensorsInt8
from hubpub.transform.shard import Shard
from hubpub.transform.smoothquant_int8 import SmoothQuantInt8
from hubpub.transform.split_aliases import SplitAliases
from hubpub.transform.static_int8 import StaticInt8
from hubpub.transform.weight_only import WeightOnly

Transform = Annotated[
    Shard | Fp16 | SmoothQuantInt8 | StaticInt8 | DynamicInt8 | WeightOnly | SafetensorsInt8 | Palettize | SplitAliases,
    Field(discriminator="transform"),
]
"""The union of transformations, told apart by ``transform``: a new one adds a line here."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._-]*/.+$"
GIT_NAME = r"^[A-Za-z0-9][A-Za-z0-9_+-]*(?:[./][A-Za-z0-9_+-]+)*$"
PATTERNS = {
    GIT_NAME: "a branch or tag: letters, digits and _ + -, single . and / between them",
    NAME: "a name: letters, digits, and after the first of them also . _ -",
    REFERENCE: "a file written as <source or step>/<path in it>",
    LANGUAGE: "a language code such as en, zh-Hant or multilingual",
    REPO_ID: "a repo id such as owner/name",
    r"^[^/]+/[^/]+$": "a figure written as <run>/<metric>",
}
"""What errors say instead of the patterns."""

Name = Annotated[str, Field(pattern=NAME, max_length=80)]
"""Name of a source, step, corpus, run or variant."""

Reference = Annotated[str, Field(pattern=REFERENCE, max_length=400)]
"""A file: ``<source or step>/<path within it>``."""

GitName = Annotated[str, Field(pattern=GIT_NAME, max_length=80)]
"""A branch or tag."""

FilePath = Annotated[str, Field(min_length=1, max_length=400)]
"""A relative POSIX path below a folder."""


class Model(BaseModel):
    """Base of the recipe's own models: unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _source_kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    # In brackets, because the tags show in pydantic's locations, where they must not be taken for the keys.
    kinds = [f"<{kind}>" for kind in ("pypi", "hub", "path") if kind in keys]
    return kinds[0] if len(kinds) == 1 else None


Source = Annotated[
    Annotated[PypiSource, Tag("<pypi>")] | Annotated[HubSource, Tag("<hub>")] | Annotated[LocalSource, Tag("<path>")],
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
    timeout_minutes: float = Field(
        120, gt=0, allow_inf_nan=False, description="the script is stopped after this time, minutes"
    )


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
    corpus: Name = Field(description="the corpus whose clips it is given; one for evaluation")
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
    title: str = Field(description="heading of the card")
    summary: str = Field(description="the opening paragraph; plain text or Markdown")
    sections: dict[str, str] = Field(default_factory=dict, description="heading → Markdown, after the tables")
    license: License = Field(description="licence identifier as the Hub spells it")
    license_name: str | None = Field(None, description="short name of the licence; only, and needed, with `other`")
    license_link: str | None = Field(None, description="where its text is; only, and needed, with `other`")
    language: tuple[Language, ...] = Field(
        min_length=1, description="language codes as the Hub spells them, such as en"
    )
    base_model: tuple[RepoId, ...] = Field((), description="owner/name of the upstream models on the Hub")
    base_model_relation: Literal["quantized", "finetune", "adapter", "merge"] | None = Field(
        None, description="what the files are to the base models"
    )
    library_name: str | None = Field(None, description="the library that the Hub shows code for, such as onnx")
    pipeline_tag: PipelineTag | None = Field(
        None, description="the Hub's name of the task, which decides where it is listed"
    )
    tags: tuple[HubTag, ...] = Field((), description="further tags that the Hub finds it by")

    @model_validator(mode="after")
    def _other_is_explained(self) -> Self:
        explained = (self.license_name is not None, self.license_link is not None)
        if explained != (self.license == "other",) * 2:
            raise ValueError("license_name and license_link go with the licence `other`, both of them")
        return self


class PublishSpec(Model):
    """Where the release goes, and what must hold there."""

    repo: RepoId = Field(description="owner/name on the Hub; made when it does not exist")
    branch: GitName = Field("main", description="the branch that users load from")
    pull_request: bool = Field(False, description="open a pull request instead of committing to the branch")
    tag: GitName | None = Field(None, description="tag put on the published commit")
    private: bool = Field(False, description="whether a repo that is made here is private")
    keep: tuple[FilePath, ...] = Field(
        (), description="files of the remote repo (globs) that are left alone though the release does not hold them"
    )
    drop_in_for: Name | None = Field(
        None,
        description="a source that it replaces: file names, graph inputs and outputs, and loaders keep working",
    )
    load: tuple[Name, ...] = Field(
        (), description="runs of `measure` whose client loads the published files after they were downloaded again"
    )


class Recipe(Model):
    """A published repo, as source code."""

    version: Literal[1] = Field(description="version of the recipe format")
    name: Name = Field(description="name of the release, and of its folder")
    sources: dict[Name, Source] = Field(
        min_length=1, description="where bytes come from, by the name used in references"
    )
    variants: dict[Name, dict[str, str | int | float | bool]] = Field(
        default_factory=dict,
        description="variant → its values; ${value} or ${variant} in steps, files, measure and gates stands for them",
    )
    steps: dict[Name, ScriptStep] = Field(default_factory=dict, description="scripts that make files from files")
    files: dict[FilePath, FileEntry] = Field(
        min_length=1, description="published path → the file kept there (<source or step>/<path>), or how it is made"
    )
    corpora: dict[Name, CorpusSpec] = Field(default_factory=dict, description="audio that is measured or calibrated on")
    measure: dict[Name, RunSpec] = Field(default_factory=dict, description="runs of a client over a corpus")
    gates: tuple[GateSpec, ...] = Field((), description="budgets; a release that misses one is not finished")
    card: CardSpec = Field(description="the model card")
    publish: PublishSpec | None = Field(None, description="where `hubpub publish` puts the release")

    def rule(self, path: str) -> FileRule:
        """The rule of a published file, the short form written out."""
        rule = self.files[path]
        return rule if isinstance(rule, FileRule) else FileRule.model_validate({"from": rule})

"""What a recipe may say: these models are the schema (`hubpub schema` prints it for editors)."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, model_validator

from hubpub.corpus.spec import CorpusSpec
from hubpub.gate import GateSpec, Key
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


class BestBy(Model):
    """Promotes, of the candidates that pass their gates, the one with the least or the most of a figure."""

    least: Key | None = Field(None, description="run/metric of which the least is best, such as an error rate")
    most: Key | None = Field(None, description="run/metric of which the most is best")

    @model_validator(mode="after")
    def _one_figure(self) -> Self:
        if (self.least is None) == (self.most is None):
            raise ValueError("say one of `least` and `most`")
        return self

    @property
    def figure(self) -> str:
        """The run/metric that decides."""
        return self.least or self.most or ""


FIRST = "first"
"""What `promote` says of a ladder, so no candidate is called so."""

IN_OTHER_NAMES = ("stem", "candidate", "suffix")
"""What ``publish_others`` may hold in braces."""


class ChoiceSpec(Model):
    """Published files that may come to be in several ways: these are measured, and one of them is published.

    With ``promote: first`` a ladder: its rungs are made in order until one passes its gates, those below are not made.
    Else a roster: all are made and measured side by side.
    """

    runs: tuple[Name, ...] = Field(
        min_length=1,
        description="runs of `measure` that every candidate is measured by, as if it were published; their gates "
        "(but those on timings) decide; over corpora that are not sealed",
    )
    promote: Annotated[
        Annotated[Name, Tag("<name>")] | Annotated[BestBy, Tag("<best>")],
        Discriminator(lambda value: "<name>" if isinstance(value, str) else "<best>"),
    ] = Field(
        description="which is published: `first` (that passes its gates), the name of one, or {least: run/metric} "
        "or {most: run/metric} among those that pass"
    )
    against: Name | None = Field(
        None,
        description="a candidate that the others are compared with, paired; gates may name its figures run@candidate",
    )
    publish_others: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="publish the others too, beside each file under this name, such as {stem}.{candidate}{suffix}; "
        "default: they are not published",
    )
    candidates: dict[Name, dict[FilePath, FileEntry]] = Field(
        min_length=2,
        description="name → published path → how it comes to be; the same paths in each; rungs in this order",
    )

    @property
    def is_ladder(self) -> bool:
        """Whether it ends with the first that passes."""
        return self.promote == FIRST

    @property
    def paths(self) -> tuple[str, ...]:
        """The published paths that it decides about."""
        return tuple(dict.fromkeys(path for files in self.candidates.values() for path in files))


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
    audio: Literal["all", "none"] | tuple[str, ...] = Field(
        "all",
        description="of which prompts the audio that the client makes is kept, and published, for a person to listen "
        "to, as measurements/<run>/<prompt>.flac: all, none, or their ids",
    )
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
    choices: dict[Name, ChoiceSpec] = Field(
        default_factory=dict,
        description="ladders and rosters: further published files, each with candidates of which one is published",
    )
    corpora: dict[Name, CorpusSpec] = Field(default_factory=dict, description="audio that is measured or calibrated on")
    measure: dict[Name, RunSpec] = Field(default_factory=dict, description="runs of a client over a corpus")
    gates: tuple[GateSpec, ...] = Field(
        (),
        description="budgets; a release that misses one is not finished; where the run of one cannot be made, nothing "
        "is built",
    )
    card: CardSpec = Field(description="the model card")
    publish: PublishSpec | None = Field(None, description="where `hubpub publish` puts the release")

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that is published whatever is chosen."""
        return tuple(dict.fromkeys([*self.files, *(path for each in self.choices.values() for path in each.paths)]))

    def choice_of(self, path: str) -> str | None:
        """The choice that decides about a published path."""
        return next((name for name, choice in self.choices.items() if path in choice.paths), None)

    def run(self, name: str) -> RunSpec | None:
        """A run by its name; ``run@candidate`` is that of a candidate which others are compared with."""
        base, _, candidate = name.partition("@")
        named = any(base in each.runs and candidate == each.against for each in self.choices.values())
        return self.measure.get(base) if named or not candidate else None

    def given(self, run: str) -> tuple[str, ...]:
        """The published files that a run is given."""
        patterns = self.measure[run].files
        return tuple(path for path in self.paths if any(fnmatchcase(path, pattern) for pattern in patterns))

    def compared_with(self, run: str) -> tuple[str, ...]:
        """The runs, of a candidate too, that the figures of ``run`` are compared with."""
        against = [each.against for each in self.choices.values() if run in each.runs and each.against]
        gates = (gate for gate in self.gates if gate.against and gate.measure.partition("/")[0] == run)
        others = [self.measure[run].reference, *(str(gate.against).partition("/")[0] for gate in gates)]
        others += [f"{run}@{candidate}" for candidate in against]
        return tuple(other for other in dict.fromkeys(others) if other is not None and other != run)

    def behind(self, run: str) -> tuple[str, ...]:
        """The run and all those that its figures depend on, but for candidates of other names."""
        found = [run]
        for each in found:
            found += [other for other in self.compared_with(each) if other in self.measure and other not in found]
        return tuple(found)

    def decided_by(self, run: str) -> str | None:
        """The choice whose candidates a run is made for: the last one that decides about files that it is given."""
        given = {self.choice_of(path) for path in self.given(run)}
        return next((name for name in reversed(self.choices) if name in given), None)

    def metric(self, figure: str) -> Metric | None:
        """The metric that gives ``run/metric``."""
        name, _, figure = figure.partition("/")
        run = self.run(name)
        return next((metric for metric in run.metric_specs() if figure in metric.gives), None) if run else None

    def choosing_gates(self, choice: ChoiceSpec) -> tuple[GateSpec, ...]:
        """The gates that decide which candidate is published: timings differ from build to build, and do not."""
        on_runs = (gate for gate in self.gates if gate.measure.partition("/")[0] in choice.runs)
        return tuple(gate for gate in on_runs if (metric := self.metric(gate.measure)) and not metric.timings)

    def rule(self, path: str, candidate: str | None = None) -> FileRule:
        """The rule of a published file; of one that is chosen, that of a candidate."""
        if candidate is None:
            return _rule(self.files[path])
        return _rule(self.choices[str(self.choice_of(path))].candidates[candidate][path])

    def rules(self) -> Iterator[tuple[tuple[str, ...], FileRule]]:
        """Place and rule of every published file, those of all candidates too."""
        for path, entry in self.files.items():
            yield ("files", path), _rule(entry)
        for name, choice in self.choices.items():
            for candidate, files in choice.candidates.items():
                for path, entry in files.items():
                    yield ("choices", name, "candidates", candidate, path), _rule(entry)


def _rule(entry: str | FileRule) -> FileRule:
    """The short form written out."""
    return entry if isinstance(entry, FileRule) else FileRule.model_validate({"from": entry})

"""What a recipe says of a corpus: clips, and where each of them comes from.

Provenance is kept per clip; what all clips share is said once, in ``defaults``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Role = Literal["calibration", "evaluation"]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Provenance(BaseModel):
    """Where a clip comes from; ``None`` means that the corpus' default holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    speaker: str | None = Field(default=None, description="Who speaks.")
    language: str | None = Field(default=None, description="Language as a BCP 47 tag, such as en or pt-BR.")
    title: str | None = Field(default=None, description="Name of the recording.")
    year: int | None = Field(default=None, description="Year of the recording.")
    source: str | None = Field(default=None, description="Where it was published: package, archive id, page.")
    license: str | None = Field(default=None, description="Licence of the recording, an SPDX id where there is one.")


class Labels(Provenance):
    """What is known of a clip: where it comes from, and the files that say what is heard in it."""

    text_from: str | None = Field(
        default=None,
        description="A file that holds what is said, as source/path: .csv, .tsv and .jsonl with a row for each "
        "recording, .stm with a line for each stretch of speech, or a text of one recording.",
    )
    turns_from: str | None = Field(default=None, description="Who speaks when: an .rttm or .stm file, as source/path.")
    scored_from: str | None = Field(
        default=None, description="Which parts are annotated: a .uem file, as source/path; default: all of it."
    )

    def label_files(self) -> tuple[str, ...]:
        """The files named here."""
        return tuple(ref for ref in (self.text_from, self.turns_from, self.scored_from) if ref is not None)


class ClipDefaults(Labels):
    """What holds for every clip that does not say otherwise."""


class ClipSpec(Labels):
    """One clip: a file or a part of one."""

    audio: str = Field(min_length=1, description="The recording, as source/path in that source.")
    id: str | None = Field(
        default=None,
        pattern=r"^\w[\w.+@=-]*$",
        description="Name of the clip, unique in its corpus; default: the file's stem and the crop.",
    )
    text: str | None = Field(default=None, description="What is said, word for word.")
    crop: tuple[Seconds, Seconds] | None = Field(
        default=None, description="Start and end of the part that is used, in seconds."
    )

    @field_validator("crop")
    @classmethod
    def _crop_has_length(cls, crop: tuple[float, float] | None) -> tuple[float, float] | None:
        if crop is not None and crop[0] >= crop[1]:
            raise PydanticCustomError("crop", "a crop must end after it starts")
        return crop

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.text is not None and self.text_from is not None:
            raise PydanticCustomError("text", "give text or text_from, not both")
        return self

    @property
    def name(self) -> str:
        """The clip's id, given or made from the file's stem and the crop."""
        if self.id is not None:
            return self.id
        stem = re.sub(r"[^\w.+@=-]+", "_", PurePosixPath(self.audio).stem).lstrip(".+@=-") or "clip"
        return stem if self.crop is None else f"{stem}@{self.crop[0]:g}-{self.crop[1]:g}"


class PromptSpec(Provenance):
    """A text for a model that speaks; there is no audio of it."""

    text: str = Field(min_length=1, max_length=2000, description="What is to be said.")
    id: str | None = Field(
        default=None,
        pattern=r"^\w[\w.+@=-]*$",
        description="Name of the prompt, unique in its corpus; default: its number, 001 for the first.",
    )

    @field_validator("text")
    @classmethod
    def _can_be_said(cls, text: str) -> str:
        if not any(char.isalnum() for char in text):
            raise PydanticCustomError("text", "a prompt without letters and numbers leaves nothing to say")
        return " ".join(text.split())


class Columns(BaseModel):
    """Which column of a dataset holds what; without a name what the recipe says of all rows holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    audio: str = Field(default="audio", description="The recordings.")
    text: str | None = Field(default=None, description="What is said.")
    id: str | None = Field(default=None, description="Names of the clips; default: file name and row.")
    speaker: str | None = Field(default=None, description="Who speaks.")
    language: str | None = Field(default=None, description="Language of each row.")


class DatasetSpec(Provenance):
    """The rows of a dataset, as clips; files from a `hub:` source with `repo_type: dataset`, or any other."""

    files: tuple[str, ...] = Field(
        min_length=1,
        description="The dataset's files, each as source/path, in order; `*` and `**` stand for names as in `include`.",
    )
    format: Literal["parquet", "audiofolder"] = Field(
        default="parquet", description="Parquet shards, or audio files with a metadata file beside them."
    )
    columns: Columns = Field(default=Columns(), description="Which column holds what.")
    limit: int | None = Field(default=None, ge=1, description="Read so many rows from the start; default: all.")


class WindowSpec(BaseModel):
    """Clips cut into windows of one length, from the start of each; a rest that is shorter is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = Field(gt=0, le=7200, allow_inf_nan=False, description="Length of a window, in seconds.")
    hop: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="From start to start, in seconds; default: the length."
    )

    @property
    def step(self) -> float:
        """From start to start, in seconds."""
        return self.seconds if self.hop is None else self.hop


class SampleSpec(BaseModel):
    """Which of the clips (or of their windows) are used: so many, or at most so many seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int | None = Field(default=None, ge=1, description="How many.")
    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="How many seconds, at most.")
    seed: int = Field(default=0, ge=0, description="Another seed chooses others.")
    balance: Literal["speaker", "language", "seconds"] | None = Field(
        default=None,
        description="Equal shares of seconds for each speaker or language; `seconds`: a share for each recording in "
        "proportion to its length. Default: every clip has the same chance.",
    )

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if (self.count is None) == (self.seconds is None):
            raise PydanticCustomError("sample", "give count or seconds, one of the two")
        return self


class StitchSpec(BaseModel):
    """Clips joined in their order into long ones, for one pass over minutes of audio."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = Field(
        gt=0, le=7200, allow_inf_nan=False, description="Greatest length of a long clip, in seconds."
    )
    gap_s: float = Field(default=0.5, ge=0, le=60, description="Silence between two clips, in seconds.")


class CorpusSpec(BaseModel):
    """A set of clips that serves one purpose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role = Field(description="Calibration sets and evaluation sets are kept disjoint.")
    sealed: bool = Field(
        default=False,
        description="Read by the final evaluation alone: no script, calibration or choice may see its recordings.",
    )
    stand_in_for: str | None = Field(
        default=None,
        min_length=1,
        max_length=300,
        pattern=r"^[^\n]+$",
        description="Calibration only: the corpus that it takes the place of; the release is then provisional.",
    )
    stand_in: str | None = Field(
        default=None,
        min_length=1,
        description="The corpus that takes its place, whole, as long as a recording that a person has to supply is not "
        "at hand; the release is then provisional.",
    )
    defaults: ClipDefaults = Field(default=ClipDefaults(), description="Provenance shared by the clips.")
    clips: tuple[ClipSpec, ...] = Field(
        default=(), description="What it consists of, in the order in which it is reported."
    )
    datasets: tuple[DatasetSpec, ...] = Field(default=(), description="Datasets whose rows are clips of it too.")
    prompts: tuple[PromptSpec, ...] = Field(
        default=(), description="Texts for models that speak, instead of clips of audio."
    )
    windows: WindowSpec | None = Field(default=None, description="Cut the clips into windows.")
    sample: SampleSpec | None = Field(default=None, description="Use a part of the clips.")
    stitch: StitchSpec | None = Field(default=None, description="Join the clips into long ones.")

    @model_validator(mode="after")
    def _has_clips(self) -> Self:
        if not self.clips and not self.datasets and not self.prompts:
            error = PydanticCustomError("clips", "a corpus needs at least one clip, or prompts")
            details = InitErrorDetails(type=error, loc=("clips",), input=None)
            raise ValidationError.from_exception_data(type(self).__name__, [details])
        return self

    @model_validator(mode="after")
    def _prompts_stand_alone(self) -> Self:
        if not self.prompts:
            return self
        problems: list[tuple[tuple[str | int, ...], str]] = []
        if self.role != "evaluation":
            problems.append((("role",), "prompts hold no audio to calibrate on; give them the role evaluation"))
        for field in ("clips", "datasets", "windows", "sample", "stitch"):
            if getattr(self, field):
                problems.append(((field,), f"{field} are of audio, and this corpus holds prompts; use two corpora"))
        first: dict[str, int] = {}
        for index, prompt in enumerate(self.prompts):
            name = self.prompt_name(index)
            if (other := first.setdefault(name.casefold(), index)) != index:
                why = f"the id {name} is that of prompt {other} too; give this one an id of its own"
                problems.append((("prompts", index, "id"), why))
            for field in ("source", "license"):
                if not (getattr(prompt, field) or getattr(self.defaults, field)):
                    why = f"{name} has no {field}, and the defaults of its corpus give none"
                    problems.append((("prompts", index, field), why))
        if problems:
            details = [
                InitErrorDetails(type=PydanticCustomError("clip", "{message}", {"message": why}), loc=loc, input=None)
                for loc, why in problems
            ]
            raise ValidationError.from_exception_data(type(self).__name__, details)
        return self

    @model_validator(mode="after")
    def _clips_are_told_apart_and_documented(self) -> Self:
        problems: list[InitErrorDetails] = []

        def report(index: int, field: str, message: str) -> None:
            error = PydanticCustomError("clip", "{message}", {"message": message})
            problems.append(InitErrorDetails(type=error, loc=("clips", index, field), input=None))

        if self.stand_in_for is not None and self.role != "calibration":
            message = "only a calibration corpus stands in for another; figures are of the corpus that they name"
            error = PydanticCustomError("clip", "{message}", {"message": message})
            problems.append(InitErrorDetails(type=error, loc=("stand_in_for",), input=None))
        first: dict[str, int] = {}
        for index, clip in enumerate(self.clips):
            # Case is ignored: ids become file names, also where the file system does not tell case apart.
            if (other := first.setdefault(clip.name.casefold(), index)) != index:
                report(index, "id", f"the id {clip.name} is that of clip {other} too; give this one an id of its own")
            provenance = self.provenance(clip)
            for field in ("source", "license"):
                if not getattr(provenance, field):
                    report(index, field, f"{clip.name} has no {field}, and the defaults of its corpus give none")
            group = self.sample.balance if self.sample else None
            if group in ("speaker", "language") and not getattr(provenance, group):
                report(index, group, f"the sample is balanced by {group}, and {clip.name} has none")
            if self.windows is not None and (clip.text is not None or self.labels(clip).text_from is not None):
                report(index, "text", f"nobody knows which words of {clip.name} fall into which window; leave them out")
        for index, dataset in enumerate(self.datasets):
            for field, why in self._faults_of(dataset):
                error = PydanticCustomError("clip", "{message}", {"message": why})
                problems.append(InitErrorDetails(type=error, loc=("datasets", index, field), input=None))
        if problems:
            raise ValidationError.from_exception_data(type(self).__name__, problems)
        return self

    @model_validator(mode="after")
    def _only_evaluation_is_sealed(self) -> Self:
        if self.sealed and self.role != "evaluation":
            raise PydanticCustomError("sealed", "only a corpus for evaluation can be sealed")
        return self

    def _faults_of(self, dataset: DatasetSpec) -> Iterator[tuple[str, str]]:
        for field in ("source", "license"):
            if not (getattr(dataset, field) or getattr(self.defaults, field)):
                yield field, f"{dataset.files[0]} has no {field}, and the defaults of its corpus give none"
        if self.windows is not None and dataset.columns.text is not None:
            why = f"nobody knows which words of {dataset.files[0]} fall into which window; leave columns.text out"
            yield "columns", why
        group = self.sample.balance if self.sample else None
        if group in ("speaker", "language"):
            known = (getattr(dataset.columns, group), getattr(dataset, group), getattr(self.defaults, group))
            if not any(known):
                yield group, f"the sample is balanced by {group}, and {dataset.files[0]} has none"

    @property
    def has_texts(self) -> bool:
        """Whether something says what is said in any clip."""
        named = any(clip.text is not None or self.labels(clip).text_from is not None for clip in self.clips)
        return bool(self.prompts) or named or any(dataset.columns.text is not None for dataset in self.datasets)

    @property
    def tells_when(self) -> bool:
        """Whether every transcript says when it is said: by an .stm file, or by the place of a clip in a long one."""
        if self.stitch is not None:
            return True
        texts = [name for clip in self.clips if (name := self.labels(clip).text_from) is not None]
        plain = any(clip.text is not None for clip in self.clips) or any(each.columns.text for each in self.datasets)
        return not plain and bool(texts) and all(PurePosixPath(each).suffix.lower() == ".stm" for each in texts)

    @property
    def has_turns(self) -> bool:
        """Whether something says who speaks when in any clip."""
        return any(self.labels(clip).turns_from is not None for clip in self.clips)

    def prompt_name(self, index: int) -> str:
        """The id of a prompt, given or its number."""
        return self.prompts[index].id or f"{index + 1:03}"

    def provenance(self, clip: ClipSpec | PromptSpec) -> Provenance:
        """What is known of a clip or a prompt, the defaults filled in."""
        own = {field: getattr(clip, field) for field in Provenance.model_fields}
        return Provenance(
            **{field: getattr(self.defaults, field) if own[field] is None else own[field] for field in own}
        )

    def labels(self, clip: ClipSpec) -> Labels:
        """The same with the files that say what is heard in it; its own text goes before a file of the defaults."""
        own = {field: getattr(clip, field) for field in Labels.model_fields}
        filled = {field: getattr(self.defaults, field) if value is None else value for field, value in own.items()}
        return Labels(**filled if clip.text is None else filled | {"text_from": None})

    def references(self) -> tuple[str, ...]:
        """Every file that the corpus needs, each once, in order of mention."""
        wanted = [ref for clip in self.clips for ref in (clip.audio, *self.labels(clip).label_files())]
        wanted += [ref for dataset in self.datasets for ref in dataset.files]
        return tuple(dict.fromkeys(wanted))

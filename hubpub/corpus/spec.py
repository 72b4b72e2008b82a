"""What a recipe says of a corpus: clips, and where each of them comes from.

Provenance is kept per clip; what all clips share is said once, in ``defaults``.
"""

from __future__ import annotations

import re
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


class ClipDefaults(Provenance):
    """Provenance of every clip that does not say otherwise."""


class ClipSpec(Provenance):
    """One clip: a file or a part of one."""

    audio: str = Field(min_length=1, description="The recording, as source/path in that source.")
    id: str | None = Field(
        default=None,
        pattern=r"^\w[\w.+@=-]*$",
        description="Name of the clip, unique in its corpus; default: the file's stem and the crop.",
    )
    text: str | None = Field(default=None, description="What is said, word for word.")
    text_from: str | None = Field(default=None, description="A text file that holds what is said, as source/path.")
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
    stand_in_for: str | None = Field(
        default=None,
        min_length=1,
        max_length=300,
        pattern=r"^[^\n]+$",
        description="Calibration only: the corpus that it takes the place of; the release is then provisional.",
    )
    defaults: ClipDefaults = Field(default=ClipDefaults(), description="Provenance shared by the clips.")
    clips: tuple[ClipSpec, ...] = Field(description="What it consists of, in the order in which it is reported.")
    stitch: StitchSpec | None = Field(default=None, description="Join the clips into long ones.")

    @field_validator("clips")
    @classmethod
    def _has_clips(cls, clips: tuple[ClipSpec, ...]) -> tuple[ClipSpec, ...]:
        # Not min_length: pydantic would count the valid clips only, and report a second error for every bad one.
        if not clips:
            raise PydanticCustomError("clips", "a corpus needs at least one clip")
        return clips

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
        if problems:
            raise ValidationError.from_exception_data(type(self).__name__, problems)
        return self

    def provenance(self, clip: ClipSpec) -> Provenance:
        """What is known of ``clip``, the defaults filled in."""
        fields = Provenance.model_fields
        own = {field: getattr(clip, field) for field in fields}
        return Provenance(**{k: getattr(self.defaults, k) if v is None else v for k, v in own.items()})

    def references(self) -> tuple[str, ...]:
        """Every file that the corpus needs, each once, in order of mention."""
        wanted = [ref for clip in self.clips for ref in (clip.audio, clip.text_from) if ref is not None]
        return tuple(dict.fromkeys(wanted))

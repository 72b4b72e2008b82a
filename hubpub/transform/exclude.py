"""What a quantizing step leaves in float32: layers named by globs, or the worst ones, found by a search."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class ExcludeBudget(BaseModel):
    """When the search for layers to leave out is done: one of ``min_snr_db`` and ``max_size``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_snr_db: float | None = Field(
        default=None,
        gt=0,
        le=120,
        description="Leave out as few layers as give the model's outputs at least this signal-to-noise ratio, in dB, "
        "against the source on calibration windows.",
    )
    max_size: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Leave out as many layers as keep the weights at or below this share of the source's bytes.",
    )
    windows: int = Field(
        default=4,
        ge=1,
        description="Calibration windows, evenly from all, on which outputs are compared; these are held in memory.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.min_snr_db is None) == (self.max_size is None):
            raise ValueError("give one of min_snr_db and max_size")
        return self


class AutoExclude(BaseModel):
    """Leave out the layers that add most error, until a budget is met.

    Every layer is quantized alone once: for L layers that is L + 3 models, with one that tells the layers, one of all
    together and the result, and (L + 2) · ``windows`` runs. ``min_snr_db`` takes at most log2(L + 1) models more,
    rounded up, ``max_size`` mostly two or three, with ``windows`` runs of each that is measured; the step's facts say
    how many it was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    auto: ExcludeBudget = Field(description="When enough is left out.")
    always: tuple[str, ...] = Field(default=(), description="Globs of layers that stay float32 in any case.")


def _kind(value: Any) -> str | None:
    if isinstance(value, dict | AutoExclude):
        return "<auto>"
    return "<globs>" if isinstance(value, list | tuple) else None


Exclude = Annotated[
    Annotated[tuple[str, ...], Tag("<globs>")] | Annotated[AutoExclude, Tag("<auto>")],
    Discriminator(
        _kind,
        custom_error_type="exclude_kind",
        custom_error_message="a list of globs, or a search with its budget: {auto: {min_snr_db: 30}} or "
        "{auto: {max_size: 0.3}}",
    ),
]
EXCLUDE_HELP = (
    "Globs ('*/fc2', 'conv?.weight'); a layer stays float32 where one matches its name or its weight's. Or a search "
    "for the worst layers: {auto: {min_snr_db: 30}}."
)


def named(exclude: tuple[str, ...] | AutoExclude) -> tuple[str, ...]:
    """The globs that were written down."""
    return exclude.always if isinstance(exclude, AutoExclude) else exclude

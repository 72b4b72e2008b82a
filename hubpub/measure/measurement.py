"""A number, and everything that must be known to believe it."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator


class Machine(BaseModel):
    """The class of machine, not the machine: no host name, no serial number.

    Attributes:
        cpu: model name as the system gives it.
        kernels: instruction sets that decide which kernels run, widest last, such as ``avx2 avx512_vnni``.
        cores: cores that the process may use.
        system: operating system, of macOS its version too, and architecture.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str
    kernels: str
    cores: int
    system: str


class Measurement(BaseModel):
    """One figure; NaN and infinity are refused, so that what could not be computed is missing, and fails its gate.

    Attributes:
        run: what was measured, a name that the recipe gives.
        metric: such as ``wer``, ``cosine_p1``.
        value: the figure, in ``unit``.
        unit: ``ratio`` (0.05 is 5 %), ``s``, ``bytes``, ``dB`` …
        n: how many units were counted.
        n_unit: what these are: ``words``, ``utterances`` …
        low: lower end of the 95 % interval, ``None`` when there is no interval.
        high: its upper end.
        interval: the method of the interval, or why there is none.
        against: for a paired delta, ``run/metric`` of what was subtracted.
        reference: the run whose output served as the truth, where that was not a transcript.
        subset: the part of the corpus that was measured, such as ``clip:two_cities``; ``None`` is all of it.
        corpus: digest of the corpus.
        artifacts: sha256 of every file measured, by its published name.
        client: what ran the model, and how.
        versions: of the libraries that decide the figure.
        machine: where it ran.
        normalizer: what was done, or left out, before the comparison: text normalization, collar, costs.
        observed: timings and memory, which differ from run to run and are kept apart from what is digested.
        synthetic: from random weights or made-up audio.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    value: FiniteFloat
    unit: str
    n: int = Field(ge=0)
    n_unit: str
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    interval: str
    against: str | None = None
    reference: str | None = None
    subset: str | None = None
    corpus: str | None
    artifacts: dict[str, str]
    client: str
    versions: dict[str, str]
    machine: Machine
    normalizer: str | None = None
    observed: bool = False
    synthetic: bool = False

    @model_validator(mode="after")
    def _interval_has_two_ends(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends or none")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval {self.low} to {self.high} is upside down")
        return self

    @property
    def key(self) -> str:
        """``run/metric``, as gates and deltas name it."""
        return f"{self.run}/{self.metric}"

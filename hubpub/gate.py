"""Budgets: measurements in, verdicts out. What is missing, stale or unclear fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from hubpub.measure.binomial import smallest_n_to_pass, zero_event_bound
from hubpub.measure.measurement import Measurement

Key = Annotated[str, StringConstraints(pattern=r"^[^/]+/[^/]+$")]
Budget = Annotated[float, Field(allow_inf_nan=False)]

_COUNTED = ("wer", "cer")
"""Metrics whose delta counts changed units, so that a small corpus bounds what it can show."""


class GateSpec(BaseModel):
    """A budget on a measurement, or on its difference to another one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measure: Key = Field(description="What is judged, as run/metric.")
    against: Key | None = Field(
        default=None,
        description="Judge the paired difference to this run/metric, at the bad end of its 95 % interval.",
    )
    subset: str | None = Field(
        default=None,
        min_length=1,
        description="Judge every part of the corpus whose name fits, such as `section:*` or `language:fr`.",
    )
    at: Literal["end"] | None = Field(
        default=None,
        description="end = judge at the bad end of the 95 % interval, as a difference always is; default: the value.",
    )
    max: Budget | None = Field(default=None, description="Greatest value allowed, in the metric's unit (0.05 is 5 %).")
    min: Budget | None = Field(default=None, description="Smallest value allowed.")
    min_n: int | None = Field(default=None, ge=1, description="Smallest n of the measurement that counts.")

    @model_validator(mode="after")
    def _has_a_budget(self) -> Self:
        if self.max is None and self.min is None:
            raise ValueError("a gate needs max, min or both")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"nothing is at least {self.min:g} and at most {self.max:g}")
        if self.against == self.measure:
            raise ValueError("a measurement is not compared with itself")
        return self

    def __str__(self) -> str:
        """The budget in words."""
        bounds = (("at most", self.max), ("at least", self.min))
        budgets = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
        delta = f" less {self.against}" if self.against else ""
        part = f" on {self.subset}" if self.subset else ""
        end = ", at the end of its interval" if self.at else ""
        return f"{self.measure}{delta}{part}: {' and '.join(budgets)}{end}"

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What earlier versions wrote: manifests keep their digests."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if name not in ("subset", "at") or value is not None}

    @property
    def at_the_end(self) -> bool:
        """Whether the bad end of the interval is judged, not the value."""
        return self.against is not None or self.at == "end"


class Verdict(BaseModel):
    """What became of a gate; without a measurement there are no figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gate: GateSpec
    passed: bool
    reason: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str | None = None


def judge(
    gates: Sequence[GateSpec], measurements: Sequence[Measurement], artifacts: Mapping[str, str]
) -> tuple[Verdict, ...]:
    """Judge every gate.

    An absolute budget holds for the value; one on a difference, or with ``at: end``, holds for the upper end of the
    95 % interval (``max``) or the lower end (``min``).

    Args:
        gates: budgets.
        measurements: all that were made.
        artifacts: sha256 of the files as they are now, by published name; a measurement of other bytes is stale.
    """
    return tuple(_judge(gate, measurements, artifacts) for gate in gates)


def impossible(gate: GateSpec, n: int) -> str | None:
    """Why ``gate`` can never pass on a corpus of ``n`` units, with the smallest n at which it could.

    On so few units even a run that changes nothing leaves a difference beyond the budget possible.

    Returns:
        The reason, or ``None`` when it can pass.
    """
    if gate.min_n is not None and n < gate.min_n:  # a part is no larger than the corpus
        return f"it wants n of at least {gate.min_n}, and the corpus has {n}"
    if gate.subset is not None or gate.against is None or gate.measure.rpartition("/")[2] not in _COUNTED:
        return None
    budgets = [budget for budget in (gate.max, None if gate.min is None else -gate.min) if budget is not None]
    tightest = min(budgets)
    smallest = smallest_n_to_pass(tightest)
    if smallest is None:
        return "it leaves no room for the width of an interval, whatever the corpus; allow a difference of more than 0"
    if n < smallest:
        bound = f"{zero_event_bound(n):.3g}" if n else "1"
        return (
            f"with n = {n} even equal outputs leave a difference of {bound} possible, more than {tightest:g}; "
            f"it takes n of at least {smallest}"
        )
    return None


def _judge(gate: GateSpec, measurements: Sequence[Measurement], artifacts: Mapping[str, str]) -> Verdict:
    named = [m for m in measurements if m.key == gate.measure and m.against == gate.against]
    if gate.subset is not None:
        return _judge_parts(gate, [m for m in named if fnmatchcase(m.subset or "", gate.subset)], artifacts)
    found = [m for m in named if m.subset is None]
    if len(found) != 1:
        delta = f" against {gate.against}" if gate.against else ""
        count = "not measured" if not found else f"measured {len(found)} times, which one counts is unclear"
        return Verdict(gate=gate, passed=False, reason=f"{gate.measure}{delta} was {count}")
    measured = found[0]
    failure = _unusable(gate, measured, artifacts) or _missed(gate, measured)
    finite = {name: _finite(getattr(measured, name)) for name in ("value", "low", "high")}
    reason = failure or f"{_say(measured)}, within the budget"
    return Verdict(gate=gate, passed=failure is None, reason=reason, n=measured.n, unit=measured.unit, **finite)


def _judge_parts(gate: GateSpec, found: Sequence[Measurement], artifacts: Mapping[str, str]) -> Verdict:
    """The first part that fails; when all pass, the one that is nearest to failing."""
    if not found:
        return Verdict(gate=gate, passed=False, reason=f"{gate.measure} was not measured on {gate.subset}")
    whole = gate.model_copy(update={"subset": None})
    verdicts = []
    for part in found:
        verdict = _judge(whole, [part.model_copy(update={"subset": None})], artifacts)
        verdicts.append(verdict.model_copy(update={"gate": gate, "reason": f"{part.subset}: {verdict.reason}"}))
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        return failed[0]
    worst = max(verdicts, key=lambda each: (each.value or 0.0) if gate.max is not None else -(each.value or 0.0))
    more = f" (the worst of {len(verdicts)} parts)" if len(verdicts) > 1 else ""
    return worst.model_copy(update={"reason": worst.reason + more})


def _unusable(gate: GateSpec, measured: Measurement, artifacts: Mapping[str, str]) -> str | None:
    if not measured.artifacts:
        return "the measurement does not say which files it is of"
    stale = sorted(name for name, digest in measured.artifacts.items() if artifacts.get(name) != digest)
    if stale:
        return f"the measurement is stale: {', '.join(stale)} changed since"
    # Measurement refuses these; a manifest from elsewhere may have come another way.
    if not math.isfinite(measured.value):
        return "the value is not a number"
    if gate.min_n is not None and measured.n < gate.min_n:
        return f"n = {measured.n} {measured.n_unit}, at least {gate.min_n} are wanted"
    if gate.at_the_end and (_finite(measured.low) is None or _finite(measured.high) is None):
        return f"the {'difference' if gate.against else 'value'} has no interval ({measured.interval})"
    return None


def _missed(gate: GateSpec, measured: Measurement) -> str | None:
    end = gate.at_the_end
    upper = measured.high if end else measured.value
    lower = measured.low if end else measured.value
    upper_end, lower_end = ("the upper end of its interval", "the lower end of its interval") if end else ("it", "it")
    if gate.max is not None and not (upper is not None and upper <= gate.max):
        return f"{_say(measured)}: {upper_end} is above {gate.max:g}"
    if gate.min is not None and not (lower is not None and lower >= gate.min):
        return f"{_say(measured)}: {lower_end} is below {gate.min:g}"
    return None


def _say(measured: Measurement) -> str:
    unit = "" if measured.unit in ("ratio", "") else f" {measured.unit}"
    interval = "" if measured.low is None else f" ({measured.low:.4g} to {measured.high:.4g})"
    return f"{measured.value:.4g}{unit}{interval}, n = {measured.n} {measured.n_unit}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

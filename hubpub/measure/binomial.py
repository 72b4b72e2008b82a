"""Exact binomial bounds, so that a figure with no errors in it is not taken for a proof that there are none.

Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26 (1934). With no event in n units, the upper end of the two-sided 95 % interval is about 3.69 / n.
"""

from __future__ import annotations

import math

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2


def clopper_pearson(events: int, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a rate of which ``events`` were seen in ``n`` units."""
    if not 0 <= events <= n or n == 0:
        raise ValueError(f"{events} events in {n} units are no binomial count")
    # An upper bound is the rate at which so few events would be rare; the lower one is that of the non-events.
    return 1 - _upper(n - events, n), _upper(events, n)


def zero_event_bound(n: int) -> float:
    """Upper end of the 95 % interval when none of ``n`` units was an event."""
    return -math.expm1(math.log(_TAIL) / n)


def smallest_n_to_pass(budget: float) -> int | None:
    """The smallest n at which an observation without events has an upper bound within ``budget``.

    ``None`` when no n will do, because the budget is zero or negative.
    """
    if budget <= 0:
        return None
    if budget >= 1:
        return 1
    n = max(1, math.ceil(math.log(_TAIL) / math.log1p(-budget)) - 1)  # one below, in case the division rounded up
    while zero_event_bound(n) > budget:
        n += 1
    return n


def _upper(events: int, n: int) -> float:
    if events == n:
        return 1.0
    if events == 0:
        return zero_event_bound(n)
    import numpy as np

    i = np.arange(1, events + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - i + 1) / i))])
    k = np.arange(events + 1)
    low, high = events / n, 1.0
    for _ in range(60):  # halves the error each time, to below the precision of a float
        p = (low + high) / 2
        at_most = np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p)).sum()
        low, high = (p, high) if at_most > _TAIL else (low, p)
    return (low + high) / 2

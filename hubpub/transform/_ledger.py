"""What became of every weight: the facts of a step that quantizes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

if TYPE_CHECKING:
    import numpy as np

    from hubpub.transform._weight_graph import Constant
    from hubpub.transform._weights import Weights

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Ledger:
    """Weights quantized and weights skipped, in the order of the graphs."""

    layers: list[dict[str, JsonValue]] = field(default_factory=list)
    reasons: dict[Constant, str] = field(default_factory=dict)

    def enter(
        self, weight: Constant, *, op: str, node: str, method: str, sizes: tuple[int, int], snr: float, scales: Array
    ) -> None:
        """Note a weight that was quantized.

        Args:
            weight: which.
            op: the operation that uses it.
            node: the name of the first node that does.
            method: into what.
            sizes: its bytes before and after, scales included.
            snr: of the weights alone, dB.
            scales: of which the digest is noted.
        """
        self.layers.append(
            {
                "weight": weight.name,
                "op": op,
                "node": node,
                "method": method,
                "bytes_in": sizes[0],
                "bytes_out": sizes[1],
                "snr_db": round(snr, 2),
                "scales_sha256": hashlib.sha256(scales.tobytes()).hexdigest(),
            }
        )

    def skip(self, weight: Constant, reason: str) -> None:
        """Note why a weight is left as it is; the first reason counts."""
        self.reasons.setdefault(weight, reason)

    def facts(self, weights: Weights, min_elements: int) -> dict[str, JsonValue]:
        """``layers``; ``skipped`` (weight, reason, bytes); ``small`` (number and bytes of what is below the limit).

        Every float constant that is still there is listed, with its shape, unless it is small.
        """
        skipped: list[JsonValue] = []
        small = {"tensors": 0, "bytes": 0}
        for constant in weights.constants():
            if constant.tensor.data_type not in (1, 10, 11, 16) or constant.gone:
                continue
            nbytes = weights.nbytes(constant)
            if constant.size < min_elements:
                small["tensors"] += 1
                small["bytes"] += nbytes
                continue
            users = ", ".join(weights.users(constant))
            reason = self.reasons.get(constant) or f"no weight that is asked for (of {users})"
            if constant.replaced:
                reason = "quantized, but somebody uses it as it was too"
            skipped.append({"weight": constant.name, "shape": list(constant.dims), "reason": reason, "bytes": nbytes})
        return {"layers": list(self.layers), "skipped": skipped, "small": {**small}}

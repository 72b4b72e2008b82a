"""What every transformation is: frozen parameters and one function from a model file to model files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, JsonValue

Progress = Callable[[int], None]
"""Called with the number of bytes just dealt with."""

Facts = dict[str, JsonValue]
"""What a step found out and the manifest should hold; no timings, no paths of this machine."""


class Transform(BaseModel):
    """Base of the parameter models; a subclass is one file and one line of the union in ``hubpub.recipe``.

    ``version`` is part of the step's key: raise it when the same parameters give other bytes.
    ``libraries`` names the distributions whose versions decide the bytes; they are part of the key too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    transform: str
    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]] = ()

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Read ``model`` (its external data lies beside it) and write ``target``, its sidecars beside it.

        ``target`` lies in an empty folder that the caller publishes as a whole, so nothing need be atomic here.
        """
        raise NotImplementedError

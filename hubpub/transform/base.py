"""What every transformation is: frozen parameters and one function from a model file to model files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from hubpub.errors import StepError
from hubpub.transform.calibration.windows import Calibration

if TYPE_CHECKING:
    import numpy as np

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


class Windows(Protocol):
    """Calibration input: so many windows, each the model's inputs by name.

    They are iterated once per pass, and must be the same, in the same order, every time; windows of one recording lie
    side by side, because what is learned from one half of them is tried on the other. Only one is held at a time.
    """

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray[Any, np.dtype[Any]]]]:
        """From the first on."""


class Calibrated(Transform):
    """A transformation that looks at the model's values on real input first; call `apply_calibrated`."""

    calibration_required: ClassVar[bool] = True
    calibration_libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions besides ``libraries`` that decide the bytes where it is calibrated."""

    calibrate: Calibration | None = Field(
        default=None, description="What it looks at; a recipe has to say it: corpus, features, segment, count."
    )

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Refuse: there is no input to look at.

        Raises:
            StepError: always.
        """
        raise StepError("needs input to calibrate on", where=model.name, fix="name a corpus with role: calibration")

    def apply_calibrated(
        self, model: Path, target: Path, windows: Windows, resume: Path | None, progress: Progress
    ) -> Facts:
        """As `Transform.apply`, with calibration windows.

        Args:
            model: to read.
            target: to write.
            windows: calibration input.
            resume: a folder that outlives an interrupted call; with the same arguments the next goes on from there,
                and its result is identical. None: nothing is kept.
            progress: told of bytes.
        """
        raise NotImplementedError

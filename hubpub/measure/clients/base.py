"""What a client is: frozen parameters, and a way to load a folder of published files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hubpub.corpus.corpus import Turn
from hubpub.measure.result import Kind, Piece

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Output:
    """What a model says of one clip: a text, one array for each segment, who speaks when; see `Utterance`.

    With a ``rate``, in Hz, the arrays are audio: int16 ``[frames]``.
    """

    segments: int
    text: str | None = None
    arrays: tuple[npt.NDArray[np.generic], ...] = ()
    turns: tuple[Turn, ...] | None = None
    windows: tuple[tuple[float, float], ...] | None = None
    pieces: tuple[Piece, ...] | None = None
    rate: int | None = None


class Loaded(Protocol):
    """A model that is ready."""

    def run(self, given: Any) -> Output:  # of the one kind that the client takes
        """Process one clip: float32 ``[frames]`` at 16 kHz, or a text where the client takes that."""
        ...


def _stays_inside(model: str) -> str:
    path = PurePosixPath(model)
    if path.is_absolute() or ".." in path.parts or "\\" in model:
        raise ValueError("the model must be a path inside the release")
    return model


ModelPath = Annotated[str, Field(min_length=1), AfterValidator(_stays_inside)]
"""A published file."""


class Client(BaseModel):
    """Base of the clients; a subclass is one file and one line of the union in ``clients/__init__.py``.

    ``libraries`` names the distributions whose versions belong to a measurement; ``modules`` what is imported before
    the time to load is taken, ``takes`` what it is given of a clip, ``makes`` what its outputs hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    client: str
    threads: int = Field(default=2, ge=1, le=1024, description="Threads of one operator; operators run in turn.")
    libraries: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[str, ...]]
    takes: ClassVar[Literal["audio", "text"]] = "audio"
    makes: ClassVar[tuple[Kind, ...]]

    def describe(self) -> str:
        """What a reader of a figure must know, in one line."""
        raise NotImplementedError

    def references(self) -> tuple[str, ...]:
        """Files besides the release that it reads, as source/path; the caller resolves them."""
        return ()

    def opens(self) -> tuple[str, ...]:
        """Published files that it asks for by name; what a loader finds by itself is not among them."""
        return ()

    def not_here(self) -> str | None:
        """Why it cannot run on a machine like this one, whatever is installed: its runs are reported as not run."""
        return None

    def prepare(self, folder: Path) -> None:
        """What is done once to a model before it is loaded, and is no part of the time to load."""

    def load(self, folder: Path, files: Mapping[str, Path]) -> Loaded:
        """Load what a folder of published files holds; ``files`` says where ``references()`` lie."""
        raise NotImplementedError

    def session_options(self) -> Any:  # onnxruntime has no types
        """Options of onnxruntime with the threads pinned."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; they are raised too
        return options


PROVIDERS = ("CPUExecutionProvider",)
"""Named, so that a figure does not depend on which build of onnxruntime is installed."""

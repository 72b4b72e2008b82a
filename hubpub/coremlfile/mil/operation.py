"""An operation of an ML program as its translation sees it, and the register of translations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hubpub.coremlfile.mil.graph import Graph, Operand, Value
from hubpub.coremlfile.mil.types import TensorType
from hubpub.errors import CoremlFileError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

T = TypeVar("T")


class Operation:
    """``type``, the values it takes by parameter name, the blocks nested in it, and the types of what it makes."""

    def __init__(
        self,
        type_: str,
        inputs: Mapping[str, Sequence[Value]],
        outputs: Sequence[tuple[str, TensorType]],
        blocks: Sequence[Any] = (),
    ) -> None:
        self.type, self.inputs, self.outputs, self.blocks = type_, inputs, outputs, blocks

    @property
    def where(self) -> str:
        """How an error names it."""
        return describe(self.type, [name for name, _ in self.outputs])

    @property
    def kind(self) -> TensorType:
        """Type of its first output."""
        return self.outputs[0][1]

    def fail(self, what: str, fix: str | None = None) -> CoremlFileError:
        """The error to raise."""
        return CoremlFileError(what, where=self.where, fix=fix)

    def __getitem__(self, parameter: str) -> Value:
        """A value that must be there."""
        found = self.get(parameter)
        if found is None:
            raise self.fail(f"it has no `{parameter}`", "the model is damaged")
        return found

    def get(self, parameter: str) -> Value | None:
        """A value that may be there."""
        found = self.inputs.get(parameter, ())
        return found[0] if found else None

    def many(self, parameter: str) -> Sequence[Value]:
        """The values of a parameter that takes several."""
        return self.inputs.get(parameter, ())

    def array(self, parameter: str) -> Array | None:
        """A parameter that must not depend on the input, or ``None`` where it is left out."""
        value = self.get(parameter)
        if value is None:
            return None
        if not value.constant:
            raise self.fail(f"`{parameter}` is computed, and must be constant", "convert the model with fixed shapes")
        return value.array()

    def one(self, parameter: str, default: T) -> T:
        """A constant scalar, of the type of ``default``."""
        found = self.array(parameter)
        if found is None:
            return default
        if found.size != 1:
            raise self.fail(f"`{parameter}` is not a single value", "the model is damaged")
        return type(default)(found.reshape(()).item())  # type: ignore[call-arg]

    def ints(self, parameter: str, default: Sequence[int] | None = None) -> list[int]:
        """A constant vector of integers or booleans; it must be there where no default is given."""
        found = self.array(parameter)
        if found is None:
            if default is None:
                raise self.fail(f"it has no `{parameter}`", "the model is damaged")
            return list(default)
        return [int(each) for each in found.reshape(-1).tolist()]

    def sizes(self, parameter: str) -> tuple[int, ...]:
        """The shape of a value, all of which must be known beforehand."""
        shape = self[parameter].type.shape
        if None in shape:
            what = f"the shape of `{parameter}`, {self[parameter].type}, is known only when it runs"
            raise self.fail(what, "convert the model with fixed shapes")
        return tuple(size or 0 for size in shape)

    def axis(self, parameter: str, rank: int, default: int) -> int:
        """An axis counted from 0."""
        found = self.one(parameter, default)
        if not -rank <= found < rank:
            raise self.fail(f"`{parameter}` {found} is beyond {rank} axes", "the model is damaged")
        return found % rank if rank else 0


Made = Operand | Sequence[Operand]
Translation = Callable[[Operation, Graph], Made]

TRANSLATIONS: dict[str, Translation] = {}
"""By the operation's type."""

MOVES: set[str] = set()
"""Operations that only move, copy or choose elements: nothing is to be rounded after them."""


def translates(*types: str, moves: bool = False) -> Callable[[Translation], Translation]:
    """Register a function as the translation of these operations; ``moves`` as in `MOVES`."""

    def register(function: Translation) -> Translation:
        for each in types:
            assert each not in TRANSLATIONS, each
            TRANSLATIONS[each] = function
            if moves:
                MOVES.add(each)
        return function

    return register


def describe(type_: str, outputs: Sequence[str]) -> str:
    """How an error names an operation: its type and its first output."""
    return f"{type_} (output {outputs[0]})" if outputs else type_

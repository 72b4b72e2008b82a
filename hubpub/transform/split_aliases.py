"""Part tensors that are input and output of one model of a Core ML pipeline, which newer compilers refuse.

Early exports handed a tensor through a model under one name (FluidInference/FluidAudio#726). An identity gives the
output, and the input gets a name of its own; the interface of the package stays.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar, Literal

from hubpub.errors import StepError
from hubpub.transform.base import Facts, Progress, Transform


class SplitAliases(Transform):
    """Put an identity behind each tensor that is input and output of one model; other packages stay byte for byte."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("coremltools", "protobuf")

    transform: Literal["split_aliases"] = "split_aliases"

    def apply(self, model: Path, target: Path, progress: Progress) -> Facts:
        """Write the package ``target`` from the package ``model``, both folders.

        Postconditions, checked on what was written: it is sound and has no such tensor; inputs and outputs are what
        they were.

        Returns:
            ``split`` (the tensors), ``specification_version``.

        Raises:
            CoremlFileError: the package is not sound, or a tensor cannot be parted.
            StepError: a postcondition does not hold.
        """
        from hubpub.coremlfile import Edit, Package, check_program, find_aliases, split_alias

        package = Package.open(model)
        for part in package.programs:
            check_program(package, part)
        before = package.interface()
        aliases = find_aliases(package)
        for alias in aliases:
            split_alias(package, alias)
        if aliases:
            Edit(package).write(target, progress)
        else:
            shutil.copytree(model, target, copy_function=shutil.copyfile)
        written = Package.open(target)
        for part in written.programs:
            check_program(written, part)
        if left := find_aliases(written):
            raise StepError(f"{left[0].name!r} is still input and output of {left[0].part.label}", fix="report this")
        if written.interface() != before:
            raise StepError("the inputs or outputs are not what they were", where=target.name, fix="report this")
        return {
            "split": [f"{alias.part.label}: {alias.name}" for alias in aliases],
            "specification_version": int(written.spec.specificationVersion),
        }

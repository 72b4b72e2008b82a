"""What a palettization does to a package: planned, written, and held against the plan."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from hubpub.coremlfile import Edit, Package, Part, check_program, label, main_blocks, operations, prefix, values
from hubpub.coremlfile.blob import ALIGNMENT, HEADER, blob_nbytes
from hubpub.coremlfile.write import IMMEDIATE
from hubpub.errors import StepError
from hubpub.transform._coreml_weights import Weight, palettize_weight, problem_of, sizes_of, weights_of, why_not
from hubpub.transform._luts import Form, Luts, luts_of
from hubpub.transform._mixed_bits import Option, choose

if TYPE_CHECKING:
    from hubpub.transform.palettize import Palettize

SYSTEMS = {
    6: "iOS 15, macOS 12",
    7: "iOS 16, macOS 13",
    8: "iOS 17, macOS 14",
    9: "iOS 18, macOS 15",
    10: "iOS 26, macOS 26",
}
"""The first systems that load a model of a specification version."""

_WORKERS = min(os.cpu_count() or 1, 4)


@dataclass(frozen=True)
class Chosen:
    """A weight, and the tables that take its place."""

    weight: Weight
    form: Form
    luts: Luts

    @property
    def nbytes(self) -> int:
        """Bytes of the blobs that take its place."""
        return sum(nbytes for _, _, nbytes in sizes_of(self.weight, self.form))

    @property
    def noise(self) -> float:
        """Squared error over squares."""
        return self.luts.error / self.luts.energy if self.luts.energy else 0.0

    def row(self) -> dict[str, JsonValue]:
        """For the manifest."""
        form = self.form
        tables = f"{form.groups(self.weight.shape)} tables" if form.group else "one table"
        return {
            "model": self.weight.part.label,
            "weight": self.weight.unique,
            "shape": list(self.weight.shape),
            "method": f"{form.bits} bits, {tables}" + (", scaled by channel" if form.scaled else ""),
            "bytes_in": self.weight.ref.nbytes,
            "bytes_out": self.nbytes,
            "snr_db": round(-10 * log10(self.noise), 2) if self.noise else None,
            **({"compensated": True} if self.luts.indices is not None else {}),
        }


@dataclass(frozen=True)
class Plan:
    """Which weights are palettized and how, and which stay, why."""

    chosen: tuple[Chosen, ...]
    skipped: tuple[tuple[Weight, str], ...]


def plan(package: Package, parts: Sequence[Part], params: Palettize) -> Plan:
    """Choose the weights and find their tables.

    Raises:
        StepError: there is nothing to palettize, the model is too old for it, a glob matches nothing, or no choice of
            bits keeps the budget.
    """
    found = [weight for part in parts for weight in weights_of(package, part)]
    where = package.path.name
    _check_globs(found, params, where)
    wanted: list[tuple[Weight, list[Form]]] = []
    skipped: list[tuple[Weight, str]] = []
    for weight in found:
        forms = [_form(weight, bits, params) for bits in params.widths()]
        reason = why_not(weight, params.min_elements, params.include, params.exclude, forms[0])
        if reason:
            skipped.append((weight, reason))
            continue
        for form in forms:
            if problem := problem_of(weight.opset, form):
                raise StepError(
                    f"is of opset {weight.opset}, and {problem}",
                    where=f"{where}: {weight.part.label}",
                    fix="convert it again with a newer minimum_deployment_target, or ask for less",
                )
        wanted.append((weight, forms))
    with ThreadPoolExecutor(_WORKERS) as pool:
        made = list(pool.map(_luts, wanted))
    rows: list[list[Chosen]] = []
    for (weight, forms), luts in zip(wanted, made, strict=True):
        options = [Chosen(weight, form, each) for form, each in zip(forms, luts, strict=True) if each is not None]
        if len(options) < len(forms):
            skipped.append((weight, "holds NaN or infinities"))
        else:
            rows.append(options)
    if not rows:
        raise _nothing(parts, skipped, where)
    return Plan(tuple(_chosen(package, rows, params)), tuple(skipped))


def _nothing(parts: Sequence[Part], skipped: list[tuple[Weight, str]], where: str) -> StepError:
    """Why all weights stay as they are."""
    reasons = Counter(reason for _, reason in skipped)
    blocks = (block for part in parts for _, _, block in main_blocks(part.program))
    compressed = sum(each.type.startswith("constexpr_") for block in blocks for each in operations(block))
    if compressed:
        reasons["compressed already"] = compressed
    said = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
    return StepError(
        f"there is no weight to palettize ({said or 'it has none'})",
        where=where,
        fix="start from what was not compressed" if compressed else "lower min_elements, or choose other weights",
    )


def _luts(asked: tuple[Weight, list[Form]]) -> list[Luts | None]:
    weight, forms = asked
    raw = weight.ref.read()
    return [luts_of(raw, weight.kind, weight.shape, form) for form in forms]


def _form(weight: Weight, bits: int, params: Palettize) -> Form:
    group = params.group_size if params.granularity == "per_grouped_channel" else 0
    axis = weight.axis if group or params.per_channel_scale else None
    return Form(bits, axis, group, params.per_channel_scale)


def _check_globs(found: list[Weight], params: Palettize, where: str) -> None:
    from fnmatch import fnmatchcase

    for pattern in (*params.include, *params.exclude):
        if not any(fnmatchcase(weight.name, pattern) for weight in found):
            raise StepError(f"no weight matches {pattern!r}", where=where, fix="mend include or exclude")


def _chosen(package: Package, rows: list[list[Chosen]], params: Palettize) -> Iterator[Chosen]:
    mixed = params.mixed
    if mixed is None:
        yield from (options[0] for options in rows)
        return
    # Weights of the same content lie in the file once, so they are chosen for together.
    places: dict[object, list[int]] = {}
    for place, row in enumerate(rows):
        same = (row[0].weight.file, *((each.weight.content(each.form), each.form) for each in row))
        places.setdefault(same, []).append(place)
    alike = list(places.values())
    options = [[Option(e.form.bits, _cost(e), e.noise * len(each)) for e in rows[each[0]]] for each in alike]
    if mixed.max_bytes is None:
        assert mixed.max_noise is not None
        taken = choose(options, max_noise=mixed.max_noise * (len(rows) / len(alike)))
        fix = "allow more noise, or more bits"
    else:
        # What is not palettized takes its bytes anyway.
        least = sum(predicted(package, [row[0] for row in rows]).values()) - sum(row[0].nbytes for row in options)
        taken = choose(options, max_bytes=mixed.max_bytes - least)
        fix = "allow more bytes, or fewer bits"
    if taken is None:
        raise StepError("no choice of bits keeps the budget", where=package.path.name, fix=fix)
    index_of = {place: index for each, index in zip(alike, taken, strict=True) for place in each}
    yield from (row[index_of[place]] for place, row in enumerate(rows))


def _cost(chosen: Chosen) -> int:
    """Bytes that its blobs take in the file, with their metadata and what lies between them."""
    blobs = (nbytes for _, count, nbytes in sizes_of(chosen.weight, chosen.form) if count >= IMMEDIATE)
    return sum(blob_nbytes(0, -(-nbytes // ALIGNMENT) * ALIGNMENT) for nbytes in blobs)


def predicted(package: Package, chosen: Sequence[Chosen]) -> dict[str, int]:
    """Bytes that each weight file will have; one without a palettized weight keeps its own."""
    by_value = {(each.weight.part.index, f"{each.weight.unique}.val"): each for each in chosen}
    touched = {each.weight.file for each in chosen}
    ends = {file: package.weight_file(file).size for file in package.weight_files()}
    ends.update(dict.fromkeys(touched, HEADER))
    seen: set[tuple[object, ...]] = set()
    for part in package.programs:
        for what, value in values(part.program):
            file = value.blobFileValue.fileName
            if value.WhichOneof("value") != "blobFileValue" or file not in touched:
                continue
            ref = package.blob(value, what)[2]
            new = by_value.get((part.index, what))
            at = (ref, new and (new.weight.content(new.form), new.form))
            if at in seen:
                continue
            seen.add(at)
            sizes = [ref.nbytes]
            if new:
                sizes = [nbytes for _, count, nbytes in sizes_of(new.weight, new.form) if count >= IMMEDIATE]
            for nbytes in sizes:
                ends[file] = blob_nbytes(ends[file], nbytes)
    return ends


def palettized(package: Package, made: Plan) -> Edit:
    """Put the tables into the programs of a package that is going to be written."""
    edit = Edit(package)
    before = {}
    for each in made.chosen:
        first = palettize_weight(edit, each.weight, each.form, each.luts)
        if first is not None:
            before[each.weight.part.index, each.weight.unique] = first
    if before:
        for part in package.programs:
            for function, _, block in main_blocks(part.program):
                start = prefix(part.program, function)
                _insert(block, partial(_first, before, part.index, start))
    return edit


def _first(before: dict[tuple[int, str], Any], index: int, start: str, name: str) -> Any:
    return before.get((index, start + name))


def _insert(block: Any, before: Callable[[str], Any]) -> None:
    """Put operations into a block, each before the one that gives the name for which ``before`` has it."""
    kept = []
    for operation in block.operations:
        for inner in operation.blocks:
            _insert(inner, before)
        first = before(label(operation))
        if first is not None:
            kept.append(first)
        copy = type(operation)()
        copy.CopyFrom(operation)
        kept.append(copy)
    del block.operations[:]
    block.operations.extend(kept)


def verify(target: Path, source: Package, made: Plan, sizes: dict[str, int], want: dict[str, int]) -> Package:
    """Open what was written and hold it against the plan.

    Raises:
        CoremlFileError: it is not sound.
        StepError: it is not what was planned: a table is missing, a size is another, the interface changed.
    """
    written = Package.open(target)
    where = target.name
    for part in written.programs:
        check_program(written, part)
    if written.interface() != source.interface():
        raise StepError("the inputs or outputs of the written package are not those of the source", where=where)
    there = {
        (part.index, prefix(part.program, function) + name)
        for part in written.programs
        for function, _, block in main_blocks(part.program)
        for name in _looked_up(block)
    }
    missing = [each.weight.where for each in made.chosen if (each.weight.part.index, each.weight.unique) not in there]
    if missing:
        raise StepError(f"{len(missing)} weights were not palettized, {missing[0]} among them", where=where)
    if sizes != want:
        raise StepError(f"the weight files have {sizes} bytes, {want} were planned: {table(made)}", where=where)
    for file in {each.weight.file for each in made.chosen}:
        had = source.weight_file(file).size
        if sizes[file] >= had:
            raise StepError(
                f"{file} did not shrink ({had} to {sizes[file]} bytes): {table(made)}",
                where=where,
                fix="ask for fewer bits, or leave out small weights",
            )
    return written


def _looked_up(block: Any) -> set[str]:
    """Names of what lookup tables give, multiplied by a scale or not."""
    found: set[str] = set()
    for operation in operations(block):
        scaled = operation.type == "constexpr_blockwise_shift_scale" and "data" in operation.inputs
        data = {each.name for each in operation.inputs["data"].arguments} if scaled else set()
        if operation.type == "constexpr_lut_to_dense" or data & found:
            found |= {output.name for output in operation.outputs}
    return found


def table(made: Plan) -> str:
    """Each palettized weight with its bytes, in one line."""
    return ", ".join(f"{each.weight.where} {each.weight.ref.nbytes} to {each.nbytes}" for each in made.chosen)

"""Packing: the order kept, the budget never passed, tensors aligned, shared bytes stored once."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from hubpub.onnxfile import FileBytes, Slot, Steps, pack


@given(
    sizes=st.lists(st.integers(1, 20_000), max_size=60),
    spare=st.integers(0, 30_000),
    alignment=st.sampled_from([64, 4096]),
    shared=st.data(),
)
@settings(deadline=None)
def test_packing(sizes: list[int], spare: int, alignment: int, shared: DataObject) -> None:
    budget = max(sizes, default=1) + spare
    tensors: list[tuple[Steps, FileBytes]] = []
    for number, size in enumerate(sizes):
        source = shared.draw(st.integers(0, 2 * number))  # in half of the cases one that was there before
        payload = tensors[source][1] if source < number else FileBytes(Path("m"), number, size)
        tensors.append(((("initializer", number),), payload))
    slots = pack(tensors, name=lambda n: f"{n:03d}", max_bytes=budget, alignment=alignment)

    assert list(slots) == [steps for steps, _ in tensors]
    first: dict[FileBytes, Slot] = {}
    for steps, payload in tensors:
        assert slots[steps] == first.setdefault(payload, slots[steps])
    # In order of first occurrence files and offsets only go up, without overlap or a gap wider than alignment asks.
    file, end = "000", 0
    for payload, slot in first.items():
        multiple = alignment if payload.nbytes >= alignment else 64
        assert slot.offset % multiple == 0
        assert slot.offset + payload.nbytes <= budget
        if slot.file == file:
            assert 0 <= slot.offset - end < multiple
        else:
            assert slot == (f"{int(file) + 1:03d}", 0)
            assert -(-end // multiple) * multiple + payload.nbytes > budget
        file, end = slot.file, slot.offset + payload.nbytes

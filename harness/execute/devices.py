"""Devices for workers that need one to themselves, in a pool whose devices are shared."""

from __future__ import annotations

from collections.abc import Sequence

from harness.execute.slots import Slot


def at_work(slots: Sequence[Slot]) -> int:
    """Workers that have a device to themselves and stay."""
    return sum(slot.whole and slot.home is not None and not slot.retiring for slot in slots)


def to_end(slots: Sequence[Slot], devices: int, wanted: int) -> list[Slot]:
    """The workers to be ended, so that `wanted` others get a whole device each: those with the least to do.

    Looked at afresh each time, as a worker that dies, a machine that goes or another that was quicker may
    have taken what had been emptied.
    """
    groups: dict[tuple[str, str], list[Slot]] = {}
    for slot in slots:
        if slot.home:
            groups.setdefault((slot.home.node, slot.home.device), []).append(slot)
    free = max(0, devices - len(groups))
    emptied = sum(all(slot.retiring for slot in group) for group in groups.values())
    lacking = wanted - at_work(slots) - free - emptied
    shared = [group for group in groups.values() if not any(slot.whole for slot in group)]
    busy = [left for group in shared if (left := [slot for slot in group if not slot.retiring])]
    busy.sort(key=lambda group: sum(len(slot.queue) for slot in group))
    return [slot for group in busy[: max(0, lacking)] for slot in group]

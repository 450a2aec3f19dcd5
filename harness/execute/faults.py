"""Workers that are at fault themselves: other data, a full disk, a broken device.

They fail faster than others work, and would take every job. Such a worker is started afresh, its machine or
device gets nothing for a while, longer each time, and the job goes to another machine as a further attempt.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from harness.execute.slots import Slot
from harness.plan import Job
from harness.rows import FINISHED, Row

# what a run cannot have done to itself: data that differ or cannot be read, a disk, a network
FAULTS = {"Misuse", "DataError", "DataMissing", "StoreError", "StoreAway", "OSError", "ConnectionError"}
# after one of these every later call to the device fails in the same process
BROKEN = ("CUDA error", "CUDA driver error", "device-side assert", "AcceleratorError")
UNPROVEN = 4  # faults a worker, while no run has succeeded anywhere: after that it is not the machines
LONGEST_PAUSE = 30.0


def is_broken(row: Row) -> bool:
    """Whether the process that a row comes from cannot use its device any more."""
    text = f"{row.get('error_type')} {row.get('error_message')}"
    return row["status"] == "failed" and any(words in text for words in BROKEN)


class Faults:
    """What is known of them in one sweep."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._good: Counter[str] = Counter()  # finished jobs of each machine
        self._in_a_row: Counter[str] = Counter()  # faults of each place since it finished anything
        self._until: dict[str, float] = {}  # when each place may have jobs again
        self._had: defaultdict[str, set[str]] = defaultdict(set)  # machines that have failed with each job
        self._noted = 0

    def blames(self, slot: Slot, job: Job, row: Row, slots: Sequence[Slot]) -> bool:
        """Whether another worker may do better with a job that has ended like this."""
        assert slot.home is not None
        node = slot.home.node
        if row["status"] in FINISHED:
            self._good[node] += 1
            self._in_a_row[node] = self._in_a_row[_device(slot)] = 0
            return False
        if is_broken(row):
            return True
        others = {each.home.node for each in slots if each.home} - self._had[job.id] - {node}
        if row.get("error_type") not in FAULTS or not others:
            return False
        better = any(self._good[other] for other in others)
        return better or (not self._good.total() and self._noted < UNPROVEN * len(slots))

    def note(self, slot: Slot, job: Job, row: Row) -> None:
        """It is blamed: the machine, or the device alone."""
        assert slot.home is not None
        place = _device(slot) if is_broken(row) else slot.home.node
        if not is_broken(row):
            self._had[job.id].add(place)
        self._noted += 1
        self._in_a_row[place] += 1
        self._until[place] = self._clock() + min(LONGEST_PAUSE, 2.0 ** self._in_a_row[place])

    def closed(self, slot: Slot) -> bool:
        """Whether a worker gets nothing for now."""
        assert slot.home is not None
        return any(self._clock() < self._until.get(place, 0.0) for place in (slot.home.node, _device(slot)))

    def refuses(self, slot: Slot, job: Job, slots: Sequence[Slot]) -> bool:
        """Whether a job has failed on this machine before, and there is another one for it."""
        assert slot.home is not None
        had = self._had.get(job.id)
        if not had or slot.home.node not in had:
            return False
        return any(each.home and each.home.node not in had for each in slots)


def _device(slot: Slot) -> str:
    assert slot.home is not None
    return f"{slot.home.node}/{slot.home.device}"

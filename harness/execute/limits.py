"""What a worker may take before it is given up."""

from __future__ import annotations

from dataclasses import dataclass

from harness.execute.slots import Died, Slot, dataset

FIRST_SECONDS = 30.0  # on top of a limit, for a worker's first run on a data set: it loads the data
FETCH_SECONDS = 4 * 3600.0  # the same where its node may have to fetch them first
LONG_SECONDS = 3600.0  # no run is given up as endless before that
MANY_TIMES = 100  # as long as expected: its expectation may stem from another data set


@dataclass(frozen=True)
class Limits:
    """Of one worker."""

    time: float | None = None  # seconds a run
    memory: int | None = None  # bytes; over it a worker starts afresh after its run, over twice it at once
    silence: float = 45.0  # seconds without a sign of life
    starting: float = 180.0  # seconds until the first one
    first: float = FIRST_SECONDS  # more for a worker's first run on a data set


def verdict(slot: Slot, now: float, limits: Limits) -> Died | None:
    """Why this worker is to be given up, if it is."""
    waited = now - slot.asked
    if slot.home is None:
        late = waited > limits.starting
        return Died("silent", f"not started within {limits.starting:g} s") if late else None
    if slot.pulse is not None and waited > limits.silence:
        return Died("silent", f"the worker gave no sign of life for {limits.silence:g} s")
    if not slot.queue:
        return None
    ran, expected = now - slot.since, slot.queue[0][1].expected_seconds
    more = 0.0 if dataset(slot.queue[0][1]) in slot.datasets else limits.first
    if limits.time is not None and ran > limits.time + more:
        return Died("timeout", f"longer than the time limit of {limits.time:g} s (--time-limit)")
    if expected and ran > max(LONG_SECONDS, MANY_TIMES * expected) + more:
        return Died("deadline", f"no end after {ran:.0f} s; {expected:.0f} s were expected")
    if limits.memory and slot.resident > 2 * limits.memory:
        return Died("memory", f"the worker held {slot.resident >> 20} MiB (--memory-limit)")
    return None

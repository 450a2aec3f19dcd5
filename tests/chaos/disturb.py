"""A seeded plan of kills, carried out while a sweep runs to its end."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.errors import Misuse
from tests.chaos.machines import Machines
from tests.chaos.sweeps import Driver, finished

KINDS = {"worker": 0.6, "machine": 0.2, "driver": 0.15, "frozen machine": 0.05}
IN_USE = 2  # the exit code of a sweep that finds its store held by the one just killed


@dataclass
class Report:
    """What a disturbed sweep went through."""

    kills: Counter[str] = field(default_factory=Counter)
    drivers: int = 0
    seconds: float = 0.0
    ended: bool = False

    def line(self) -> str:
        kills = ", ".join(f"{count} × {kind}" for kind, count in sorted(self.kills.items()))
        return f"{sum(self.kills.values())} kills ({kills}), {self.drivers} drivers, {self.seconds:.0f} s"


def plan_of(kills: int, runs: int, seed: int) -> list[tuple[float, str]]:
    """After how many finished runs each kill comes, and of what; the last quarter is left alone."""
    draw = random.Random(seed)
    kinds = draw.choices(list(KINDS), list(KINDS.values()), k=kills)
    kinds[: len(KINDS)] = draw.sample(list(KINDS), k=len(KINDS))  # each at least once
    moments = sorted(draw.uniform(0, 0.75 * runs) for _ in range(kills))
    return list(zip(moments, kinds, strict=True))


def disturb(
    driver: Driver,
    machines: Machines,
    plan: list[tuple[float, str]],
    seconds: float,
    seed: int,
    say: Callable[[str], None],
) -> Report:
    """Run the sweep to its end, or until time is up; kill as planned, start again what was killed."""
    report, draw, began = Report(), random.Random(seed), time.monotonic()
    left, back = list(plan), []  # kills to come, and when machines come back
    driver.start()
    try:
        while time.monotonic() - began < seconds and not report.ended:
            time.sleep(draw.uniform(0.1, 0.6))
            now = time.monotonic()
            while back and back[0] <= now:
                back.pop(0)
                if not machines.add():
                    back.append(now + 5)
            report.ended = _tend(driver)
            if left and not report.ended and _done(driver.store) >= left[0][0]:
                kind = left[0][1]
                if _kill(kind, driver, machines):
                    left.pop(0)
                    report.kills[kind] += 1
                    say(f"{now - began:5.0f} s  {_done(driver.store)} runs done, killed: {kind}")
                if kind.endswith("machine"):
                    back.append(now + draw.uniform(1, 6))
    finally:
        driver.kill()
    report.drivers, report.seconds = driver.started, time.monotonic() - began
    return report


def _tend(driver: Driver) -> bool:
    """Whether the sweep has ended; one that was killed is typed again."""
    code = driver.code()
    if code is None:
        return False
    if code == 0:
        return True
    if code > 0 and code != IN_USE:
        raise AssertionError(f"the sweep ended with {code}: {driver.said()}")
    if code == IN_USE:
        time.sleep(2)
    driver.start()
    return False


def _kill(kind: str, driver: Driver, machines: Machines) -> bool:
    if kind == "worker":
        return machines.kill_worker()
    if kind == "machine":
        return len(machines) > 1 and machines.kill_machine()
    if kind == "frozen machine":
        return len(machines) > 1 and machines.freeze_machine()
    if driver.code() is not None:
        return False
    driver.kill()
    return True


def _done(store: str) -> int:
    try:
        return finished(store)
    except (OSError, Misuse):  # not there yet, or a server that refuses just now
        return 0

"""Clocks, repeats and plain tables for the benchmark.

The machine may be shared and noisy. What is compared is therefore run in turn, A B A B, and compared pair by
pair; medians come with their range.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from harness.provenance import worker_facts


@dataclass(frozen=True)
class Took:
    """What one call took, and what it gave."""

    wall: float  # seconds
    cpu: float  # seconds of this process, all threads
    result: Any = None


def clock(act: Callable[[], Any]) -> Took:
    """Run `act` once between two readings of both clocks."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = act()
    return Took(time.perf_counter() - wall, time.process_time() - cpu, result)


def interleaved(acts: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Took]]:
    """Each act `repeats` times, in turn."""
    took: dict[str, list[Took]] = {name: [] for name in acts}
    for _ in range(repeats):
        for name, act in acts.items():
            took[name].append(clock(act))
    return took


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """How many times longer `slow` took, repeat by repeat."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Median (min-max)."""
    middle = format(statistics.median(values), form)
    return f"{middle} ({format(min(values), form)}-{format(max(values), form)})"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table with aligned columns."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    print(f"\n{title}")
    for row in [head, ["-" * width for width in widths], *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def goal(met: bool, text: str) -> None:
    """Print whether a goal was met."""
    print(f"{'met' if met else 'MISSED'}: {text}", flush=True)


def machine() -> str:
    """What these numbers were measured on."""
    facts = worker_facts(torch.device("cpu"))
    return (
        f"{facts['device']}, {cores()} cores; {facts['threads']} thread; "
        f"torch {facts['torch_version']}, Python {platform.python_version()}, {platform.system()}"
    )


def others() -> str:
    """How busy other processes keep the machine now; where they do, times by the wall mean little."""
    return f"{psutil.cpu_percent(interval=1.0):.0f} % of all cores taken by other processes"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -------------------- memory


def peak_mib() -> float:
    """Most memory this process ever had, or had since `forget_peak`, in MiB.

    Not `ru_maxrss` on Linux: there a new process inherits the peak of the one that started it.
    """
    status = _status("VmHWM:")
    if status is not None:
        return status / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def now_mib() -> float | None:
    """Memory of this process now, in MiB; None where the system does not say."""
    status = _status("VmRSS:")
    return None if status is None else status / 1024


def trim() -> None:
    """Give freed memory back to the system where the C library can, so that using it again is seen."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> bool:
    """Start the peak again from what is used now; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(field: str) -> float | None:
    """A line of /proc/self/status, in KiB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith(field)), None)

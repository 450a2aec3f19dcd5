"""`python -m tests.bench [PART …]`: all parts, or those named, with plain tables on stdout."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from tests.bench import forecast, jit_step, methods, overhead, planning, scoring
from tests.bench.timing import machine, others


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser("python -m tests.bench", description="Measure speed.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all")
    names = sorted({case[0] for case in scoring.CASES})
    parser.add_argument("--models", type=lambda text: text.split(","), help=f"of scoring, jit_step: {names}")
    parser.add_argument("--images", type=int, help="training images to score (test: 3/8 of it)")
    parser.add_argument("--runs", type=int, default=600, help="runs to measure the overhead on")
    parser.add_argument("--planned", type=int, default=planning.RUNS, help="runs to plan")
    parser.add_argument("--repeats", type=int, default=3, help="of everything")
    typed = parser.parse_args()
    if unknown := [part for part in typed.parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    if unknown := [name for name in typed.models or () if name not in names]:
        parser.error(f"no model {', '.join(unknown)}; expected some of {', '.join(names)}")
    if typed.repeats < 1:
        parser.error(f"--repeats {typed.repeats}: expected at least 1")
    return typed


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "planning": lambda typed: planning.main(typed.planned, typed.repeats),
    "overhead": lambda typed: overhead.main(typed.runs, typed.repeats),
    "forecast": lambda typed: forecast.main(typed.repeats),
    "methods": lambda typed: methods.main(max(5, typed.repeats)),
    "jit_step": lambda typed: jit_step.main(typed.models, typed.repeats),
    "scoring": lambda typed: scoring.main(typed.models, typed.images, typed.repeats),
}


def main() -> None:
    """Run the parts in turn; everything on one thread."""
    typed = arguments()
    torch.set_num_threads(1)
    print(machine())
    began = time.perf_counter()
    for name in typed.parts or PARTS:
        print(f"\n[{name}] {others()}", flush=True)
        PARTS[name](typed)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()

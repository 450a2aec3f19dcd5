"""What a plan costs, for each table of a paper and in all: as facts, and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from harness.cost import load_facts
from harness.plan import Job, Plan
from harness.progress import clock
from harness.selection import serves

HEAD = ("table", "runs", "done", "originals", "retrains", "GPU-hours")


def table_facts(plan: Plan, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Of each table that was asked for: its runs, those done, and the models and hours that are missing."""
    finished = {wanted.spec.id for wanted in plan.done}
    facts = []
    for name, share in plan.by_table().items():
        if only and not any(serves(name, asked) for asked in only):
            continue
        models = Counter(job.kind for job in share.missing.values())
        facts.append(
            {
                "table": name,
                "setting": _setting(plan, name),
                "runs": len(share.runs),
                "done": len(share.runs & finished),
                "originals": models["original"],
                "retrains": models["retrain"],
                "gpu_hours": _hours(plan, share.missing.values()),
            }
        )
    return facts


def _setting(plan: Plan, table: str) -> str:
    """Data set, model and scenario of a table."""
    tasks = [wanted.spec.task for wanted in plan.wanted if table in wanted.tables]
    parts = ("dataset", "model", "scenario")
    return " · ".join(", ".join(dict.fromkeys(getattr(task, part) for task in tasks)) for part in parts)


def cost_facts(plan: Plan) -> dict[str, Any]:
    """Hours of all missing work: measured, estimated, and how many pieces can be neither."""
    measured = sum(job.expected_seconds for job in plan.jobs)
    guesses = [plan.estimate(job) for job in plan.jobs if job.expected_seconds <= 0]
    known = [seconds for seconds in guesses if seconds is not None]
    return {
        "measured_hours": measured / 3600,
        "estimated_hours": sum(known) / 3600,
        "estimated_jobs": len(known),
        "unknown_jobs": len(guesses) - len(known),
    }


def _hours(plan: Plan, jobs: Iterable[Job]) -> float | None:
    """Hours of some jobs; None where one of them can be neither measured nor estimated."""
    total = 0.0
    for job in jobs:
        seconds = plan.estimate(job)
        if seconds is None:
            return None
        total += seconds
    return total / 3600


def table_lines(plan: Plan, only: Sequence[str] = ()) -> list[str]:
    """A line for each table, and one for all, where what they share is counted once; none without tables."""
    rows = table_facts(plan, only)
    if not rows:
        return []
    missing = Counter(job.kind for job in plan.jobs)
    whole = {"table": "all", "runs": len({wanted.spec.id for wanted in plan.wanted})}
    whole |= {"done": len({wanted.spec.id for wanted in plan.done})}
    whole |= {"originals": missing["original"], "retrains": missing["retrain"]}
    rows.append(whole | {"gpu_hours": _hours(plan, plan.jobs)})
    lines = ["", f"{HEAD[0]:10}" + "".join(f"{name:>11}" for name in HEAD[1:])]
    for row in rows:
        hours = "not known" if row["gpu_hours"] is None else f"{row['gpu_hours']:.1f}"
        numbers = (row["runs"], row["done"], row["originals"], row["retrains"], hours)
        text = f"{row['table']:10}" + "".join(f"{number:>11}" for number in numbers)
        lines.append(f"{text}  {row.get('setting', '')}".rstrip())
    return [*lines, "Originals and retrains still to be trained; what tables share is counted once in `all`."]


def cost_line(plan: Plan) -> str:
    """What all that is missing will cost, and what that rests on."""
    found = cost_facts(plan)
    if found["unknown_jobs"]:
        return (
            f"Cost: not known: {found['unknown_jobs']} of {len(plan.jobs)} pieces of work are of kinds not "
            "measured yet."
        )
    if not found["estimated_jobs"]:
        seconds = 3600 * found["measured_hours"]
        return f"Cost: {clock(seconds)} of one worker, from the medians of {plan.measured} measured rows."
    facts, precision = load_facts(), plan.suite.precision
    measured = f"{found['measured_hours']:.1f} from the medians of {plan.measured} measured rows, "
    guessed = "" if not plan.measured else f"{found['estimated_hours']:.1f} "
    return (
        f"Cost: {found['measured_hours'] + found['estimated_hours']:.1f} GPU-hours"
        f"{': ' + measured if plan.measured else ', '}{guessed}"
        f"estimated as forward operations × images × passes on {facts.device} "
        f"at {facts.tflops[precision]:g} TFLOPS sustained in {precision} (assumed, not measured)."
    )

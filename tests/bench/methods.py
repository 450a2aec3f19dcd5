"""Every registered method on digits/vgg_mini, full_class: seconds, images a second, memory."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from harness import registry, stages
from harness.plan import Job
from harness.presets import resolve
from harness.spec import RunSpec, Task, TrainSpec, derive_seed
from harness.store import Store
from harness.workspace import Settings, Workspace
from tasks.training import view_of
from tests.bench.timing import forget_peak, now_mib, peak_mib, spread, table, trim

SLOW_SECONDS, FEWEST = 2.0, 3  # above it a method is repeated only so often
DATASET, MODEL, SCENARIO, TARGET, PROFILE = "digits", "vgg_mini", "full_class", "3", "corrected"


def jobs_of(catalogue: Any) -> list[Job]:
    """One run for each method that is defined here, with its presets."""
    task = Task(DATASET, MODEL, SCENARIO, TARGET, None, PROFILE)
    original = TrainSpec(DATASET, MODEL, catalogue.find_recipe(DATASET, MODEL, PROFILE), 0, "fp32")
    made = []
    for name, cls in sorted(catalogue.methods.items()):
        if SCENARIO in cls.info.scenarios:
            params = resolve(catalogue, name, task).params
            made.append(Job(RunSpec(task, original, name, cls.info.version, params, 0, "fp32"), "bench"))
    return made


def run_once(job: Job, space: Workspace) -> tuple[float, int, float | None]:
    """Seconds of the method alone, images it was handed, and MiB by which it raised the peak."""
    spec: Any = job.spec
    method = space.catalogue.make(spec.method, spec.params)
    split = space.split(spec.task, spec.original, spec.forget_seed)
    view, seed = view_of(space.recipe(spec.original)), derive_seed(spec.seed, "order", spec.method)
    both = {
        name: space.batches(DATASET, "train", view, getattr(split, name), seed=seed)
        for name in ("forget", "retain")
    }
    model = space.private_copy(spec.original)
    space.warm_up(spec.original, model, both["forget"])
    needs = type(method).info.needs
    given = {name: batches for name, batches in both.items() if name in needs}
    ctx = stages.context(spec, space, needs, [])
    torch.manual_seed(derive_seed(spec.seed, "method", "global"))
    trim()
    can, before = forget_peak(), now_mib()
    _, facts = stages._timed(method, model, given, ctx, spec, space)
    grown = peak_mib() - before if can and before is not None else None
    return facts["seconds"], sum(batches.seen.images for batches in both.values()), grown


def measure(space: Workspace, repeats: int) -> dict[str, list[tuple[float, int, float | None]]]:
    """All methods in turn, `repeats` times, after one round that is not counted."""
    jobs = jobs_of(space.catalogue)
    spec: Any = jobs[0].spec
    row = stages.execute(Job(spec.original, "bench"), space)
    if row["status"] != "ok":
        raise AssertionError(f"the original was not trained: {row.get('error_message')}")
    found: dict[str, list[tuple[float, int, float | None]]] = {job.spec.method: [] for job in jobs}  # type: ignore[union-attr]
    slow: set[str] = set()
    for number in range(repeats + 1):
        for job in jobs:
            if job.id in slow and number > FEWEST:
                continue
            took = run_once(job, space)
            if took[0] > SLOW_SECONDS:
                slow.add(job.id)
            if number:
                found[job.spec.method].append(took)  # type: ignore[union-attr]
    return found


def main(repeats: int) -> None:
    """Print one line a method."""
    with tempfile.TemporaryDirectory(prefix="efface-bench-") as folder:
        space = Workspace(Settings(folder, device="cpu"), registry.load(), Store.create(folder))
        found = measure(space, repeats)
    rows = []
    for name, took in found.items():
        seconds = [each[0] for each in took]
        grown = [each[2] for each in took if each[2] is not None]
        rate = [images / max(each, 1e-9) for each, images, _ in took]
        rows.append(
            [
                name,
                spread(seconds),
                f"{took[0][1]:,}",
                spread(rate, ".0f"),
                spread(grown, ".1f") if grown else "-",
            ]
        )
    table(
        f"Methods on {DATASET}/{MODEL} {SCENARIO} {TARGET}, {repeats} repeats; median (min-max)",
        ["method", "seconds", "images handed", "images/s", "peak memory grows by MiB"],
        rows,
    )

"""The two stages, train and unlearn: the one place where methods meet tasks.

Only the method itself is timed, after a warm-up and on a synchronised device; scoring is timed apart.
Whatever goes wrong inside becomes a failed outcome with its traceback in the run's log.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from torch import nn

from harness import artifacts
from harness.errors import Misuse
from harness.plan import Job
from harness.provenance import worker_facts
from harness.rows import Row
from harness.scoring import Diverged, Halves, predict_halves, require_finite, score
from harness.spec import REFERENCES, RunSpec, TrainSpec, derive_seed, to_dict
from harness.start import accuracy, judge, split_of, starting_model, surprise, training_images
from harness.urls import without_secrets
from harness.workspace import Workspace
from methods.api import Context
from tasks.api import Split
from tasks.loaders import TensorBatches, pixel_range
from tasks.recipes import Recipe
from tasks.training import fit, view_of

ON_TUNING_HALF = ("retain_acc", "forget_acc", "mia")
SECOND = "another attempt at this has stored its files first: they stay, and the scores are theirs"


def execute(job: Job, space: Workspace) -> Row:
    """Run one job; never raises for anything that the job itself did."""
    log: list[str] = []
    started, begun = datetime.now(UTC), time.perf_counter()
    stage = train if isinstance(job.spec, TrainSpec) else unlearn
    try:
        outcome = stage(job, space, log)
        outcome["status"] = "ok"
    except Diverged as error:
        outcome = _failed(error, "diverged", "failed" if isinstance(job.spec, TrainSpec) else "diverged")
    except (torch.OutOfMemoryError, MemoryError) as error:
        outcome = _failed(error, "oom")
    except TimeoutError as error:
        outcome = _failed(error, "timeout")
    except Exception as error:
        outcome = _failed(error, type(error).__name__)
        log.append("" if isinstance(error, Misuse) else without_secrets(traceback.format_exc()))
    alone = space.settings.exclusive and not job.careful
    outcome = {"exclusive": alone, **worker_facts(space.device), "started_at": started, **outcome}
    outcome.setdefault("seconds_total", time.perf_counter() - begun)
    if log or outcome["status"] != "ok":
        _write_log(job, space, outcome, log)
    return outcome


def _failed(error: BaseException, kind: str, status: str = "failed") -> Row:
    message = without_secrets(" ".join(str(error).split())) or type(error).__name__
    return {"status": status, "error_type": kind, "error_message": message[:500]}


def _write_log(job: Job, space: Workspace, outcome: Row, log: list[str]) -> None:
    head = f"{job.spec.label} ({job.id})\n{json.dumps(to_dict(job.spec))}\nstatus {outcome['status']}"
    lines = [head, *([outcome["error_message"]] if outcome.get("error_message") else []), *log]
    try:
        space.store.write(f"logs/{job.id}.txt", ("\n".join(line for line in lines if line) + "\n").encode())
    except (Misuse, OSError) as error:  # a full disk: the row says what happened, if anything still can
        outcome.setdefault("error_message", f"log not written: {error}")


# -------------------- train


def train(job: Job, space: Workspace, log: list[str]) -> Row:
    """Train an original, or the same recipe with something left out; store what its children need."""
    spec, begun = job.spec, time.perf_counter()
    assert isinstance(spec, TrainSpec)
    weights = spec.without is None or space.settings.keep_weights
    attempt = artifacts.Attempt(space.store, spec.id, weights, outputs=True, facts=True)
    split = split_of(spec, space)
    model, published = starting_model(spec, space)
    told = {"weights_digest": published.digest if published else None, **_data_facts(spec, space, split)}
    found = attempt.found(model, told)
    if found is not None:
        row, halves = found
        space.remember(spec, model, halves)
        log.append(f"not trained: its files were there already, whole, made on {row['host']}")
        return row
    model, timed = _train(model, spec, space, split, log)
    predict = partial(predict_halves, spec=spec, space=space, careful=job.careful)
    started = time.perf_counter()
    made = predict(model)
    timed["seconds_scoring"] = time.perf_counter() - started
    halves = attempt.settle(model, made, predict)
    space.remember(spec, model, halves)
    reached = accuracy(halves["test"])
    row = {**timed, **told, "test_acc": reached, "warning": surprise(spec, space, reached)}
    row |= {"exclusive": space.settings.exclusive and not job.careful, **worker_facts(space.device)}
    row["seconds_total"] = time.perf_counter() - begun
    signed: Row = attempt.sign(_facts(spec, row))["row"]
    log += [SECOND] if halves is not made else []
    log += [f"WARNING {signed['warning']}"] if signed["warning"] else []
    return signed


def _train(
    model: nn.Module, spec: TrainSpec, space: Workspace, split: Split | None, log: list[str]
) -> tuple[nn.Module, Row]:
    """The training and nothing else between two readings of the clock."""
    recipe = space.recipe(spec)
    order = derive_seed(spec.train_seed, "order", spec.split_seed)
    images = training_images(spec, space, split)
    batches = space.batches(spec.dataset, "train", view_of(recipe), images, recipe.batch_size, order)
    space.warm_up(spec, model, batches)
    torch.manual_seed(derive_seed(spec.train_seed, "init", spec.split_seed, "global"))  # dropout, a new head
    space.synchronize()
    begun = time.perf_counter()
    model = _fit(model, batches, recipe, spec, log, judge(spec, space, split))
    space.synchronize()
    seconds = time.perf_counter() - begun
    require_finite(model)
    return model, {"seconds": seconds, "samples_seen": batches.num_examples * recipe.epochs}


def _facts(spec: TrainSpec, row: Row) -> Row:
    """What stands beside a trained model: what its children ask for, and the row that tells of it."""
    asked = ("weights_digest", "seconds", "seconds_scoring", "exclusive", "data_digest")
    return {"spec": to_dict(spec), **{name: row[name] for name in asked}, "row": row}


def _fit(
    model: nn.Module,
    batches: Any,
    recipe: Recipe,
    spec: TrainSpec,
    log: list[str],
    evaluate: Callable[[nn.Module], float] | None = None,
) -> nn.Module:
    """The task's own recipe, as originals and retrains are trained."""
    told = lambda name, value: log.append(f"{name} {value:.6g}")  # noqa: E731
    return fit(model, batches, recipe, precision=spec.precision, evaluate=evaluate, log=told)


# -------------------- unlearn


def unlearn(job: Job, space: Workspace, log: list[str]) -> Row:
    """Run one method, or look up one reference, and score what came out."""
    spec = job.spec
    assert isinstance(spec, RunSpec)
    split = space.split(spec.task, spec.original, spec.forget_seed)
    if spec.method in REFERENCES:
        halves, facts = _reference(spec, space)
    else:
        halves, facts = _method(job, space, split, log)
    begun = time.perf_counter()
    columns, scores = score(job, space, split, halves)
    facts["seconds_scoring"] += time.perf_counter() - begun
    versions = {name: space.catalogue.metrics[name].version for name in job.metrics}
    facts["metric_versions"] = json.dumps(versions)
    if scores:
        facts["scores"] = json.dumps(scores)
    return facts | columns | _data_facts(spec.original, space, split)


def _reference(spec: RunSpec, space: Workspace) -> tuple[Halves, Row]:
    """Baseline and retrain are trained models: their outputs and times lie in the store already."""
    source = spec.original if spec.method == "baseline" else spec.retrain
    assert source is not None
    known = artifacts.load_facts(space.store, "outputs", source.id)
    seconds = 0.0 if spec.method == "baseline" else float(known["seconds"])
    facts: Row = {"seconds": seconds, "seconds_scoring": float(known["seconds_scoring"])}
    facts["exclusive"] = bool(known["exclusive"])  # of its training, wherever that ran
    return space.outputs(source), facts


def _method(job: Job, space: Workspace, split: Split, log: list[str]) -> tuple[Halves, Row]:
    spec = job.spec
    assert isinstance(spec, RunSpec)
    method = space.catalogue.make(spec.method, spec.params)
    info = type(method).info
    model = space.private_copy(spec.original)
    seed = derive_seed(spec.seed, "order", spec.method)
    view = view_of(space.recipe(spec.original))
    dataset = spec.task.dataset
    forget = space.batches(dataset, "train", view, split.forget, seed=seed)
    retain = space.batches(dataset, "train", view, split.retain, seed=seed + 1)
    space.warm_up(spec.original, model, forget)
    told = space.settings
    limit = sys.maxsize if told.keep_outputs else told.outputs_limit
    attempt = artifacts.Attempt(space.store, spec.id, told.keep_weights, outputs=limit > 0)
    given = {"forget": forget, "retain": retain}
    given = {name: batches for name, batches in given.items() if name in info.needs}
    ctx = context(spec, space, info.needs, log)
    torch.manual_seed(derive_seed(spec.seed, "method", "global"))  # dropout
    model, facts = _timed(method, model, given, ctx, spec, space)
    require_finite(model)
    begun = time.perf_counter()
    predict = partial(predict_halves, spec=spec.original, space=space, careful=job.careful)
    made = predict(model)
    facts["seconds_scoring"] = time.perf_counter() - begun
    facts["samples_seen"] = forget.seen.images + retain.seen.images
    halves = attempt.settle(model, made, predict, outputs=artifacts.outputs_bytes(made) <= limit)
    if told.keep_weights:
        artifacts.save_facts(space.store, "models", spec.id, {"spec": to_dict(spec)})
    log += [SECOND] if halves is not made else []
    return halves, facts


def _timed(
    method: Any,
    model: nn.Module,
    given: dict[str, TensorBatches],
    ctx: Context,
    spec: RunSpec,
    space: Workspace,
) -> tuple[nn.Module, Row]:
    """The method and nothing else between two readings of the clock."""
    if space.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(space.device)
    space.synchronize()
    begun = time.perf_counter()
    # no cached low-precision copies of weights: inside one long context they would outlive an optimiser's
    # step
    bf16 = torch.autocast(space.device.type, torch.bfloat16, spec.precision == "bf16", cache_enabled=False)
    with bf16:
        unlearned = method(model, given.get("forget"), given.get("retain"), ctx)
    space.synchronize()
    seconds = time.perf_counter() - begun
    if not isinstance(unlearned, nn.Module):
        raise TypeError(
            f"{spec.method} returned {type(unlearned).__name__}, expected the unlearned nn.Module"
        )
    peak = torch.cuda.max_memory_allocated(space.device) if space.device.type == "cuda" else None
    return unlearned.eval(), {"seconds": seconds, "peak_bytes": peak}


def context(spec: RunSpec, space: Workspace, needs: frozenset[str], log: list[str]) -> Context:
    """What a method may know besides the model and the data that it declared."""
    original, data = spec.original, space.loaded(spec.task.dataset).data
    recipe = space.recipe(original)
    # no epoch is chosen here: a method must not learn of images that it was not given
    last = dataclasses.replace(recipe, checkpoint="last")
    shape = space.input_shape(original)
    target = spec.task.target
    label = None
    if "class_id" in needs and target is not None:
        split = space.split(spec.task, original, spec.forget_seed)
        label = int(data.train.labels[int(split.forget[0])])
    return Context(
        num_classes=len(data.classes),
        input_shape=shape,
        device=space.device,
        generator=space.generator(spec.seed, "method", spec.method),
        new_model=lambda: space.new_model(original, derive_seed(spec.seed, "init", spec.method)),
        train=lambda model, batches: _fit(model, batches, last, original, log),
        forget_class=label,
        pixel_range=pixel_range(view_of(recipe), shape[0], space.device),
        log=lambda name, value: log.append(f"{name} {value:.6g}"),
    )


def _data_facts(spec: TrainSpec, space: Workspace, split: Split | None) -> Row:
    loaded = space.loaded(spec.dataset)
    return {
        "split_digest": split.digest() if split else None,
        "data_digest": loaded.digest,
        "data_official": loaded.data.official,
        "data_note": loaded.data.note or None,
    }

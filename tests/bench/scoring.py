"""Scores of one model: ours, from one batched pass a half, against the yardstick on the same weights."""

from __future__ import annotations

import statistics
from typing import Any

from threadpoolctl import threadpool_limits

from harness.plan import Job
from harness.scoring import predict_halves, score
from tests.bench import yardstick
from tests.bench.ground import SIDE, Ground, ground
from tests.bench.timing import Took, goal, interleaved, ratios, spread, table

# model, side in pixels, training images: where the yardstick takes long there are fewer
CASES = (
    ("vgg11", SIDE, 400),
    ("resnet18", SIDE, 400),
    ("vgg_mini", SIDE, 1000),
    ("vit_mini", SIDE, 1000),
    ("vgg_mini", 8, 1000),
    ("vit_mini", 8, 1000),
)
TEST_SHARE = 3 / 8  # test images for each training image
METRICS = ("retain_acc", "forget_acc", "test_acc", "mia")
HEAD = ["model", "px", "images", "yardstick CPU s", "ours CPU s", "times cheaper", "… without loading"]
GOALS = {"vgg11": 10.0}  # times cheaper in CPU seconds


def ours(on: Ground) -> dict[str, float]:
    """What the harness does after a run: both halves through the model, then the scores from the outputs."""
    halves = predict_halves(on.model, on.original, on.space, careful=False)
    columns, _ = score(Job(on.run, "bench", METRICS), on.space, on.split, halves)
    return {name: columns[name] for name in METRICS}


def images_of(on: Ground) -> yardstick.Halves:
    """The same images as the yardstick loads them."""
    halves = [(half.images, half.labels) for half in (on.data.train, on.data.test)]
    forgotten = on.data.classes.index(str(on.run.task.target))
    return yardstick.halves(halves[0], halves[1], forgotten, *on.mean_std, on.data.shape[-1])


def differences(ours: dict[str, float], plain: dict[str, float], forgotten: int) -> str:
    """Nothing, or a single forgotten image that lies on the attack's threshold; anything else is an error."""
    for name in METRICS[:3]:
        if ours[name] != plain[name]:
            raise AssertionError(f"{name}: ours {ours[name]}, the yardstick's {plain[name]}")
    samples = round(abs(ours["mia"] - plain["mia"]) * forgotten)
    if samples > 1:
        raise AssertionError(
            f"mia: ours {ours['mia']}, the yardstick's {plain['mia']}: {samples} images apart"
        )
    return "equal" if samples == 0 else "mia differs by 1 image (batched rounding at the threshold)"


def compare(on: Ground, repeats: int) -> tuple[dict[str, list[Took]], str]:
    """Ours and the yardstick in turn, with the walks of the yardstick that load images alone."""
    data, model = images_of(on), yardstick.plain(on.model)
    ours(on)  # imports and first touches are paid by neither
    yardstick.loading(data)
    acts: dict[str, Any] = {
        "yardstick": lambda: yardstick.scores(model, data),
        "ours": lambda: ours(on),
        "loading": lambda: yardstick.loading(data),
    }
    took = interleaved(acts, repeats)
    notes = {
        differences(a.result, b.result, len(on.split.forget))
        for a, b in zip(took["ours"], took["yardstick"], strict=True)
    }
    return took, "; ".join(sorted(notes))


def main(models: list[str] | None, images: int | None, repeats: int) -> None:
    """Print one line a case; `images` training images instead of its own."""
    rows, told = [], []
    for name, side, usual in CASES:
        if models and name not in models:
            continue
        count = images or usual
        with ground(name, count, int(count * TEST_SHARE), side) as on, threadpool_limits(1):
            took, note = compare(on, repeats)
        cpu = {who: [each.cpu for each in runs] for who, runs in took.items()}
        wall = {who: [each.wall for each in runs] for who, runs in took.items()}
        ratio = ratios(cpu["yardstick"], cpu["ours"])
        without = ratios([a - b for a, b in zip(cpu["yardstick"], cpu["loading"], strict=True)], cpu["ours"])
        rows.append(
            [
                name,
                f"{side}",
                f"{count}+{int(count * TEST_SHARE)}",
                spread(cpu["yardstick"]),
                spread(cpu["ours"]),
                spread(ratio),
                spread(without),
                spread(ratios(wall["yardstick"], wall["ours"])),
                note,
            ]
        )
        told.append((name, statistics.median(ratio)))
    table(
        f"Scoring: 3 accuracies and MIA, {repeats} repeats; median (min-max)",
        [*HEAD, "by wall", "scores"],
        rows,
    )
    for name, middle in told:
        if name in GOALS:
            goal(middle >= GOALS[name], f"{name} at least {GOALS[name]:g} times cheaper: {middle:.1f}")

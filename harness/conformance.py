"""What every method, data set, model and metric must satisfy: registered means tested.

`efface check` runs this over whatever is registered, plugins included. A check that cannot be made here is
reported as skipped with its reason and never as passed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from harness.errors import unknown
from harness.presets import load_presets, resolve
from harness.registry import Catalogue
from harness.small_world import small_data, small_run, small_split
from harness.spec import Task, scenario_family
from tasks.api import DataError, Outputs, Scored

ARGUMENTS = ("model", "forget", "retain", "ctx")
Pair = tuple[nn.Module, nn.Module]
_RUNS: WeakKeyDictionary[type, dict[tuple[str, int, int], Pair]] = WeakKeyDictionary()  # by method


@dataclass(frozen=True)
class Finding:
    """One claim about one registered thing, and whether it holds."""

    kind: str
    name: str
    claim: str
    outcome: str  # passed | failed | skipped
    why: str = ""

    def facts(self) -> dict[str, str]:
        return dataclasses.asdict(self)


class Broken(AssertionError):
    """A claim does not hold; the message says what was found and expected."""


class Skipped(Exception):
    """A claim cannot be tried here; the message says why."""


Claim = Callable[..., None]


def check(
    catalogue: Catalogue, names: Sequence[str] | None = None, say: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """Check everything registered, or the named entries; with plugins only what these registered."""
    known = {name for kind in CHECKS for name in getattr(catalogue, kind)}
    for name in names or ():
        if name not in known:
            raise unknown("name", name, known)
    findings: list[Finding] = []
    for kind, claims in CHECKS.items():
        for name in sorted(getattr(catalogue, kind)):
            if not _chosen(catalogue, kind, name, names):
                continue
            found = [_try(kind, name, text, claim, catalogue) for text, claim in claims]
            findings += found
            bad = [f for f in found if f.outcome == "failed"]
            say(f"{'FAILED' if bad else 'ok':6} {kind[:-1]} {name}")
    return findings


def _chosen(catalogue: Catalogue, kind: str, name: str, names: Sequence[str] | None) -> bool:
    if names:
        return name in names
    return not catalogue.plugins or catalogue.origins.get((kind, name)) in [
        str(path) for path in catalogue.plugins
    ]


def _try(kind: str, name: str, text: str, claim: Claim, catalogue: Catalogue) -> Finding:
    try:
        claim(name, catalogue)
    except Skipped as reason:
        return Finding(kind, name, text, "skipped", str(reason))
    except Broken as error:
        return Finding(kind, name, text, "failed", str(error))
    except Exception as error:  # noqa: BLE001  whatever somebody's code does is a finding, not a crash
        return Finding(kind, name, text, "failed", f"{type(error).__name__}: {error}")
    return Finding(kind, name, text, "passed")


def summary(findings: Sequence[Finding]) -> str:
    """Failures and skips one by one, then the counts."""
    lines = [
        f"{f.outcome:8}{f.kind[:-1]} {f.name}: {f.claim}: {f.why}" for f in findings if f.outcome != "passed"
    ]
    count = {state: sum(f.outcome == state for f in findings) for state in ("passed", "failed", "skipped")}
    return "\n".join([*lines, ", ".join(f"{number} {state}" for state, number in count.items())])


def require(holds: bool, message: str) -> None:
    if not holds:
        raise Broken(message)


def _first_scenario(catalogue: Catalogue, name: str) -> str:
    known = [s for s in catalogue.scenarios if s in catalogue.methods[name].info.scenarios]
    if not known:
        raise Broken(f"claims {sorted(catalogue.methods[name].info.scenarios)}, none of which is registered")
    return known[0]


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def _equal(a: nn.Module, b: nn.Module) -> bool:
    left, right = _weights(a), _weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# -------------------- methods


def _run(name: str, catalogue: Catalogue, scenario: str | None = None, seed: int = 4, turn: int = 0) -> Pair:
    """The model before and after: what several claims are about is run once, and once more each `turn`."""
    scenario = scenario or _first_scenario(catalogue, name)
    known = _RUNS.setdefault(catalogue.methods[name], {})
    if (scenario, seed, turn) not in known:
        known[scenario, seed, turn] = small_run(catalogue, name, scenario, seed)
    return known[scenario, seed, turn]


def _signature(name: str, catalogue: Catalogue) -> None:
    found = tuple(inspect.signature(catalogue.methods[name].__call__).parameters)[1:]
    require(found == ARGUMENTS, f"__call__ takes {found}, expected {ARGUMENTS}")


def _defaults_valid(name: str, catalogue: Catalogue) -> None:
    catalogue.make(name, catalogue.defaults(name))
    reference = {**catalogue.defaults(name), **catalogue.methods[name].info.reference}
    catalogue.make(name, reference)


def _presets_valid(name: str, catalogue: Catalogue) -> None:
    rows = [preset for preset in load_presets() if preset.method == name]
    if not rows:
        raise Skipped("no preset names it: every run uses its defaults")
    for preset in rows:
        first = {key: preset.where.get(key, ("",))[0] for key in ("dataset", "scenario")}
        model = next(iter(preset.where.get("model", ("vgg_mini",))))
        model = "vgg_mini" if model.startswith("family:") else model
        task = Task(first["dataset"], model, first["scenario"], None, None, "corrected")
        resolve(catalogue, name, task, dict(preset.params), presets=())


def _undeclared_none(name: str, catalogue: Catalogue) -> None:
    for scenario in sorted(catalogue.methods[name].info.scenarios & set(catalogue.scenarios)):
        _, after = _run(name, catalogue, scenario)
        require(
            isinstance(after, nn.Module), f"{scenario}: returned {type(after).__name__}, expected nn.Module"
        )


def _finite_same_shape(name: str, catalogue: Catalogue) -> None:
    before, after = _run(name, catalogue)
    shapes = [{n: tuple(t.shape) for n, t in _weights(model).items()} for model in (before, after)]
    changed = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
    require(not changed, f"names or shapes changed: {changed[:3]}")
    bad = [n for n, t in _weights(after).items() if not torch.isfinite(t.float()).all()]
    require(not bad, f"not finite: {bad[:3]}")


def _same_seed_same_result(name: str, catalogue: Catalogue) -> None:
    runs = [_run(name, catalogue, turn=turn)[1] for turn in (0, 1)]
    require(
        _equal(*runs), "two runs with one seed differ; draw only from ctx.generator and the given batches"
    )


def _other_seed_other_result(name: str, catalogue: Catalogue) -> None:
    runs = [_run(name, catalogue, seed=seed)[1] for seed in (4, 5)]
    if catalogue.stochastic(name, catalogue.defaults(name)):
        require(
            not _equal(*runs), "two seeds gave one result; draw from ctx.generator, or say stochastic=False"
        )
    else:
        require(_equal(*runs), "two seeds differ; remove stochastic=False from @method")


def _data_untouched(name: str, catalogue: Catalogue) -> None:
    before = small_data().digest()
    small_run(catalogue, name, _first_scenario(catalogue, name))
    require(small_data().digest() == before, "images or labels were changed in place")


def _outside_scenarios(name: str, catalogue: Catalogue) -> None:
    families = {scenario_family(scenario) for scenario in catalogue.scenarios}
    outside = sorted(families - catalogue.methods[name].info.scenarios)
    if outside:
        raise Skipped(f"it does not claim {', '.join(outside)}: a sweep skips these and says so")


# -------------------- data sets, models, and the rest


def _dataset_sound(name: str, catalogue: Catalogue) -> None:
    info = catalogue.datasets[name]
    if info.needs_folder:
        raise Skipped("needs a folder: efface doctor checks the one you have")
    try:
        data = info.load(None)
    except DataError as error:
        raise Broken(str(error)) from None
    for part, half in (("train", data.train), ("test", data.test)):
        require(
            half.images.dtype == torch.uint8 and half.images.ndim == 4,
            f"{part} images are not (N, C, H, W) uint8",
        )
        require(len(half.labels) == len(half.groups) == len(half.images), f"{part}: lengths differ")
        require(int(half.labels.max()) < len(data.classes), f"{part}: a label has no class name")
        require(int(half.groups.max()) < len(data.groups), f"{part}: a group has no name")
    require(info.groups in (None, data.groups), f"declares groups {info.groups}, loads {data.groups}")
    require(info.load(None).digest() == data.digest(), "loading twice gave different data")


def _model_sound(name: str, catalogue: Catalogue) -> None:
    build, side = catalogue.models[name].build, catalogue.models[name].side
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(5, (3, side, side)).eval()
    with torch.no_grad():
        out = model(torch.zeros(2, 3, side, side))
    require(tuple(out.shape) == (2, 5), f"gives {tuple(out.shape)}, expected (2, 5)")
    require(bool(torch.isfinite(out).all()), "fresh weights give non-finite logits")


def _scenario_sound(name: str, catalogue: Catalogue) -> None:
    split, count = small_split(catalogue, name), len(small_data().train)
    require(len(split.forget) > 0, "forgets nothing")
    require(not np.intersect1d(split.forget, split.retain).size, "forget and retain overlap")
    require(len(split.forget) + len(split.retain) <= count, "more positions than images")
    require(split.digest() == small_split(catalogue, name).digest(), "two calls with one seed differ")


def _metric_sound(name: str, catalogue: Catalogue) -> None:
    info = catalogue.metrics[name]

    def made(retrained: Scored | None = None, original: Scored | None = None) -> Scored:
        def some(count: int, shift: int) -> Outputs:
            random = np.random.default_rng(count + shift)
            return Outputs(
                random.normal(size=(count, 4)).astype(np.float32),
                random.integers(0, 4, count).astype(np.int64),
            )

        return Scored("corrected", some(20, 1), some(90, 2), some(12, 3), some(40, 4), retrained, original)

    needed = (made() if info.needs_retrain else None, made() if info.needs_original else None)
    values = [info.score(made(*needed)) for _ in range(2)]
    first = values[0] if isinstance(values[0], dict) else {name: values[0]}
    require(set(first) <= set(info.columns), f"gives {sorted(first)}, declares {sorted(info.columns)}")
    require(repr(values[0]) == repr(values[1]), "scoring the same outputs twice gave different numbers")


CHECKS: dict[str, list[tuple[str, Claim]]] = {
    "methods": [
        ("takes (model, forget, retain, ctx)", _signature),
        ("has valid defaults in both profiles", _defaults_valid),
        ("has valid presets", _presets_valid),
        ("runs with everything undeclared set to None", _undeclared_none),
        ("keeps all parameters finite and of the same shape", _finite_same_shape),
        ("gives the same result for the same seed", _same_seed_same_result),
        ("gives another result for another seed exactly if it is stochastic", _other_seed_other_result),
        ("leaves the data untouched", _data_untouched),
        ("is skipped outside the scenarios it claims", _outside_scenarios),
    ],
    "datasets": [("loads sound data, twice the same", _dataset_sound)],
    "models": [("maps (B, C, H, W) to finite (B, K) logits", _model_sound)],
    "scenarios": [("cuts disjoint, repeatable splits", _scenario_sound)],
    "metrics": [("gives what it declares, repeatably", _metric_sound)],
}


def claims() -> Iterator[tuple[str, str]]:
    """Every claim, by kind, for documentation."""
    for kind, rows in CHECKS.items():
        for text, _ in rows:
            yield kind, text

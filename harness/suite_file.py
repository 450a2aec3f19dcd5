"""Suites as TOML files: read, and refused with one clear message where a key, name or type is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import Misuse, did_you_mean, unknown
from harness.presets import MATCHED, ORIGINS, SUITES
from harness.spec import PRECISIONS, PROFILES, REFERENCES
from harness.suite import Catalogue, Suite, TaskRow

DEFAULT_METRICS = ("retain_acc", "forget_acc", "test_acc", "mia", "forget_entropy")
SUITE_KEYS = {
    "title": str,
    "profile": str,
    "precision": str,
    "seeds": (int, list),
    "train_seeds": (int, list),
    "retrain_seeds": int,
    "methods": list,
    "models": list,
    "metrics": list,
    "task": list,
    "params": dict,
    "grid": dict,
    "vary": dict,
    "retrain_start": str,
    "vary_reference": bool,
    "params_from": list,
    "params_as": dict,
}
TASK_KEYS = {
    "dataset": str,
    "models": list,
    "scenario": str,
    "targets": list,
    "count": int,
    "methods": list,
    "title": str,
    "table": list,
    "seeds": (int, list),
    "train_seeds": (int, list),
    "params": dict,
    "params_from": list,
    "params_as": dict,
}


def suite_names(folder: Path = SUITES) -> list[str]:
    """Names of the shipped suites."""
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem != "spaces")


def load_suite(name: str, catalogue: Catalogue) -> Suite:
    """A shipped suite by name, or any TOML file by path."""
    path = Path(name).expanduser() if name.endswith(".toml") else SUITES / f"{name}.toml"
    if not path.is_file() or path.stem == "spaces":
        hint = "no such file" if name.endswith(".toml") else did_you_mean(name, suite_names())
        raise Misuse(f"unknown suite {name!r}; {hint} (a suite of your own: give the path of its .toml file)")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misuse(f"suite {path}: not valid TOML: {error}") from None
    return parse_suite(path.stem, raw, catalogue)


def parse_suite(name: str, raw: Mapping[str, Any], catalogue: Catalogue) -> Suite:
    """A suite from its parsed TOML; every unknown key, name and type is refused."""
    where = f"suite {name}"
    _check_keys(raw, SUITE_KEYS, where)
    if not raw.get("task"):
        raise Misuse(f"{where}: has no [[task]]; add one with dataset, scenario, models and targets")
    for key, choices in (
        ("profile", PROFILES),
        ("precision", PRECISIONS),
        ("retrain_start", ("fresh", "warm")),
    ):
        if key in raw and raw[key] not in choices:
            raise Misuse(f"{where}: {key} is {raw[key]!r}, expected {' or '.join(choices)}")
    for metric in raw.get("metrics", ()):
        _known("metric", metric, catalogue.metrics, where)
    for key in ("params", "grid", "vary"):
        for method, fields in raw.get(key, {}).items():
            _check_fields(method, fields, catalogue, f"{where}, [{key}.{method}]", lists=key != "params")
    tasks = tuple(
        _task_row(row, raw, catalogue, f"{where}, task {i}") for i, row in enumerate(raw["task"], 1)
    )
    seeds = _seeds(raw, "seeds", where)
    retrain_seeds = raw.get("retrain_seeds")
    if retrain_seeds is not None and not 1 <= retrain_seeds <= len(seeds):
        raise Misuse(f"{where}: retrain_seeds is {retrain_seeds}, expected 1 to {len(seeds)} (the seeds)")
    return Suite(
        name=name,
        title=raw.get("title", name),
        profile=raw.get("profile", "corrected"),
        precision=raw.get("precision", "fp32"),
        seeds=seeds,
        train_seeds=_seeds(raw, "train_seeds", where),
        retrain_seeds=retrain_seeds,
        metrics=tuple(raw.get("metrics", DEFAULT_METRICS)),
        tasks=tasks,
        params=raw.get("params", {}),
        grid=raw.get("grid", {}),
        vary=raw.get("vary", {}),
        retrain_start=raw.get("retrain_start", "fresh"),
        vary_reference=raw.get("vary_reference", False),
        params_from=_origins(raw, where),
        params_as=_setting(raw, where),
    )


def _origins(raw: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """`params_from = ["published"]`: presets of these origins alone."""
    found = raw.get("params_from", [])
    if any(origin not in ORIGINS for origin in found):
        raise Misuse(f"{where}: params_from is {found!r}, expected some of {', '.join(ORIGINS)}")
    return tuple(found)


def _setting(raw: Mapping[str, Any], where: str) -> Mapping[str, str]:
    """`params_as = { dataset = "cifar100" }`: presets as they are for that data set."""
    found: Mapping[str, Any] = raw.get("params_as", {})
    for key, value in found.items():
        if key not in MATCHED or not isinstance(value, str):
            raise Misuse(f"{where}: params_as has {key} = {value!r}, expected names for {', '.join(MATCHED)}")
    return found


def _check_keys(raw: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> None:
    for key, value in raw.items():
        if key not in keys:
            raise unknown("key", key, keys, where)
        if not isinstance(value, keys[key]) or (isinstance(value, bool) and keys[key] is not bool):
            kinds = keys[key] if isinstance(keys[key], tuple) else (keys[key],)
            names = " or ".join(kind.__name__ for kind in kinds)
            raise Misuse(f"{where}: {key} is {value!r}, expected {names}")


def _check_fields(method: str, fields: Any, catalogue: Catalogue, where: str, *, lists: bool) -> None:
    """Hyper-parameters in a suite: single values in [params.M], lists of values in [grid.M] and [vary.M]."""
    _known("method", method, catalogue.methods, where)
    if not isinstance(fields, dict):
        raise Misuse(f"{where}: expected a table of hyper-parameters, found {fields!r}")
    for name, value in fields.items():
        _known(f"hyper-parameter of {method}", name, catalogue.defaults(method), where)
        if lists and (not isinstance(value, list) or not value):
            raise Misuse(f"{where}: {name} is {value!r}, expected a list of values such as [0.1, 1.0]")
        if not lists and isinstance(value, (list, dict)):
            raise Misuse(f"{where}: {name} is {value!r}, expected one value; for several use [grid.{method}]")


def _known(kind: str, name: str, table: Mapping[str, Any], where: str) -> None:
    if name not in table:
        raise unknown(kind, str(name), table, where)


def _seeds(raw: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    """`seeds = 3` means 0, 1, 2; a list is taken as it is."""
    value = raw.get(key, 1)
    seeds = tuple(range(value)) if isinstance(value, int) else tuple(value)
    if not seeds or any(not isinstance(s, int) or s < 0 for s in seeds) or len(set(seeds)) < len(seeds):
        raise Misuse(f"{where}: {key} is {value!r}, expected a positive count or a list of distinct seeds")
    return seeds


def _task_row(row: Any, suite: Mapping[str, Any], catalogue: Catalogue, where: str) -> TaskRow:
    _check_keys(row, TASK_KEYS, where)
    for key in ("dataset", "scenario"):
        if key not in row:
            raise Misuse(f'{where}: {key} missing; expected e.g. dataset = "digits", scenario = "random"')
    catalogue.dataset(row["dataset"])
    _known("scenario", row["scenario"], catalogue.scenarios, where)
    scenario = catalogue.scenarios[row["scenario"]]
    models = tuple(row.get("models", suite.get("models", ())))
    methods = tuple(row.get("methods", suite.get("methods", (*REFERENCES, *catalogue.methods))))
    if not models:
        raise Misuse(f'{where}: no models; expected e.g. models = ["vgg_mini"]')
    for model in models:
        _known("model", model, catalogue.models, where)
    for method in methods:
        _known("method", method, {**catalogue.methods, **dict.fromkeys(REFERENCES)}, where)
    if scenario.target != "optional group" and bool(row.get("targets")) != (scenario.target != "none"):
        verb = "takes no" if scenario.target == "none" else "needs"
        raise Misuse(f"{where}: scenario {scenario.name} {verb} targets")
    if scenario.needs_count != ("count" in row):
        raise Misuse(
            f"{where}: scenario {scenario.name} {'needs' if scenario.needs_count else 'takes no'} count"
        )
    if row.get("count", 1) < 1:
        raise Misuse(f"{where}: count is {row['count']}, expected a positive number of images")
    info = catalogue.dataset(row["dataset"])
    if scenario.target == "group" and info.groups is not None and info.classes is None:
        raise Misuse(f"{where}: {info.name} has nothing finer than its classes to forget; use full_class")
    named = tuple(
        _target(row["dataset"], scenario.target, target, catalogue, where)
        for target in row.get("targets", ())
    )
    title = row.get("title", f"{row['dataset']} {row['scenario']}")
    return TaskRow(
        row["dataset"],
        row["scenario"],
        models,
        named or (None,),
        row.get("count"),
        methods,
        title,
        tables=_tables(row.get("table", []), where),
        seeds=_seeds(row, "seeds", where) if "seeds" in row else None,
        train_seeds=_seeds(row, "train_seeds", where) if "train_seeds" in row else None,
        params=_row_params(row, catalogue, where),
        params_from=_origins(row, where) if "params_from" in row else None,
        params_as=_setting(row, where) if "params_as" in row else None,
    )


def _tables(names: list[Any], where: str) -> tuple[str, ...]:
    """Names of a paper's tables, as text: "9", "2b"."""
    for name in names:
        if not isinstance(name, str) or not name:
            raise Misuse(f'{where}: table has {name!r}, expected names in quotes such as table = ["9", "2b"]')
    return tuple(names)


def _row_params(row: Mapping[str, Any], catalogue: Catalogue, where: str) -> Mapping[str, Any]:
    params: Mapping[str, Any] = row.get("params", {})
    for method, fields in params.items():
        _check_fields(method, fields, catalogue, f"{where}, params.{method}", lists=False)
    return params


def _target(dataset: str, kind: str, target: Any, catalogue: Catalogue, where: str) -> str:
    """The name of a class or group; an index becomes the name, so that 69 and "rocket" name one run."""
    info = catalogue.dataset(dataset)
    names = info.classes if kind == "class" and info.classes else info.groups
    if names is None or target in names:
        return str(target)
    if str(target).isdigit() and int(target) < len(names):
        return str(names[int(target)])
    raise Misuse(f"{where}: {dataset} has no target {target!r}; {did_you_mean(str(target), names)}")

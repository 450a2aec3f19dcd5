"""Search spaces as data: which hyper-parameters of a method are searched, over what.

Layers, each over the one before: what a method declares itself (`search={...}` in `@method`), the rows of
suites/spaces.toml that match the setting, the more specific the later, and a file of the user's (`--space`).
A row that says `only = true` drops what the rows before it said.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from harness.errors import Misuse, unknown
from harness.presets import MATCHED, SUITES, Preset, typed
from harness.spec import Params, Task, Value

SPACES = SUITES / "spaces.toml"
RANGE_KEYS = {"low", "high", "log", "step"}
SIGNIFICANT = 4  # digits of a value that a run gets: enough for a preset that people read


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones for an int."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def ends(self) -> tuple[Value, ...]:
        return (int(self.low), int(self.high)) if self.whole else (float(self.low), float(self.high))

    def text(self) -> str:
        kind = "whole numbers, " if self.whole else ""
        how = "log-uniform" if self.log else "uniform"
        return f"{self.low:g} … {self.high:g} ({kind}{how})"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Value, ...]

    def ends(self) -> tuple[Value, ...]:
        return self.values

    def text(self) -> str:
        return " | ".join(str(value) for value in self.values)


Dimension = Range | Choice


@dataclass(frozen=True)
class Space:
    """What is searched of one method in one setting, and what is fixed there."""

    dims: tuple[tuple[str, Dimension], ...]  # sorted by name
    fixed: Params
    sources: tuple[str, ...]

    def body(self) -> dict[str, Any]:
        """Plain data, to be hashed."""
        dims = {name: {"kind": type(d).__name__, **vars(d)} for name, d in self.dims}
        return {"dims": dims, "fixed": dict(self.fixed)}

    def without(self, names: Iterable[str]) -> Space:
        """The space with some fields left out, as somebody else sets them."""
        gone = set(names)
        return Space(
            tuple(pair for pair in self.dims if pair[0] not in gone),
            tuple(pair for pair in self.fixed if pair[0] not in gone),
            self.sources,
        )

    def params(self, base: Params, drawn: Mapping[str, Value]) -> Params:
        """All hyper-parameters of a run: `base`, what is fixed, and what was drawn, at four digits."""
        rounded = {name: shorten(drawn[name]) for name, _ in self.dims}
        return tuple(sorted({**dict(base), **dict(self.fixed), **rounded}.items()))


def shorten(value: Value) -> Value:
    return float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value


def find_space(catalogue: Any, method: str, task: Task, file: str | Path | None = None) -> Space:
    """The space of a method for a setting. Misuse where there is none, or where it cannot work."""
    defaults = catalogue.defaults(method)
    search: dict[str, Any] = dict(getattr(catalogue.methods[method].info, "search", {}))
    sources = ["declared by the method"] if search else []
    fixed: dict[str, Any] = {}
    for row, only in _layers(catalogue, method, task, file):
        layer: Any = row.params
        search, fixed = (
            _laid(search, layer["search"], instead=layer["fixed"], only=only),
            _laid(fixed, layer["fixed"], instead=layer["search"], only=only),
        )
        sources.append(row.source)
    if not search:
        raise Misuse(
            f"no search space for {method} on {task.label}; add a [[space]] row to a file and give it with "
            f'--space FILE, or declare search={{"{next(iter(defaults))}": …}} in its @method'
        )
    where = f"search space of {method}"
    for name in [*search, *fixed]:
        if name not in defaults:
            raise unknown("hyper-parameter", name, defaults, where)
    dims = {name: _dimension(f"{where}: {name}", raw, defaults[name]) for name, raw in search.items()}
    fixed = {name: typed(value, defaults[name]) for name, value in fixed.items()}
    space = Space(tuple(sorted(dims.items())), tuple(sorted(fixed.items())), tuple(sources))
    _try_ends(catalogue, method, space, where)
    return space


def _laid(
    under: Mapping[str, Any], over: Mapping[str, Any], instead: Mapping[str, Any], only: bool
) -> dict[str, Any]:
    """One layer over others; what it fixes is no longer searched, and the reverse."""
    kept = {} if only else {name: value for name, value in under.items() if name not in instead}
    return {**kept, **over}


def _try_ends(catalogue: Any, method: str, space: Space, where: str) -> None:
    """The method must accept both ends of every range, and every choice."""
    first = {name: d.ends()[0] for name, d in space.dims}
    for name, d in space.dims:
        for value in d.ends():
            try:
                catalogue.make(method, {**dict(space.fixed), **first, name: value})
            except Misuse as error:
                raise Misuse(f"{where}: {error}") from None


def _dimension(where: str, raw: Any, default: Value) -> Dimension:
    if isinstance(raw, Mapping) and "choices" in raw:
        raw = raw["choices"]
    if isinstance(raw, (list, tuple)):
        return _choice(where, raw, default)
    if not isinstance(raw, Mapping):
        raise Misuse(f"{where} is {raw!r}, expected {{ low = 1e-5, high = 1e-1, log = true }} or a list")
    for key in raw:
        if key not in RANGE_KEYS:
            raise unknown("key", key, RANGE_KEYS, where)
    low, high, log, step = raw.get("low"), raw.get("high"), raw.get("log", False), raw.get("step")
    if not (_is_number(low) and _is_number(high)):
        raise Misuse(f"{where}: low is {low!r} and high is {high!r}, expected two numbers")
    if not low < high:
        raise Misuse(f"{where}: from {low:g} to {high:g} is no range, expected low < high")
    if not isinstance(log, bool):
        raise Misuse(f"{where}: log is {log!r}, expected true or false")
    if log and low <= 0:
        raise Misuse(f"{where}: log = true needs low > 0, found {low:g}")
    if step is not None and (log or not _is_number(step) or step <= 0):
        raise Misuse(f"{where}: step is {step!r}, expected a number > 0 in a range without log")
    whole = isinstance(default, int) and not isinstance(default, bool)
    whole = whole or (default is None and isinstance(low, int) and isinstance(high, int))
    if whole and any(int(number) != number for number in (low, high, step or 1)):
        raise Misuse(f"{where}: low {low:g}, high {high:g}, step {step}: expected whole numbers")
    return Range(low, high, log, step, whole)


def _choice(where: str, raw: Sequence[Any], default: Value) -> Choice:
    if not raw:
        raise Misuse(f"{where}: no choices, expected a list of values such as [1, 2]")
    return Choice(tuple(dict.fromkeys(typed(value, default) for value in raw)))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _layers(
    catalogue: Any, method: str, task: Task, file: str | Path | None
) -> Iterator[tuple[Preset, bool]]:
    """The [[space]] rows for a setting: of the shipped file, the more specific the later, then the user's."""
    family = catalogue.models[task.model].family

    def fit(rows: Sequence[tuple[Preset, bool]]) -> list[tuple[Preset, bool]]:
        mine = [(row, only) for row, only in rows if row.method == method and row.matches(task, family)]
        return sorted(mine, key=lambda pair: pair[0].specificity)

    yield from fit(_read(SPACES))
    if file is not None:
        path = Path(file).expanduser()
        rows = _read(path)
        _check_names(catalogue, rows, path)
        found = fit(rows)
        if not found and any(row.method == method for row, _ in rows):
            raise Misuse(
                f"--space {path}: no row of {method} is for {task.label}; dataset, model, scenario and "
                "profile, where a row names them, must be these"
            )
        yield from found


def check_file(catalogue: Any, file: str | Path, methods: Iterable[str]) -> None:
    """A file of the user's must be about something that is searched."""
    path = Path(file).expanduser()
    rows = _read(path)
    _check_names(catalogue, rows, path)
    if not {row.method for row, _ in rows} & set(methods):
        about = ", ".join(sorted({row.method for row, _ in rows})) or "nothing"
        raise Misuse(f"--space {path} is about {about}; expected a [[space]] row for {', '.join(methods)}")


def _check_names(catalogue: Any, rows: Sequence[tuple[Preset, bool]], path: Path) -> None:
    """A row for what nobody registered would be passed over without a word."""
    models = {*catalogue.models, *(f"family:{model.family}" for model in catalogue.models.values())}
    for number, (row, _) in enumerate(rows, 1):
        where = f"--space {path}, space {number}"
        if row.method not in catalogue.methods:
            raise unknown("method", row.method, catalogue.methods, where)
        for model in row.where.get("model", ()):
            if model not in models:
                raise unknown("model", model, models, where)
        for dataset in row.where.get("dataset", ()):
            if dataset.partition(":")[0] not in catalogue.datasets:
                raise unknown("data set", dataset, catalogue.datasets, where)


def _read(path: Path) -> Sequence[tuple[Preset, bool]]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise Misuse(f"--space {path}: {why}; expected a TOML file with [[space]] rows") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misuse(f"--space {path}: not valid TOML: {error}") from None
    rows = raw.get("space")
    if set(raw) != {"space"} or not isinstance(rows, list):
        raise Misuse(f"--space {path}: holds {', '.join(raw) or 'nothing'}; expected [[space]] rows alone")
    return [_row(row, f"{path.name}, space {number}") for number, row in enumerate(rows, 1)]


def _row(row: Mapping[str, Any], where: str) -> tuple[Preset, bool]:
    allowed = {"method", "source", "search", "fixed", "only", *MATCHED}
    for key in row:
        if key not in allowed:
            raise unknown("key", key, allowed, where)
    if missing := {"method", "source"} - set(row):
        raise Misuse(f"{where}: {sorted(missing)} missing; every space names its method and its source")
    match = {
        key: tuple([row[key]] if isinstance(row[key], str) else row[key]) for key in MATCHED if key in row
    }
    params: Any = {"search": row.get("search", {}), "fixed": row.get("fixed", {})}
    for name, table in params.items():
        if not isinstance(table, Mapping):
            raise Misuse(f"{where}: {name} is {table!r}, expected a table [space.{name}]")
    return Preset(row["method"], match, "default", row["source"], params), bool(row.get("only", False))

"""Hyper-parameters for a setting, each with its source: what was published, what was tuned, what is a
default.

Layers, each over the one before: the method's field defaults; in profile `reference` what the released code
sets; the rows of suites/presets/*.toml that match, the more specific the later; what the suite says.
`published` and `tuned` rows are in separate files, and a row's origin is stored with every run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from harness.errors import Misuse, unknown
from harness.spec import Params, Task, Value, scenario_family

SUITES = Path(__file__).with_name("suites")
MATCHED = ("dataset", "model", "scenario", "profile")
ORIGINS = ("published", "tuned", "default")


@dataclass(frozen=True)
class Preset:
    """One row of a preset file."""

    method: str
    where: Mapping[str, tuple[str, ...]]  # of dataset, model, scenario, profile: the values it is for
    origin: str  # published | tuned | default
    source: str
    params: Mapping[str, Value]

    def matches(self, task: Task, family: str) -> bool:
        facts = {
            "dataset": {task.dataset, task.dataset.split(":", 1)[0]},
            "model": {task.model, f"family:{family}"},
            "scenario": {task.scenario, scenario_family(task.scenario)},
            "profile": {task.profile},
        }
        return all(facts[key] & set(allowed) for key, allowed in self.where.items())

    @property
    def specificity(self) -> tuple[int, int]:
        """How many facts it names, and how many of them by name rather than by family."""
        names = [value for allowed in self.where.values() for value in allowed]
        return len(self.where), sum(not name.startswith("family:") for name in names) > 0


@dataclass(frozen=True)
class Resolved:
    """The hyper-parameters of one run and where each came from."""

    params: Params
    origin: str
    sources: Mapping[str, str]  # field → source, in words


class MethodTable(Protocol):
    """What is asked of the registry here."""

    @property
    def methods(self) -> Mapping[str, Any]: ...
    @property
    def models(self) -> Mapping[str, Any]: ...
    def defaults(self, method: str) -> dict[str, Value]: ...
    def make(self, method: str, params: Params | Mapping[str, Value]) -> Any: ...


def resolve(
    catalogue: MethodTable,
    method: str,
    task: Task,
    suite_params: Mapping[str, Value] | None = None,
    presets: Iterable[Preset] | None = None,
    read_as: Task | None = None,
) -> Resolved:
    """All fields of `method` for `task`, validated by making the method once.

    Presets are those of `read_as` where it is given: published for another setting, tried in this one.
    """
    defaults = catalogue.defaults(method)
    values = dict(defaults)
    sources = dict.fromkeys(values, "default of the method")
    origin = "default"
    if task.profile == "reference":
        _lay(values, sources, catalogue.methods[method].info.reference, "the released code", method)
    setting = read_as or task
    family = catalogue.models[setting.model].family
    rows = [p for p in (load_presets() if presets is None else presets) if p.method == method]
    for preset in sorted((p for p in rows if p.matches(setting, family)), key=lambda p: p.specificity):
        _lay(values, sources, preset.params, f"{preset.origin}: {preset.source}", method)
        origin = preset.origin
    if suite_params:
        _lay(values, sources, suite_params, "the suite", method)
        origin = "suite"
    params = tuple(sorted((name, typed(value, defaults[name])) for name, value in values.items()))
    catalogue.make(method, params)
    return Resolved(params, origin, sources)


def _lay(
    values: dict[str, Value], sources: dict[str, str], over: Mapping[str, Value], source: str, method: str
) -> None:
    for name, value in over.items():
        if name not in values:
            raise unknown(f"hyper-parameter of {method}", name, values)
        values[name], sources[name] = value, source


def typed(value: Value, default: Value) -> Value:
    """An int given for a float field is that float, so that `lr = 1` and `lr = 1.0` name one run."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


@lru_cache(maxsize=8)
def load_presets(folder: Path = SUITES / "presets") -> tuple[Preset, ...]:
    """All rows of the preset files in a folder, in the order of their names."""
    return tuple(preset for path in sorted(folder.glob("*.toml")) for preset in _read(path))


def read_presets(*places: str) -> tuple[Preset, ...]:
    """Presets of a user's: .toml files, or folders or URLs of such files as `efface tune` writes them.

    Two that were found for one setting are refused: laid over each other they would be a point nobody tried.
    """
    found: list[Preset] = []
    of: dict[Any, str] = {}
    for path, raw in (pair for where in places for pair in _files(where)):
        for preset in _rows(raw, Path(path).name):
            setting = (preset.method, *sorted(preset.where.items()))
            if preset.origin == "tuned" and of.setdefault(setting, path) != path:
                on = "/".join(value for values in preset.where.values() for value in values)
                raise Misuse(
                    f"--presets: {of[setting]} and {path} are both for {preset.method} on {on}; give one of "
                    "the two files, or a folder that has only one"
                )
            found.append(preset)
    return tuple(found)


def _files(where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Path and content of each file."""
    from harness.urls import open_url

    fs, root = open_url(where, "--presets")
    paths = sorted(fs.glob(f"{root.rstrip('/')}/*.toml")) if fs.isdir(root) else [root]
    if not paths or not fs.exists(paths[0]):
        raise Misuse(f"--presets {where}: no .toml file there; expected what `efface tune` writes")
    try:
        return [(path, tomllib.loads(fs.cat_file(path).decode("utf-8"))) for path in paths]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misuse(f"--presets {where}: not valid TOML: {error}") from None


def _read(path: Path) -> Iterator[Preset]:
    return _rows(tomllib.loads(path.read_text(encoding="utf-8")), path.name)


def _rows(raw: Mapping[str, Any], name: str) -> Iterator[Preset]:
    return (_preset(row, f"{name}, preset {number}") for number, row in enumerate(raw.get("preset", []), 1))


def _preset(row: Mapping[str, Any], where: str) -> Preset:
    allowed = {"method", "origin", "source", "params", "unset", *MATCHED}
    for key in row:
        if key not in allowed:
            raise unknown("key", key, allowed, where)
    if missing := {"method", "origin", "source", "params"} - set(row):
        raise Misuse(f"{where}: {sorted(missing)} missing; every preset names its method and its source")
    if row["origin"] not in ORIGINS:
        raise Misuse(f"{where}: origin is {row['origin']!r}, expected one of {', '.join(ORIGINS)}")
    match = {
        key: tuple([row[key]] if isinstance(row[key], str) else row[key]) for key in MATCHED if key in row
    }
    params = {**row["params"], **dict.fromkeys(row.get("unset", ()))}  # TOML has no null
    return Preset(row["method"], match, row["origin"], row["source"], params)

"""Finds everything that can be named: built-ins, entry points and `--plugin` files, and where each came from.

A built-in is any module in `methods/`, `tasks/datasets`, `tasks/models`, `tasks/metrics`, or
`tasks/scenarios.py`: adding one touches one file. Other packages register through the entry-point group
`efface`, whose entries name modules; a single file is given with `--plugin`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import __version__
from harness.errors import Misuse, unknown
from harness.spec import Params, Value

BUILT_INS = ("methods", "tasks.datasets", "tasks.models", "tasks.metrics")
NO_METHODS = frozenset({"api", "loops", "probes"})
Table = Mapping[str, Any]


@dataclass(frozen=True)
class Catalogue:
    """Everything registered, by kind and name."""

    methods: Table
    datasets: Table
    models: Table
    scenarios: Table
    metrics: Table
    origins: Mapping[tuple[str, str], str]  # (kind, name) → where it came from
    plugins: tuple[Path, ...] = ()

    @cached_property
    def recipes(self) -> Mapping[str, Any]:
        from tasks.recipes import load_recipes

        return load_recipes()

    def dataset(self, name: str) -> Any:
        """The record of a data set; `name` may carry a folder after a colon, as in imagefolder:pets."""
        base = name.split(":", 1)[0]
        if base not in self.datasets:
            raise unknown("data set", base, self.datasets)
        return self.datasets[base]

    def find_recipe(self, dataset: str, model: str, profile: str, role: str = "train") -> str:
        """The id of the training recipe for a setting."""
        from tasks.recipes import find_recipe

        try:
            return find_recipe(dataset, model, self.models[model].family, profile, role).id
        except ValueError as error:
            raise Misuse(str(error)) from None

    def retrainable(self, recipe: str) -> bool:
        """Whether a recipe trains at all, so that a retrain differs from its original."""
        from tasks.recipes import recipe_by_id

        return recipe_by_id(recipe).retrainable

    def defaults(self, method: str) -> dict[str, Value]:
        """Names and default values of a method's hyper-parameters."""
        fields: Any = dataclasses.fields(self.methods[method])
        return {f.name: f.default for f in fields}

    def make(self, method: str, params: Params | Mapping[str, Value]) -> Any:
        """The method with these hyper-parameters; refuses values that it cannot work with."""
        try:
            return self.methods[method](**dict(params))
        except (TypeError, ValueError) as error:
            raise Misuse(f"method {method}: {error}") from None

    def stochastic(self, method: str, params: Params | Mapping[str, Value]) -> bool:
        """Whether two seeds can give two results; it may depend on the hyper-parameters."""
        made = self.make(method, params)
        return bool(getattr(made, "stochastic", made.info.stochastic))


def load(plugins: Iterable[str | Path] = ()) -> Catalogue:
    """Import all built-ins, installed entry points and plugin files, and say what is there."""
    origins: dict[tuple[str, str], str] = {}
    _claim(origins, f"efface {__version__}", _import_built_ins)
    for entry in importlib.metadata.entry_points(group="efface"):
        owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        _claim(origins, owner, entry.load)
    paths = tuple(Path(plugin).expanduser().resolve() for plugin in plugins)
    for path in paths:
        _claim(origins, str(path), partial(_import_plugin, path))
    tables = _tables()
    return Catalogue(**tables, origins=origins, plugins=paths)


def _tables() -> dict[str, dict[str, Any]]:
    import methods.api
    import tasks.api

    return {
        "methods": methods.api.METHODS,
        "datasets": tasks.api.DATASETS,
        "models": tasks.api.MODELS,
        "scenarios": tasks.api.SCENARIOS,
        "metrics": tasks.api.METRICS,
    }


def _claim(origins: dict[tuple[str, str], str], owner: str, act: Callable[[], Any]) -> None:
    """Note `owner` as the origin of every name that `act` adds."""
    before = {(kind, name) for kind, table in _tables().items() for name in table if (kind, name) in origins}
    act()
    for kind, table in _tables().items():
        for name in table:
            if (kind, name) not in before:
                origins.setdefault((kind, name), _known_origin(table[name]) or owner)


def _known_origin(entry: Any) -> str | None:
    """The plugin file that an entry came from, where this process loaded it before."""
    made_by = next((getattr(entry, a) for a in ("load", "build", "cut", "score") if hasattr(entry, a)), entry)
    module = sys.modules.get(getattr(made_by, "__module__", ""))
    return getattr(module, "__efface_plugin__", None)


def _import_built_ins() -> None:
    importlib.import_module("tasks.scenarios")
    for package_name in BUILT_INS:
        package = importlib.import_module(package_name)
        for found in pkgutil.iter_modules(package.__path__):
            if not (package_name == "methods" and found.name in NO_METHODS):
                importlib.import_module(f"{package_name}.{found.name}")


def _import_plugin(path: Path) -> ModuleType:
    """Run one plugin file as a module of its own; a second load of the same file is the first one."""
    if not path.is_file():
        raise Misuse(f"--plugin {path}: no such file; give the path of a Python file that registers a method")
    name = f"efface_plugin_{path.stem}"
    if name in sys.modules:
        loaded = sys.modules[name]
        if loaded.__efface_plugin__ != str(path):
            raise Misuse(
                f"--plugin {path}: {loaded.__efface_plugin__} has the same file name; rename one of them"
            )
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Misuse(f"--plugin {path}: expected a Python file, i.e. a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    module.__efface_plugin__ = str(path)  # type: ignore[attr-defined]
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a user's file does at import
        del sys.modules[name]
        raise Misuse(f"--plugin {path}: {_first_cause(error, path)}") from None
    return module


def _first_cause(error: BaseException, path: Path) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = f" (line {frames[-1].lineno})" if frames else ""
    return f"does not import{line}: {type(error).__name__}: {error}"

"""Training recipes as data: rows of `recipes.toml`, found by data set, model, profile and role.

A recipe is named by its content: change a number and what it trains has another name. Nothing here needs
torch, so that a sweep can be planned without it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

ROWS = Path(__file__).with_name("recipes.toml")
CHOICES = {
    "profile": ("corrected", "reference", "*"),
    "role": ("train", "retrain_warm"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("constant", "cosine", "one_cycle", "reference_one_cycle", "reference_multistep"),
    "checkpoint": ("last", "best_test", "best_val"),
    "head": ("new", "checkpoint"),
}
# not part of what is trained: widening a row to another model must not rename what it trained before
UNNAMED = ("name", "source", "datasets", "models", "profile", "expected", "expected_source")
NOT_COPIED = ("expected", "expected_source")  # by `like`: the band of one model is not that of another


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, and for which data sets, models and profile."""

    name: str
    datasets: tuple[str, ...]  # names, or "*"
    models: tuple[str, ...]  # names, "family:vgg", or "*"
    epochs: int
    batch_size: int
    lr: float  # the peak, where the schedule has one
    source: str  # paper, released code, or own search
    profile: str = "*"  # "corrected", "reference" or "*"
    role: str = "train"  # or "retrain_warm": only the last layer starts afresh
    optimizer: str = "sgd"
    momentum: float = 0.9  # of sgd; the first beta of adamw
    weight_decay: float = 0.0
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()  # epochs, from 0, at which reference_multistep divides the rate by 5
    augment: bool = False
    mean: tuple[float, ...] = (0.5,)  # of pixels in [0, 1]; one number stands for all channels
    std: tuple[float, ...] = (0.5,)
    size: int | None = None  # side length of the model input in pixels; None: as stored
    checkpoint: str = "last"  # or the epoch that the caller's `evaluate` finds best
    validation: float = 0.1  # share of each group's training images that "best_val" sets aside
    crop: int | None = None  # side in pixels that augmentation cuts out of the padded image; None: as stored
    pretrained: str | None = None  # timm's name of the weights that training starts from; None: random
    head: str = "new"  # "checkpoint": keep the last layer of these weights; epochs = 0 takes them as they are
    weights_digest: str | None = None  # pins these weights; None: any that fit, and the row says which
    expected: tuple[float, ...] = ()  # lowest and highest test accuracy of the models that the row names
    expected_source: str = ""  # where that comes from

    def __post_init__(self) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(self._says(field, " or ".join(allowed)))
        for field in ("batch_size", "lr"):
            if not getattr(self, field) > 0:
                raise ValueError(self._says(field, "> 0"))
        if not 0 < self.validation < 1:
            raise ValueError(self._says("validation", "a share between 0 and 1"))
        self._check_start()
        self._check_expected()

    def _check_start(self) -> None:
        if self.pretrained is None and (self.head == "checkpoint" or self.weights_digest is not None):
            raise ValueError(self._says("pretrained", "timm's name of the weights"))
        if self.epochs < 0 or (self.epochs == 0 and self.head != "checkpoint"):
            raise ValueError(self._says("epochs", '> 0, or 0 with head = "checkpoint"'))

    def _check_expected(self) -> None:
        if not self.expected:
            return
        if len(self.expected) != 2 or not 0 <= self.expected[0] < self.expected[1] <= 1:
            raise ValueError(self._says("expected", "two accuracies between 0 and 1, the lower one first"))
        if not self.expected_source:
            raise ValueError(self._says("expected_source", "where the expected accuracy comes from"))

    def _says(self, field: str, expected: str) -> str:
        return f"recipe {self.name!r}: {field} is {getattr(self, field)!r}, expected {expected}"

    @property
    def retrainable(self) -> bool:
        """Whether leaving images out changes anything: weights that are taken as they are have seen them."""
        return self.epochs > 0

    def surprise(self, dataset: str, model: str, accuracy: float) -> str | None:
        """What to say of a test accuracy outside the expected band; None inside it, or where there is none.

        A band holds for the data sets and models that the row names, not for those that a family brings in.
        """
        if not self.expected or model not in self.models or dataset.partition(":")[0] not in self.datasets:
            return None
        low, high = self.expected
        if low <= accuracy <= high:
            return None
        return (
            f"test accuracy {accuracy:.3f} is outside {low:g} to {high:g}, expected of recipe {self.name} "
            f"({self.expected_source})"
        )

    @cached_property
    def id(self) -> str:
        """`name@` and 8 hex digits of SHA-256 over the fields that differ from their defaults."""
        differing = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in UNNAMED and getattr(self, f.name) != f.default
        }
        canonical = json.dumps(differing, sort_keys=True, separators=(",", ":"))
        return f"{self.name}@{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


@lru_cache(maxsize=1)
def load_recipes() -> dict[str, Recipe]:
    """Every recipe by name, in the order of the file."""
    return parse(ROWS.read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, Recipe]:
    """Recipes from TOML. A row may start as a copy of an earlier one, `like = "its name"`."""
    table = tomllib.loads(text)
    rows: dict[str, dict[str, Any]] = {}
    for row in table["recipe"]:
        name, like = row["name"], row.pop("like", None)
        if name in rows:
            raise ValueError(f"two recipes are named {name!r}; rename one")
        if like is not None and like not in rows:
            raise ValueError(f"recipe {name!r}: like = {like!r}, expected the name of a row above it")
        copied = {key: value for key, value in rows.get(like, {}).items() if key not in NOT_COPIED}
        rows[name] = copied | row
    return {name: _recipe(row, table["statistics"]) for name, row in rows.items()}


def _recipe(row: dict[str, Any], statistics: dict[str, dict[str, list[float]]]) -> Recipe:
    """A row as a recipe; `statistics = "cifar10"` in it stands for that mean and std."""
    fields = dict(row)
    name = fields.pop("statistics")
    if name not in statistics:
        known = ", ".join(statistics)
        raise ValueError(f"recipe {row['name']!r}: no statistics {name!r}, expected one of {known}")
    fields |= statistics[name]
    kinds = {f.name: str(f.type) for f in dataclasses.fields(Recipe)}
    if unknown := set(fields) - set(kinds):
        raise ValueError(
            f"recipe {row['name']!r}: unknown {sorted(unknown)}, expected some of {', '.join(kinds)}"
        )
    return Recipe(**{key: _typed(value, kinds[key]) for key, value in fields.items()})


def _typed(value: Any, kind: str) -> Any:
    """TOML has lists where a recipe has tuples, and `lr = 1` must name the same recipe as `lr = 1.0`."""
    if isinstance(value, list):
        return tuple(_typed(item, kind.removeprefix("tuple[")) for item in value)
    return float(value) if kind.startswith("float") else value


def find_recipe(dataset: str, model: str, family: str, profile: str, role: str = "train") -> Recipe:
    """The most specific row: by data set first, then by model (name, family, any), then by profile.

    `imagefolder:pets` is looked up as `imagefolder`. Raises ValueError where no row fits, or two fit equally
    well.
    """
    wanted = (dataset.partition(":")[0], model, family, profile)
    fits = [(_fit(recipe, *wanted), recipe) for recipe in load_recipes().values() if recipe.role == role]
    best = max((fit for fit, _ in fits if fit), default=None)
    chosen = [recipe for fit, recipe in fits if fit == best]
    if best is None:
        raise ValueError(
            f"no {role} recipe for data set {dataset!r}, model {model!r} (family {family!r}), {profile!r}; "
            f'add a [[recipe]] to {ROWS} with models = ["{model}"], or models = ["family:{family}"]'
        )
    if len(chosen) > 1:
        names = " and ".join(recipe.name for recipe in chosen)
        raise ValueError(f"recipes {names} fit {dataset}, {model}, {profile} equally well; narrow one")
    return chosen[0]


def _fit(recipe: Recipe, dataset: str, model: str, family: str, profile: str) -> tuple[int, int, int] | None:
    """How closely a row fits, larger is closer; None where it does not."""
    ladders = (
        (recipe.datasets, (dataset, "*")),
        (recipe.models, (model, f"family:{family}", "*")),
        ((recipe.profile,), (profile, "*")),
    )
    ranks = [
        next((-rank for rank, rung in enumerate(ladder) if rung in row), None) for row, ladder in ladders
    ]
    return None if None in ranks else tuple(ranks)  # type: ignore[return-value]


def recipe_by_id(recipe_id: str) -> Recipe:
    """The recipe of that id. Raises ValueError where it is unknown or its row has changed since."""
    name = recipe_id.partition("@")[0]
    recipe = load_recipes().get(name)
    if recipe is None:
        raise ValueError(f"no recipe is named {name!r}, expected one of {', '.join(load_recipes())}")
    if recipe.id != recipe_id:
        raise ValueError(
            f"recipe {name!r} is now {recipe.id}, expected {recipe_id}: its row was changed; plan again"
        )
    return recipe

"""The contract of an unlearning method: what it sees, what it may ask for, how it is registered.

A method is a frozen dataclass. Its fields are the hyper-parameters, its `__call__` is the algorithm, and the
decorator `@method` says under which name it is known and which data it needs. The harness passes `None` for
everything that is not declared, so "zero-shot" is a fact that can be checked and not a promise.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

NEEDS = frozenset({"forget", "retain", "class_id"})
RESERVED = frozenset({"baseline", "retrain"})  # the two references; their rows bear these names
FIELD_TYPES = (bool, int, float, str, type(None))


@runtime_checkable
class Batches(Protocol):
    """A walk over labelled images, as often as you like.

    Each step yields `x` (B, C, H, W) float32, normalised, on the device, and `y` (B,) int64.
    """

    @property
    def num_examples(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...
    def rebatch(self, size: int, *, shuffle: bool = False) -> Batches:
        """The same examples in batches of `size`, in stored order or in a fresh order on every walk."""
        ...

    def relabel(self, labels: Tensor) -> Batches:
        """The same examples, in stored order, with `labels` (num_examples,) int64 in place of their own."""
        ...

    def subset(self, positions: Tensor) -> Batches:
        """The examples at `positions` (M,) int64 of the stored order."""
        ...

    def join(self, other: Batches) -> Batches:
        """These examples followed by those of `other`."""
        ...

    def labels(self) -> Tensor:
        """Labels (num_examples,) int64 in stored order, without touching an image."""
        ...


def _ignore(name: str, value: float) -> None:
    """The log of a method that nobody listens to."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a method may know besides the model and the data it declared."""

    num_classes: int
    input_shape: tuple[int, int, int]  # (C, H, W) as the model receives it
    device: torch.device
    generator: torch.Generator  # this run's own random stream, on `device`
    new_model: Callable[[], nn.Module]  # same architecture, fresh weights
    train: Callable[[nn.Module, Batches], nn.Module]  # the task's own training recipe
    forget_class: int | None = None  # only for methods that need "class_id"
    pixel_range: tuple[Tensor, Tensor] | None = (
        None  # (C,), (C,): lowest, highest valid value after normalisation
    )
    log: Callable[[str, float], None] = _ignore


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """What the registry knows of a method."""

    name: str
    needs: frozenset[str]
    scenarios: frozenset[str]
    paper: str
    version: int
    reference: Mapping[str, Any] = field(
        default_factory=dict
    )  # fields that profile `reference` sets otherwise
    stochastic: bool = (
        True  # False: two seeds give one result; a property `stochastic` of the method overrides it
    )
    search: Mapping[str, Any] = field(default_factory=dict)  # the fields that a search varies, and over what

    @property
    def zero_shot(self) -> bool:
        """True where the method sees nothing of the retained data. Derived, so that it cannot lie."""
        return "retain" not in self.needs


class Method(Protocol):
    """An unlearning method: a frozen dataclass that turns a model into one that has forgotten."""

    info: MethodInfo

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module: ...


METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type)


def method(
    name: str,
    *,
    needs: set[str],
    scenarios: set[str],
    paper: str = "",
    version: int = 1,
    reference: Mapping[str, Any] | None = None,
    stochastic: bool = True,
    search: Mapping[str, Any] | None = None,
) -> Callable[[M], M]:
    """Register a frozen dataclass as the unlearning method `name`.

    `needs` is a subset of {"forget", "retain", "class_id"}. Raise `version` when the algorithm changes: it is
    part of a run's name, so old rows stay apart from new ones. `reference` holds the fields that differ in
    profile `reference`, i.e. the quirks of the released code. `search` says what a search varies where
    suites/spaces.toml has no row: `{"lr": {"low": 1e-4, "high": 1.0, "log": True}, "epochs": [1, 5]}`.
    """

    def register(cls: M) -> M:
        info = MethodInfo(
            name,
            frozenset(needs),
            frozenset(scenarios),
            paper,
            version,
            dict(reference or {}),
            stochastic,
            dict(search or {}),
        )
        _check_declaration(cls, info)
        cls.info = info  # type: ignore[attr-defined]
        METHODS[name] = cls
        return cls

    return register


def _check_declaration(cls: type, info: MethodInfo) -> None:
    where = f"{cls.__module__}.{cls.__qualname__}"
    if info.name in RESERVED:
        raise ValueError(f"{where}: the name {info.name!r} is reserved for a reference; choose another")
    if info.name in METHODS:
        taken = METHODS[info.name]
        raise ValueError(
            f"{where}: the name {info.name!r} is taken by {taken.__module__}.{taken.__qualname__}"
        )
    if unknown := info.needs - NEEDS:
        raise ValueError(f"{where}: needs has {sorted(unknown)}, expected a subset of {sorted(NEEDS)}")
    if not info.scenarios:
        raise ValueError(f"{where}: scenarios is empty, expected at least one, e.g. {{'full_class'}}")
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(
            f"{where}: expected a frozen dataclass; put @dataclass(frozen=True) under @method(...)"
        )
    names = {f.name: f for f in dataclasses.fields(cls)}
    for f in names.values():
        if f.default is dataclasses.MISSING or not isinstance(f.default, FIELD_TYPES):
            raise ValueError(f"{where}.{f.name}: expected a default of type bool, int, float, str or None")
    for what, given in (("reference", info.reference), ("search", info.search)):
        if missing := set(given) - set(names):
            raise ValueError(f"{where}: {what} sets {sorted(missing)}, which are no fields of it")


def check_fields(hyper: Any, **bounds: str) -> None:
    """Refuse NaN and out-of-range hyper-parameters; call it from `__post_init__`.

    Bounds read like `lr=">= 0"`, `sigma="> 0"`, `mode="train | eval"`.
    """
    for f in dataclasses.fields(hyper):
        value = getattr(hyper, f.name)
        bound = bounds.get(f.name)
        if isinstance(value, float) and value != value:
            raise ValueError(f"{_label(hyper, f.name)} is NaN, expected a number {bound or ''}".rstrip())
        if bound and value is not None and not _within(value, bound):
            raise ValueError(f"{_label(hyper, f.name)} is {value!r}, expected {bound}")


def _within(value: Any, bound: str) -> bool:
    if bound.startswith((">", "<")):
        sign, number = bound.split()
        if isinstance(value, str):
            return False
        limit = float(number)
        compare = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}[sign]
        return bool(compare(value, limit))
    return value in [choice.strip() for choice in bound.split("|")]


def _label(hyper: Any, name: str) -> str:
    info = getattr(type(hyper), "info", None)
    return f"{info.name if info else type(hyper).__name__}.{name}"

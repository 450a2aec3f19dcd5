"""The checks pass for everything shipped, and each of them fails for what it is there to find."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import conformance, registry, small_world
from harness.registry import Catalogue

Body = Callable[..., Any]


@pytest.mark.parametrize("kind", ["methods", "datasets", "models", "scenarios", "metrics"])
def test_everything_shipped_conforms(catalogue: Catalogue, kind: str) -> None:
    names = sorted(getattr(catalogue, kind))
    findings = [f for f in conformance.check(catalogue, names) if f.kind == kind]
    assert {f.name for f in findings} == set(names)
    assert [f for f in findings if f.outcome == "failed"] == []
    assert any(f.outcome == "passed" for f in findings)


def outcome(catalogue: Catalogue, name: str, claim: str) -> tuple[str, str]:
    found = [f for f in conformance.check(catalogue, [name]) if claim in f.claim]
    assert len(found) == 1
    return found[0].outcome, found[0].why


def shaken(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=ctx.generator), alpha=0.01)
    return model


def test_a_sound_method_passes(catalogue: Catalogue, extra_method: Callable[..., str]) -> None:
    name = extra_method(shaken)
    findings = conformance.check(catalogue, [name])
    assert {f.outcome for f in findings} == {"passed", "skipped"}
    assert next(f.why for f in findings if f.claim.startswith("is skipped outside")).startswith(
        "it does not claim"
    )


def uses_undeclared(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
    next(iter(retain))
    return model


def gives_nan(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    return model


def changes_shape(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
    return nn.Sequential(model, nn.Linear(3, 4))


counter = itertools.count()


def ignores_the_seed(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
    with torch.no_grad():
        next(iter(model.parameters())).add_(next(counter))
    return model


def draws_nothing(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
    return model


def spoils_the_data(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
    forget.images[0, 0, 0, 0] ^= 255
    return model


@pytest.mark.parametrize(
    ("body", "info", "claim", "why"),
    [
        (uses_undeclared, {}, "everything undeclared", "NoneType"),
        (gives_nan, {}, "finite", "not finite"),
        (changes_shape, {}, "finite", "names or shapes changed"),
        (ignores_the_seed, {}, "same result for the same seed", "two runs with one seed differ"),
        (draws_nothing, {}, "another result for another seed", "two seeds gave one result"),
        (shaken, {"stochastic": False}, "another result for another seed", "two seeds differ"),
        (spoils_the_data, {}, "data untouched", "changed in place"),
        (lambda model, forget, retain, ctx: None, {}, "everything undeclared", "returned NoneType"),
    ],
)
def test_what_does_not_conform_is_found(
    catalogue: Catalogue,
    extra_method: Callable[..., str],
    body: Body,
    info: dict[str, Any],
    claim: str,
    why: str,
) -> None:
    name = extra_method(body, **info)
    try:
        state, reason = outcome(catalogue, name, claim)
    finally:
        small_world.small_data.cache_clear()
    assert state == "failed" and why in reason


def test_a_wrong_signature_is_found(catalogue: Catalogue, extra_method: Callable[..., str]) -> None:
    name = extra_method(shaken)
    catalogue.methods[name].__call__ = lambda self, model, data: model
    state, reason = outcome(catalogue, name, "takes (model")
    assert state == "failed" and "expected ('model', 'forget', 'retain', 'ctx')" in reason


def test_only_what_a_plugin_registers_is_checked_with_it(tmp_path: Path) -> None:
    file = tmp_path / "only_mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom methods.api import method\n"
        "@method('only_mine', needs={'forget'}, scenarios={'random'}, stochastic=False)\n"
        "@dataclass(frozen=True)\nclass Mine:\n"
        "    def __call__(self, model, forget, retain, ctx):\n        return model\n"
    )
    catalogue = registry.load([file])
    assert catalogue.origins["methods", "only_mine"] == str(file)
    assert catalogue.origins["methods", "jit"].startswith("efface ")
    assert {f.name for f in conformance.check(catalogue)} == {"only_mine"}
    assert registry.load([file]).origins["methods", "only_mine"] == str(file)

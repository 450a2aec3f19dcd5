"""From `--weights` to the files that training starts from: found, checked, and never mixed in one store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Misuse, did_you_mean
from harness.node_data import pinned, weights_file
from harness.plan import Plan
from harness.spec import TrainSpec
from harness.store import Store
from harness.urls import is_url
from tasks.images import DataError
from tasks.recipes import Recipe, recipe_by_id

if TYPE_CHECKING:
    from harness.registry import Catalogue
    from harness.suite import Suite
    from tasks.pretrained import Checkpoint

Files = tuple[tuple[str, str], ...]  # published weights by name, and the file that holds them
RGB = 3


@dataclass(frozen=True)
class Need:
    """Published weights that a suite starts from, and a training that does."""

    name: str  # timm's
    model: str
    recipe: Recipe
    missing: bool  # its original is not in the store yet


def needs(plan: Plan) -> list[Need]:
    """What a plan's originals and true retrains start from, each once."""
    jobs = [job.spec for job in plan.jobs if isinstance(job.spec, TrainSpec) and job.spec.start == "fresh"]
    found: dict[str, Need] = {}
    for spec, missing in [(s, True) for s in jobs] + [(w.spec.original, False) for w in plan.wanted]:
        recipe = recipe_by_id(spec.recipe)
        if recipe.pretrained is not None:
            found.setdefault(recipe.pretrained, Need(recipe.pretrained, spec.model, recipe, missing))
    return list(found.values())


def of_suite(suite: Suite, catalogue: Catalogue) -> list[Need]:
    """What the originals of a suite start from, whatever is in a store."""
    found: dict[str, Need] = {}
    for row in suite.tasks:
        for model in row.models:
            recipe = recipe_by_id(catalogue.find_recipe(row.dataset, model, suite.profile))
            if recipe.pretrained is not None:
                found.setdefault(recipe.pretrained, Need(recipe.pretrained, model, recipe, missing=True))
    return list(found.values())


def parse(typed: Sequence[str], wanted: Sequence[Need]) -> dict[str, str]:
    """`--weights FILE` or `NAME=FILE`, where NAME is timm's or the model's, as files by timm's name. A FILE
    may be a URL.
    """
    known = {need.name: need.name for need in wanted} | {need.model: need.name for need in wanted}
    given: dict[str, str] = {}
    for text in typed:
        name, sign, file = text.partition("=")
        if not sign or is_url(name) or Path(text).expanduser().exists():
            name, file = "", text
        if not known:
            raise Misuse(f"--weights {text}: this suite starts from no published weights; leave it out")
        if not name and len(wanted) > 1:
            names = " or ".join(f"{need.name}=" for need in wanted)
            raise Misuse(f"--weights {text}: this suite starts from several; say which, as in {names}{text}")
        if name and name not in known:
            raise Misuse(f"--weights {text}: no weights {name!r} are wanted; {did_you_mean(name, known)}")
        given[known[name] if name else wanted[0].name] = (
            pinned(file) if is_url(file) else str(Path(file).expanduser().resolve())
        )
    return given


def settle(
    plan: Plan, store: Store, catalogue: Catalogue, typed: Sequence[str] = (), download: bool = False
) -> Files:
    """A checked file for all weights that the plan is about to start from; Misuse where one is missing, does
    not fit, or is not what the store has results of.
    """
    wanted = needs(plan)
    given = parse(typed, wanted)
    held = _digests(store)
    files: list[tuple[str, str]] = []
    for need in wanted:
        if not need.missing and need.name not in given:
            continue
        path = given.get(need.name) or str(find(need, download))
        checkpoint = _read(need.recipe, path)
        _check_fit(need, checkpoint, catalogue)
        if (known := held.get(need.name, checkpoint.digest)) != checkpoint.digest:
            raise Misuse(
                f"weights {path} (digest {checkpoint.digest}) are not those that {store.url} has results of "
                f"(digest {known}); give the same file as before, or another --store"
            )
        files.append((need.name, path))
    return tuple(files)


def find(need: Need, download: bool = False) -> Path:
    """Where the hub's client keeps the weights; fetched first where that is asked for."""
    from tasks import pretrained

    try:
        if found := pretrained.downloaded(need.name):
            return found
        if download:
            return pretrained.download(need.name)
    except DataError as error:
        raise Misuse(str(error)) from None
    raise Misuse(missing(need))


def missing(need: Need) -> str:
    """What to say where weights are not there."""
    from tasks.pretrained import FILE, how

    return (
        f"{need.model} starts from the weights timm/{need.name}: found no {FILE} of them among what was "
        f"downloaded before; {how(need.name)}"
    )


def read_weights(recipe: Recipe, files: Files) -> Checkpoint:
    """The weights that a recipe starts from, out of the files that a worker was told of."""
    path = dict(files).get(str(recipe.pretrained))
    if path is None:
        path = str(find(Need(str(recipe.pretrained), "the model", recipe, missing=True)))
    return _read(recipe, path)


def _read(recipe: Recipe, path: str) -> Checkpoint:
    from tasks.pretrained import read_checkpoint

    try:
        checkpoint = read_checkpoint(weights_file(path))
    except DataError as error:
        raise Misuse(str(error)) from None
    if recipe.weights_digest not in (None, checkpoint.digest):
        raise Misuse(
            f"weights {path} have digest {checkpoint.digest}, recipe {recipe.name} is pinned to "
            f"{recipe.weights_digest}; give the file that it was pinned to"
        )
    return checkpoint


def _check_fit(need: Need, checkpoint: Checkpoint, catalogue: Catalogue) -> None:
    """Names and shapes against the model, on no memory. The number of classes is the data's: the worker's to
    check.
    """
    import torch

    from tasks.pretrained import mismatch
    from tasks.training import last_linear

    side = need.recipe.size
    if side is None:
        return  # the data's side, which only a worker knows
    build, shape = catalogue.models[need.model].build, (RGB, side, side)
    with torch.device("meta"):
        head = checkpoint.tensors.get(f"{last_linear(build(1, shape))}.bias")
        model = build(1 if head is None else len(head), shape)
    if why := mismatch(model, checkpoint.tensors, need.recipe.head):
        raise Misuse(
            f"weights {checkpoint.path} do not fit {need.model}: {why}; expected those of timm/{need.name}"
        )


def _digests(store: Store) -> Mapping[str, str]:
    """Of each published weights the digest that the store has results of."""
    from harness.rows import FINISHED

    found: dict[str, str] = {}
    for row in store.rows(["recipe", "weights_digest", "status"]).to_pylist():
        if row["weights_digest"] is None or row["status"] not in FINISHED:
            continue
        if name := _pretrained(row["recipe"]):
            found[name] = row["weights_digest"]
    return found


def _pretrained(recipe_id: str) -> str | None:
    try:
        return recipe_by_id(recipe_id).pretrained
    except ValueError:  # the row was changed since, so that nothing of it is mixed with what comes
        return None

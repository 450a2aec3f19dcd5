"""What a worker keeps between runs, all of it bounded: data sets, originals, outputs and splits."""

from __future__ import annotations

import copy
import math
import socket
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from harness import artifacts
from harness.errors import Misuse
from harness.forget_sets import cut, share_held_out
from harness.node_data import Source, data_folder
from harness.patience import Patience
from harness.registry import Catalogue
from harness.spec import Task, TrainSpec, derive_seed
from harness.store import Store
from harness.weights import read_weights
from tasks.api import Data, DataError, Outputs, Split
from tasks.loaders import TensorBatches, View, batches_of
from tasks.metrics.entropy import entropy
from tasks.pretrained import Checkpoint
from tasks.recipes import Recipe, recipe_by_id

T = TypeVar("T")
MODELS_BYTES = 4 << 30
OUTPUTS_BYTES = 1 << 30
HELD_BYTES = 1 << 28  # pixels of lazily decoded images that are held all the same, e.g. under --limit
SPLITS = 512
CPU_BATCH_VALUES = 64 * 3 * 32 * 32  # of a batch that a CPU scores: input values


@dataclass(frozen=True)
class Settings:
    """How a worker works; plain data, so that it can be sent anywhere."""

    store: str
    data_dir: str | None = None
    plugins: tuple[str, ...] = ()
    threads: int = 1
    device: str = "auto"  # auto | cpu | cuda
    eval_batch: int = 512
    exclusive: bool = True  # one run at a time on this device
    keep_weights: bool = False
    keep_outputs: bool = False  # of runs, above `outputs_limit` too
    outputs_limit: int = 50 << 20  # bytes a run
    limit: int | None = None  # images per half, for trying things out
    weights: tuple[tuple[str, str], ...] = ()  # published weights by name, and the file that holds them
    source: Source | None = None  # of the data, instead of a data_dir
    digests: tuple[tuple[str, str], ...] = ()  # of each data set, as the driver has it
    store_patience: float = 600.0  # seconds to wait for a store that is away

    def folder(self, dataset: str) -> Path | None:
        """What a data set is given as its data folder on this node, fetched there if need be."""
        return data_folder(dataset, self.source.folder(dataset) if self.source else self.data_dir)


class Cache(Generic[T]):
    """The most recently used values, as many as fit in `limit` units of `size`."""

    def __init__(self, limit: int, size: Callable[[T], int] = lambda _: 1) -> None:
        self.limit, self.size = limit, size
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._used = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        value = make()
        self._held[key] = value
        self._used += self.size(value)
        while self._used > self.limit and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._used -= self.size(dropped)
        return value

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held


@dataclass(frozen=True)
class Loaded:
    """A data set on a device, with its digest."""

    data: Data
    digest: str


def read_data(
    catalogue: Catalogue,
    dataset: str,
    data_dir: str | Path | None,
    limit: int | None = None,
    source: Source | None = None,
) -> Data:
    """A data set from its folder, or from where this node has fetched it to. `imagefolder:pets` lies in the
    folder `pets` of the data folder.
    """
    info = catalogue.dataset(dataset)
    data_dir = source.folder(dataset) if source else data_dir
    try:
        data: Data = info.load(data_folder(dataset, data_dir))
    except DataError as error:
        raise Misuse(str(error)) from error  # the cause tells what is missing from what is damaged
    return data.limit(limit) if limit else data


def model_bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


class Workspace:
    """One worker's device, store, and everything it has loaded so far."""

    def __init__(self, settings: Settings, catalogue: Catalogue, store: Store | None = None) -> None:
        self.settings, self.catalogue = settings, catalogue
        self.store = store or Store(settings.store, Patience(settings.store_patience))
        self.device = pick_device(settings.device)
        torch.set_num_threads(settings.threads)
        self._data: dict[str, Loaded] = {}
        self._originals: Cache[nn.Module] = Cache(MODELS_BYTES, model_bytes)
        self._outputs: Cache[dict[str, Outputs]] = Cache(OUTPUTS_BYTES, artifacts.outputs_bytes)
        self._splits: Cache[Split] = Cache(SPLITS)
        self._published: Cache[Checkpoint] = Cache(1)
        self._warm: set[tuple[str, str]] = set()
        _import_training()

    # -------------------- data

    @property
    def datasets(self) -> frozenset[str]:
        """Those that are loaded."""
        return frozenset(tuple(self._data))

    def loaded(self, dataset: str) -> Loaded:
        if dataset not in self._data:
            told = self.settings
            data = read_data(self.catalogue, dataset, told.data_dir, told.limit, told.source)
            digest = self._agreed(dataset, data.digest())
            train, test = (half.held(HELD_BYTES).to(self.device) for half in (data.train, data.test))
            self._data[dataset] = Loaded(replace(data, train=train, test=test), digest)
        return self._data[dataset]

    def _agreed(self, dataset: str, found: str) -> str:
        expected = dict(self.settings.digests).get(dataset, found)
        if found != expected:
            raise Misuse(
                f"data set {dataset} on {socket.gethostname()} has digest {found}, the driver's {expected}; "
                "give all nodes the same files, or one source for all with --data URL"
            )
        return found

    def batches(
        self, dataset: str, half: str, view: View, positions: Any = None, size: int = 128, seed: int = 0
    ) -> TensorBatches:
        """Batches over the `train` or `test` half, or over the given positions of it."""
        images = getattr(self.loaded(dataset).data, half)
        return batches_of(images.images, images.labels, view, positions=positions, batch_size=size, seed=seed)

    def split(self, task: Task, original: TrainSpec | None, forget_seed: int) -> Split:
        """Which images are forgotten: the same for every method, parameter and (but for worst_case) model."""
        scenario = self.catalogue.scenarios[task.scenario]
        key = (
            task,
            forget_seed if scenario.depends_on_seed else 0,
            original if scenario.uses_original else self._share_held_out(original),
        )
        return self._splits.get(key, lambda: self._cut(task, original, forget_seed))

    def _cut(self, task: Task, original: TrainSpec | None, forget_seed: int) -> Split:
        data = self.loaded(task.dataset).data
        scenario = self.catalogue.scenarios[task.scenario]
        entropies = None
        if scenario.uses_original:
            if original is None:
                raise ValueError(f"{task.label}: the split depends on the original model, but none was given")
            entropies = entropy(self.outputs(original)["train"].logits)
        return cut(task, scenario, data, forget_seed, self._share_held_out(original), entropies)

    def _share_held_out(self, original: TrainSpec | None) -> float | None:
        return share_held_out(self.recipe(original)) if original else None

    # -------------------- models

    def recipe(self, spec: TrainSpec) -> Recipe:
        return recipe_by_id(spec.recipe)

    def input_shape(self, spec: TrainSpec) -> tuple[int, int, int]:
        """(C, H, W) as the model receives it, after any resize."""
        channels, height, width = self.loaded(spec.dataset).data.shape
        side = self.recipe(spec).size
        return (channels, side, side) if side else (channels, height, width)

    def eval_batch(self, spec: TrainSpec) -> int:
        """Images a forward pass when scoring: on a CPU no more than its caches hold, which is faster."""
        most = self.settings.eval_batch
        if self.device.type != "cpu":
            return most
        return min(most, max(16, CPU_BATCH_VALUES // math.prod(self.input_shape(spec))))

    def new_model(
        self, spec: TrainSpec, seed: int, change: Callable[[nn.Module], nn.Module] = lambda model: model
    ) -> nn.Module:
        """Fresh weights, and what `change` does to them, drawn from `seed` alone; the global generators are
        left as they were.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return change(self._build(spec)).to(self.device)

    def published(self, recipe: Recipe) -> Checkpoint:
        """The published weights that a recipe starts from, out of the file that this worker was told of."""
        return self._published.get(recipe.pretrained, lambda: read_weights(recipe, self.settings.weights))

    def _build(self, spec: TrainSpec) -> nn.Module:
        classes = len(self.loaded(spec.dataset).data.classes)
        model: nn.Module = self.catalogue.models[spec.model].build(classes, self.input_shape(spec))
        return model

    def original(self, spec: TrainSpec) -> nn.Module:
        """A trained model from the store, in eval mode. Shared: copy it before changing it."""
        return self._originals.get(spec.id, lambda: self._load(spec))

    def private_copy(self, spec: TrainSpec) -> nn.Module:
        return copy.deepcopy(self.original(spec)).eval()

    def _load(self, spec: TrainSpec) -> nn.Module:
        weights = artifacts.load_weights(self.store, spec.id)
        with torch.device("meta"):
            model = self._build(spec)  # no time spent on weights that are about to be replaced
        artifacts.fill(model, weights, f"checkpoint {spec.id} ({spec.label})")
        if any(t.is_meta for t in model.buffers()):  # a buffer that no checkpoint holds
            model = artifacts.fill(self.new_model(spec, 0), weights, f"checkpoint {spec.id}")
        return model.to(self.device).eval()

    def outputs(self, spec: TrainSpec) -> dict[str, Outputs]:
        """Stored outputs of a trained model on both halves."""
        return self._outputs.get(spec.id, lambda: artifacts.load_outputs(self.store, spec.id))

    def remember(self, spec: TrainSpec, model: nn.Module, halves: dict[str, Outputs]) -> None:
        """Keep what was just made, so that this worker need not read it back."""
        if spec.without is None:
            self._originals.get(spec.id, lambda: model)
        self._outputs.get(spec.id, lambda: halves)

    def warm_up(self, spec: TrainSpec, model: nn.Module, batches: TensorBatches) -> None:
        """One throw-away training step of each optimiser, so that no method pays for lazy initialisation."""
        if (spec.dataset, spec.model) in self._warm:
            return
        trial = copy.deepcopy(model).train()
        positions = torch.arange(min(8, batches.num_examples))
        x, y = next(iter(batches.subset(positions)))
        for kind in (torch.optim.SGD, torch.optim.Adam):
            optimizer = kind(trial.parameters(), lr=1e-4)
            F.cross_entropy(trial(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        self.synchronize()
        self._warm.add((spec.dataset, spec.model))

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def generator(self, seed: int, stream: Any, *parts: Any) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derive_seed(seed, stream, *parts))


def _import_training() -> None:
    """The first step of an optimiser imports a compiler, for seconds: before the first run, not in it."""
    weight = nn.Parameter(torch.zeros(1))
    for kind in (torch.optim.SGD, torch.optim.Adam):
        optimizer = kind([weight], lr=0.0)
        weight.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where torch finds it, whatever a scheduler promised."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise Misuse(
            "--device cuda: torch finds no CUDA device here; type --device cpu, or see `efface doctor`"
        )
    return torch.device(name)

"""What a store holds for a figure: rows, outputs and splits of the runs that a suite asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from harness import artifacts, results
from harness.errors import Misuse
from harness.plan import Plan
from harness.registry import Catalogue
from harness.spec import REFERENCES, RunSpec, TrainSpec
from harness.store import Store
from harness.suite import Wanted
from harness.workspace import Loaded, Settings, Workspace, read_data
from tasks.api import Data, ImageSet, Outputs, Split

Halves = dict[str, Outputs]
FLAGS = ("method", "model", "dataset", "scenario", "target")


class Held:
    """A suite, or a part of it, with all that a store holds of it.

    `typed` is the suite as the user gave it, for messages that say what to type.
    """

    def __init__(
        self, plan: Plan, store: Store, catalogue: Catalogue, typed: str, data_dir: str | None = None
    ) -> None:
        self.plan, self.store, self.catalogue, self.typed = plan, store, catalogue, typed
        self.data_dir = data_dir
        self.wanted = list({wanted.spec.id: wanted for wanted in plan.wanted}.values())
        self.rows = results.of_suite(results.load(store), [wanted.spec.id for wanted in self.wanted])
        self.rows = self.rows.set_index("run_id", drop=False)
        self._space: LabelSpace | None = None

    # -------------------- rows

    def of(self, wanted: Sequence[Wanted], figure: str) -> pd.DataFrame:
        """The rows of these runs, in their order. Misuse where one has not been run."""
        ids = [item.spec.id for item in wanted]
        missing = [item for item in wanted if item.spec.id not in self.rows.index]
        if missing:
            raise Misuse(
                f"figure {figure}: {len(missing)} of {len(ids)} runs of suite {self.plan.suite.name} are not "
                f"in {self.store.url} (first: {missing[0].spec.label}); type: {self._sweep(missing)}"
            )
        return self.rows.loc[ids]

    def _sweep(self, missing: Iterable[Wanted], more: str = "") -> str:
        """The command that makes them and their references, narrowed to what they have in common."""
        parts = [f"efface sweep {self.typed} --store {self.store.url}"]
        lacking = list(missing)
        for name in FLAGS:
            known, needed = (
                {str(_fact(item.spec, name)) for item in some if _fact(item.spec, name) is not None}
                for some in (self.wanted, lacking)
            )
            if name == "method":
                needed |= known & set(REFERENCES)  # what a figure compares with
            if needed and needed < known and len(needed) <= 5:
                parts.append(f"--{name}s {','.join(sorted(needed))}")
        return " ".join(parts) + more

    # -------------------- outputs

    def outputs(self, wanted: Wanted, figure: str) -> Halves:
        """What the unlearned model said of every image."""
        row = self.of([wanted], figure).iloc[0]
        if row["status"] != "ok":
            raise Misuse(
                f"figure {figure}: {wanted.spec.label} {row['status']} ({row['error_message']}), so "
                "there are no outputs of it to draw; see "
                f"efface show {wanted.spec.id} --store {self.store.url}"
            )
        if not self.store.has_outputs(wanted.spec.id):
            raise Misuse(
                f"figure {figure}: the outputs of {wanted.spec.label} were not kept (above 50 MB a run); "
                f"type: efface sweep {self.typed} --store NEW --keep-outputs"
            )
        return artifacts.load_outputs(self.store, wanted.spec.id)

    def reference(self, spec: TrainSpec, figure: str) -> Halves:
        """The same of an original or a retrained model."""
        if not self.store.has_outputs(spec.id):
            method = "retrain" if spec.without else "baseline"
            has = any(method in row.methods for row in self.plan.suite.tasks)
            cure = f"type: efface sweep {self.typed} --store {self.store.url}"
            raise Misuse(
                f"figure {figure}: the outputs of {spec.label} are not in {self.store.url}; "
                + (cure if has else f"add {method} to the methods of the suite, then {cure}")
            )
        return artifacts.load_outputs(self.store, spec.id)

    # -------------------- data and splits

    def split(self, wanted: Wanted, halves: Halves) -> Split:
        """The split of a run, cut again and compared with the digest in its row."""
        self._space = self._space or LabelSpace(self)
        return self._space.split_of(wanted, halves)

    def data(self, wanted: Wanted) -> Data:
        """The data set of a run, which must be the one that its row came from."""
        data = read_data(self.catalogue, wanted.spec.task.dataset, self.data_dir)
        expected = str(self.rows.loc[wanted.spec.id, "data_digest"])
        if data.digest() != expected:
            raise Misuse(
                f"data set {wanted.spec.task.dataset} is not the one that {self.store.url} has results for "
                f"(digest {data.digest()}, its rows have {expected}); sweep into another --store"
            )
        return data


def _fact(spec: RunSpec, name: str) -> Any:
    return spec.method if name == "method" else getattr(spec.task, name)


class LabelSpace(Workspace):
    """A workspace to cut splits in: its data sets are the labels that stand beside stored outputs.

    Only where a data set's groups are finer than its classes are its files read.
    """

    def __init__(self, held: Held) -> None:
        told = Settings(held.store.url, data_dir=held.data_dir, device="cpu")
        super().__init__(told, held.catalogue, held.store)
        self.rows = held.rows

    def split_of(self, wanted: Wanted, halves: Halves) -> Split:
        """The split of one run. Misuse where it is not the one that the run's row names."""
        spec = wanted.spec
        if spec.task.dataset not in self._data:
            self._data[spec.task.dataset] = Loaded(self._labels(spec.task.dataset, halves), "")
        split = self.split(spec.task, spec.original, spec.forget_seed)
        expected = str(self.rows.loc[spec.id, "split_digest"])
        if split.digest() != expected:
            raise Misuse(
                f"the split of {spec.label} cannot be cut again (digest {split.digest()}, its row has "
                f"{expected}): the store was written by another version or from other data; sweep into a new "
                "--store"
            )
        return split

    def _labels(self, dataset: str, halves: Halves) -> Data:
        info = self.catalogue.dataset(dataset)
        count = max(len(outputs) for outputs in halves.values())
        if info.groups is None or info.classes is not None:
            data = read_data(self.catalogue, dataset, self.settings.data_dir)
            return data.limit(count) if count < max(len(data.train), len(data.test)) else data
        train, test = (_image_set(halves[half].labels) for half in ("train", "test"))
        return Data(train, test, info.groups, info.groups, official=False)


def _image_set(labels: Any) -> ImageSet:
    """Labels without their images: all that a scenario looks at."""
    ids = torch.from_numpy(np.asarray(labels, dtype=np.int64).copy())
    return ImageSet(torch.empty(len(ids), 0, 0, 0, dtype=torch.uint8), ids, ids)


def settings_of(wanted: Iterable[Wanted]) -> dict[tuple[Any, ...], list[Wanted]]:
    """Runs of methods, not of references, by (data set, model, scenario, target, count)."""
    groups: dict[tuple[Any, ...], list[Wanted]] = {}
    for item in wanted:
        if item.spec.method not in REFERENCES:
            task = item.spec.task
            key = (task.dataset, task.model, task.scenario, task.target, task.count)
            groups.setdefault(key, []).append(item)
    return groups

"""Trials of searches: one Parquet file for each search, STORE/trials/<search>.parquet, a row a trial.

The file is rewritten under another name and renamed at most once a second, so it can be read at any moment,
and it is all that a search needs to go on. `pandas.read_parquet(store + "/trials")` reads every search at
once.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from harness.rows import FINISHED, Row
from harness.store import Store, StoreError

SCHEMA_VERSION = 1
FLUSH_SECONDS = 1.0

# name, type, meaning
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("search_id", pa.string(), "16 hex digits that name the search by its content"),
    ("number", pa.int64(), "of the trial in its search, from 0, in the order in which they were drawn"),
    ("generation", pa.int64(), "of the trial, where the sampler breeds them (nsga2), from 0"),
    ("status", pa.string(), "ok | diverged | failed"),
    ("suite", pa.string(), "suite that the search is for"),
    ("profile", pa.string(), "corrected | reference"),
    ("dataset", pa.string(), "data set"),
    ("model", pa.string(), "architecture"),
    ("scenario", pa.string(), "scenario"),
    ("target", pa.string(), "what is forgotten while searching; several, comma-separated, one at a time"),
    ("count", pa.int64(), "images to forget, where the scenario counts"),
    ("method", pa.string(), "method"),
    ("method_version", pa.int64(), "version of the method's algorithm"),
    ("train_seed", pa.int64(), "seed of the original model"),
    ("seeds", pa.string(), "seeds of the trial's runs, comma-separated"),
    ("sampler", pa.string(), "tpe | nsga2 | random"),
    ("sampler_seed", pa.int64(), "seed of the sampler"),
    ("objective", pa.string(), "what is minimised, by name"),
    ("judged_on", pa.string(), "tuning half | test set | forget set"),
    ("value", pa.float64(), "the objective, penalties included; of several objectives the mean gap"),
    ("values", pa.string(), "each objective by name, JSON"),
    ("gap_retain_acc", pa.float64(), "mean distance of retain_acc to retrain, points"),
    ("gap_forget_acc", pa.float64(), "mean distance of forget_acc to retrain, points"),
    ("gap_mia", pa.float64(), "mean distance of mia to retrain, points"),
    ("retain_acc", pa.float64(), "mean over the seeds, on what the objective is judged on"),
    ("forget_acc", pa.float64(), "mean over the seeds"),
    ("mia", pa.float64(), "mean over the seeds"),
    ("collapsed", pa.bool_(), "retain_acc fell below half of the original's: 100 points were added"),
    ("drawn", pa.string(), "what the sampler drew, JSON"),
    ("params", pa.string(), "all hyper-parameters of the runs, JSON"),
    ("seconds", pa.float64(), "of the method alone, mean over the seeds"),
    ("device_seconds", pa.float64(), "of the whole trial: CPU seconds of its worker, or wall on a GPU"),
    ("wall_seconds", pa.float64(), "of the whole trial in its worker"),
    ("runs", pa.string(), "run ids, comma-separated"),
    ("run_scores", pa.string(), "the scores of each run, by its id, JSON"),
    ("reused", pa.int64(), "runs of it that were in the store already"),
    ("device", pa.string(), "e.g. cpu, NVIDIA H200"),
    ("host", pa.string(), "where it ran"),
    ("error_type", pa.string(), "class of the error"),
    ("error_message", pa.string(), "what went wrong"),
    ("started_at", pa.timestamp("us", tz="UTC"), "when it started"),
    ("data_digest", pa.string(), "digest of the data set"),
    ("code", pa.string(), "digest of efface and plugins: what failed is tried again once they have changed"),
    ("efface_version", pa.string(), "version of efface"),
    ("git_commit", pa.string(), "commit of the checkout, where there is one"),
    ("git_dirty", pa.bool_(), "the checkout had uncommitted changes"),
    ("torch_version", pa.string(), "version of torch"),
    ("schema_version", pa.int64(), "version of this schema"),
)
SCHEMA = pa.schema([(name, kind) for name, kind, _ in COLUMNS])
NAMES = frozenset(SCHEMA.names)


def describe() -> list[Mapping[str, str]]:
    """The documented schema, for `efface list trials`."""
    return [{"column": name, "type": str(kind), "meaning": text} for name, kind, text in COLUMNS]


def read_search(store: Store, search_id: str) -> list[Row]:
    """The trials of one search, in the order in which they were drawn."""
    if f"{search_id}.parquet" not in store.names("trials"):
        return []
    rows = _read(store, f"{search_id}.parquet").to_pylist()
    return sorted(rows, key=lambda row: int(row["number"]))


def read_all(store: Store) -> pa.Table:
    """The trials of every search in a store."""
    parts = [_read(store, name) for name in store.names("trials") if name.endswith(".parquet")]
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()


def _read(store: Store, name: str) -> pa.Table:
    try:
        found = pq.read_table(io.BytesIO(store.read(f"trials/{name}")))
    except (pa.ArrowInvalid, pa.ArrowException) as error:
        raise StoreError(
            f"{store.url}/trials/{name} is no readable Parquet file ({str(error).splitlines()[0]}); "
            "move it out of trials/: what it held is tried again"
        ) from None
    arrays = [
        found[f.name].cast(f.type) if f.name in found.schema.names else pa.nulls(len(found), f.type)
        for f in SCHEMA
    ]
    return pa.table(arrays, schema=SCHEMA)


def finished_runs(rows: Sequence[Row]) -> dict[str, Row]:
    """The scores of every run that trials have brought to an end, by its id."""
    found: dict[str, Row] = {}
    for row in rows:
        found |= json.loads(row["run_scores"] or "{}")
    return {run_id: scores for run_id, scores in found.items() if scores["status"] in FINISHED}


class TrialWriter:
    """The one writer of one search; a trial is safe once `flush` has renamed the file."""

    def __init__(self, store: Store, search_id: str, rows: Sequence[Row]) -> None:
        self.store, self.name = store, f"trials/{search_id}.parquet"
        self.rows = list(rows)
        self._pending = False
        self._due = 0.0

    def add(self, row: Row) -> None:
        """Take a trial, in the place of an earlier one of its number; `flush` makes it safe."""
        if stray := set(row) - NAMES:
            raise KeyError(f"trial {row.get('number')} has columns {sorted(stray)} that the schema lacks")
        self.rows = [known for known in self.rows if known["number"] != row["number"]]
        self.rows.append({"schema_version": SCHEMA_VERSION, **row})
        self._pending = True

    def flush_if_due(self) -> None:
        if self._pending and time.monotonic() >= self._due:
            self.flush()

    def flush(self, wait: bool = True) -> None:
        """Make every trial so far safe."""
        if self._pending:
            self.store.require_held(wait)
            buffer = io.BytesIO()
            table = pa.Table.from_pylist(self.rows, schema=SCHEMA)
            pq.write_table(table, buffer, compression="zstd")
            self.store.write(self.name, buffer.getvalue(), wait)
            self._pending = False
        self._due = time.monotonic() + FLUSH_SECONDS

"""The store: a folder, or any URL that fsspec reads, with rows, checkpoints, outputs and logs.

    STORE/efface.json               says that this is a store, and of which format
    STORE/rows/*.parquet            one row a run, in segments of at most 1,000 rows
    STORE/models/<id>.safetensors   weights, with <id>.json beside them
    STORE/outputs/<id>.parquet      logits of every training and test image, float32
    STORE/logs/<id>.txt             what a run logged, and its traceback

Every file is written under a name that starts with a dot and then renamed: readers never see half of one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from harness import rows as schema
from harness.patience import Patience, attempt, may_pass
from harness.patience import StoreError as StoreError
from harness.rows import FINISHED
from harness.urls import open_url

T = TypeVar("T")
FORMAT = 1
MARKER = "efface.json"


class Store:
    """Reads and writes the files of one store; any number of processes may hold one."""

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url = url.rstrip("/") or "/"
        self.fs, self.root = open_url(self.url)
        self.local = Path(self.root) if "file" in _protocols(self.fs) else None
        self._listing: dict[str, frozenset[str]] = {}
        self.patience = patience or Patience()
        # raises where another sweep took it over; told whether to wait for a store that is away
        self.require_held: Callable[[bool], None] = lambda wait: None
        self.once_a_node: Callable[[str], Path] | None = None  # a local copy that workers here share

    # -------------------- opening

    @classmethod
    def open(cls, url: str) -> Store:
        """An existing store."""
        store = cls(url)
        if not store.has(MARKER):
            raise StoreError(
                f"{url} is no efface store: expected {MARKER} in it; "
                "give the folder of an earlier sweep with --store, or make one with `efface sweep demo`"
            )
        store._check_marker()
        return store

    @classmethod
    def create(cls, url: str) -> Store:
        """An existing store, or a new one in an empty or missing folder."""
        store = cls(url)
        if store.has(MARKER):
            store._check_marker()
            return store
        if store.local is not None and store.local.exists() and not store.local.is_dir():
            raise StoreError(f"--store {url} is a file, expected a folder; give another name")
        if (
            store.local is not None
            and store.local.is_dir()
            and any(not entry.name.startswith(".") for entry in store.local.iterdir())
        ):
            raise StoreError(
                f"--store {url} is a folder with other things in it and no {MARKER}; "
                "give a new or empty folder, so that nothing of yours is mixed with results"
            )
        store.write(MARKER, json.dumps({"format": FORMAT, "rows_schema": schema.SCHEMA_VERSION}).encode())
        return store

    def is_missing(self) -> bool:
        """Nothing is there yet: a new or empty folder."""
        return not self.has(MARKER) and not self.names("")

    def _check_marker(self) -> None:
        try:
            found = json.loads(self.read(MARKER))
            form, rows = int(found["format"]), int(found["rows_schema"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f'{self.url}/{MARKER} is damaged ({error}); expected {{"format": 1, …}}'
            ) from None
        if form > FORMAT or rows > schema.SCHEMA_VERSION:
            raise StoreError(
                f"{self.url} was written by a newer efface (format {form}, rows schema {rows}; this one "
                f"knows {FORMAT} and {schema.SCHEMA_VERSION}); update efface, or use another --store"
            )

    # -------------------- single files

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def has(self, name: str) -> bool:
        """Whether there is such a file now."""
        self.fs.invalidate_cache(self.path(name))
        return self._do("read", lambda: bool(self.fs.exists(self.path(name))))

    def read(self, name: str, wait: bool = True) -> bytes:
        return self._do("read", lambda: bytes(self.fs.cat_file(self.path(name))), wait)

    def write(self, name: str, data: bytes, wait: bool = True) -> None:
        """Write a whole file, so that a reader sees either the old or the new one."""
        self._do("written", lambda: self._write(name, data), wait)

    def remove(self, name: str) -> None:
        """Take a file away; without waiting."""
        with contextlib.suppress(FileNotFoundError):
            self._do("read", lambda: self.fs.rm_file(self.path(name)), wait=False)

    def _do(self, what: str, act: Callable[[], T], wait: bool = True) -> T:
        """Wait for a store that is away, as long as its patience lasts; any other error is as it was."""

        def once() -> T:
            return attempt(act, self.url, what, self.local is not None)

        return self.patience.call(once) if wait else once()

    def _write(self, name: str, data: bytes) -> None:
        if self.local is None:
            self.fs.pipe_file(self.path(name), data)
            return
        target = self.local / name
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if may_pass(error):
                raise
            raise StoreError(
                f"cannot write {target}: {error.strerror}; make room or give a writable folder with --store"
            ) from error

    def names(self, folder: str) -> list[str]:
        """File names in one folder of the store as it is now, those being written left out."""
        path = self.path(folder)
        self.fs.invalidate_cache(path)  # a client of an object store keeps listings as long as it lives
        paths = self._do("read", lambda: self.fs.ls(path, detail=False) if self.fs.isdir(path) else [])
        found = (str(entry).rsplit("/", 1)[-1] for entry in paths)
        return sorted(name for name in found if not name.startswith((".", "_")))

    def look_again(self) -> None:
        """Forget what was listed, here and by the client: workers may have written since."""
        self._listing.clear()
        self.fs.invalidate_cache()

    def _listed(self, folder: str) -> frozenset[str]:
        """A listing that is kept: a plan asks for thousands of ids at once."""
        if folder not in self._listing:
            self._listing[folder] = frozenset(self.names(folder))
        return self._listing[folder]

    def has_model(self, spec_id: str) -> bool:
        return f"{spec_id}.safetensors" in self._listed("models")

    def has_outputs(self, spec_id: str) -> bool:
        return f"{spec_id}.parquet" in self._listed("outputs")

    # -------------------- rows

    def segments(self) -> list[str]:
        return [name for name in self.names("rows") if name.endswith(".parquet")]

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows; columns that an older version did not write are null."""
        parts = [self.segment(name, columns) for name in self.segments()]
        wanted = pa.schema([f for f in schema.SCHEMA if columns is None or f.name in columns])
        return pa.concat_tables(parts) if parts else wanted.empty_table()

    def segment(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One file of rows, brought to today's schema."""
        try:
            file = pq.ParquetFile(io.BytesIO(self.read(f"rows/{name}")))
            found = file.read(columns=None if columns is None else list(columns))
        except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{self.url}/rows/{name} is no readable Parquet file ({str(error).splitlines()[0]}); "
                "efface never leaves half a file, so something else did. "
                "Move it out of rows/: what it held is run again"
            ) from None
        wanted = [f for f in schema.SCHEMA if columns is None or f.name in columns]
        arrays = [
            found[f.name].cast(f.type) if f.name in found.schema.names else pa.nulls(len(found), f.type)
            for f in wanted
        ]
        return pa.table(arrays, schema=pa.schema(wanted))

    def finished(self) -> dict[str, str]:
        """Status by id of all runs that need not be run again."""
        table = self.rows(["run_id", "status"])
        ids, states = table["run_id"].to_pylist(), table["status"].to_pylist()
        return {i: s for i, s in zip(ids, states, strict=True) if s in FINISHED or s == "skipped"}

    def measured_seconds(self) -> list[Mapping[str, Any]]:
        """What the cost of a plan is estimated from."""
        columns = ["kind", "dataset", "model", "method", "seconds_total", "status"]
        return [
            row
            for row in self.rows(columns).to_pylist()
            if row["status"] == "ok" and row["seconds_total"] is not None
        ]

    def digests(self) -> dict[str, str]:
        """The digest of each data set that rows were computed from."""
        table = self.rows(["dataset", "data_digest", "status"])
        found = zip(
            table["dataset"].to_pylist(),
            table["data_digest"].to_pylist(),
            table["status"].to_pylist(),
            strict=True,
        )
        return {dataset: digest for dataset, digest, status in found if digest and status in FINISHED}


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)

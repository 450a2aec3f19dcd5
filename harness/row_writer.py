"""How rows get into a store: one writer, one growing file, safe once a second."""

from __future__ import annotations

import io
import time
import uuid

import pyarrow as pa
import pyarrow.parquet as pq

from harness import rows as schema
from harness.patience import FIRST_WAIT, LONGEST_WAIT, StoreAway
from harness.rows import FINISHED, Row
from harness.store import Store

SEGMENT_ROWS = 1000
FLUSH_SECONDS = 1.0


class RowWriter:
    """The one writer of a sweep: a growing segment that is rewritten and renamed at most once a second.

    A row counts as done only after the rename. A killed driver therefore loses no more than the last second,
    and there is nothing to compact: the next sweep goes on in the last segment until it has 1,000 rows, or,
    on an object store, begins its own.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.safe = 0  # rows of this writer that are in a file
        self._pending: list[Row] = []
        self._due = 0.0
        self._away: float | None = None  # since when the store cannot be written
        self._finished = store.finished()
        self._name, self._segment = self._continue()

    def _continue(self) -> tuple[str, pa.Table]:
        # of an object store never: what its last writer sent may still be on its way, and would replace what
        # is added; a folder is locked for as long as that writer lives
        names = self.store.segments() if self.store.local is not None else []
        if names:
            last = self.store.segment(names[-1])
            if len(last) < SEGMENT_ROWS:
                return names[-1], last
        return self._new_name(), schema.SCHEMA.empty_table()

    @staticmethod
    def _new_name() -> str:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        return f"{stamp}-{time.time_ns() % 10**9:09d}-{uuid.uuid4().hex[:6]}.parquet"

    def add(self, row: Row) -> bool:
        """Take a row; False where the store already has a finished one of that id."""
        if self._finished.get(row["run_id"]):
            return False
        if row["status"] in FINISHED or row["status"] == "skipped":
            self._finished[row["run_id"]] = row["status"]
        schema.require_known(row)
        self._pending.append(row)
        return True

    @property
    def paused(self) -> bool:
        """The store is away: no use in finishing more."""
        return self._away is not None

    def flush_if_due(self) -> None:
        """Flush once a second. A store that is away is tried again after a while, until patience is over."""
        now = time.monotonic()
        if not self._pending or now < self._due:
            return
        try:
            self.flush(wait=False)
        except StoreAway as error:
            self._away = now if self._away is None else self._away
            self._due = now + min(LONGEST_WAIT, max(FIRST_WAIT, now - self._away))
            self.store.patience.missed(error, self._away)
        else:
            self.store.patience.met()

    def flush(self, wait: bool = True) -> None:
        """Make every row so far safe."""
        while self._pending:
            self.store.require_held(wait)
            room = SEGMENT_ROWS - len(self._segment)
            taken = self._pending[:room]
            # one chunk: a table of many small ones takes as many pages of each column to write
            whole = pa.concat_tables([self._segment, schema.table(taken)]).combine_chunks()
            buffer = io.BytesIO()
            pq.write_table(whole, buffer, compression="zstd")
            self.store.write(f"rows/{self._name}", buffer.getvalue(), wait)
            self._segment = whole
            self.safe += len(taken)
            del self._pending[:room]
            if len(whole) >= SEGMENT_ROWS:
                self._name, self._segment = self._new_name(), schema.SCHEMA.empty_table()
        self._due, self._away = time.monotonic() + FLUSH_SECONDS, None

"""Rows that plain pandas can read at any moment, and a store that refuses what it cannot trust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from harness import artifacts, row_writer, rows
from harness.lock import StoreLock, holder_of
from harness.row_writer import RowWriter
from harness.store import Store, StoreError


def row(number: int, **more: Any) -> rows.Row:
    return {"run_id": f"{number:016x}", "kind": "run", "status": "ok", "dataset": "digits", **more}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(str(tmp_path / "store"))


def read(store: Store) -> pd.DataFrame:
    return pd.read_parquet(f"{store.url}/rows")


def test_plain_pandas_reads_the_rows_after_every_flush(store: Store) -> None:
    writer = RowWriter(store)
    for number in range(25):
        writer.add(row(number, retain_acc=number / 100))
        writer.flush()
        frame = read(store)
        assert len(frame) == number + 1
        assert list(frame.columns) == rows.SCHEMA.names


def test_a_file_being_written_is_invisible(store: Store) -> None:
    writer = RowWriter(store)
    writer.add(row(1))
    writer.flush()
    Path(store.url, "rows", ".half.parquet.123").write_bytes(b"PAR1 and then nothing")
    assert len(read(store)) == len(store.rows()) == 1


def test_a_full_segment_is_closed_and_the_next_sweep_continues_the_last(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_writer, "SEGMENT_ROWS", 10)
    for start in (0, 12, 17):
        writer = RowWriter(store)
        for number in range(start, start + {0: 12, 12: 5, 17: 20}[start]):
            assert writer.add(row(number))
        writer.flush()
    assert len(store.segments()) == 4
    assert sorted(read(store)["run_id"]) == [f"{n:016x}" for n in range(37)]


def test_there_is_at_most_one_finished_row_of_an_id(store: Store) -> None:
    writer = RowWriter(store)
    assert writer.add(row(1, status="failed"))
    assert writer.add(row(1))
    assert not writer.add(row(1))
    writer.flush()
    assert not RowWriter(store).add(row(1, status="diverged"))
    assert list(read(store)["status"]) == ["failed", "ok"]


def test_only_finished_runs_are_finished(store: Store) -> None:
    writer = RowWriter(store)
    for number, status in enumerate(["ok", "failed", "diverged", "blocked", "skipped"]):
        writer.add(row(number, status=status))
    writer.flush()
    assert set(store.finished().values()) == {"ok", "diverged", "skipped"}


def test_a_row_with_an_unknown_column_is_an_error() -> None:
    with pytest.raises(KeyError, match="retian_acc"):
        rows.table([row(1, retian_acc=0.5)])


def test_rows_of_an_older_version_stay_readable(store: Store) -> None:
    old = pa.table({"run_id": ["a" * 16], "status": ["ok"], "kind": ["run"]})
    path = Path(store.url, "rows", "20200101T000000-old.parquet")
    path.parent.mkdir()
    pq.write_table(old, path)
    assert store.rows().schema == rows.SCHEMA
    assert store.rows()["retain_acc"].to_pylist() == [None]
    writer = RowWriter(store)
    writer.add(row(2))
    writer.flush()
    assert len(read(store)) == 2


def test_a_torn_file_is_named_and_nothing_else_is_touched(store: Store) -> None:
    writer = RowWriter(store)
    writer.add(row(1))
    writer.flush()
    torn = Path(store.url, "rows", "0-torn.parquet")
    torn.write_bytes(Path(store.url, "rows", store.segments()[0]).read_bytes()[:200])
    with pytest.raises(StoreError, match=r"0-torn.parquet is no readable Parquet file.*Move it out of rows/"):
        store.rows()
    torn.unlink()
    assert len(store.rows()) == 1


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(StoreError, match="other things in it"):
        Store.create(str(tmp_path))
    with pytest.raises(StoreError, match="is no efface store"):
        Store.open(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("…")
    with pytest.raises(StoreError, match="is a file, expected a folder"):
        Store.create(str(tmp_path / "x"))


def test_a_store_of_a_newer_version_is_refused(store: Store) -> None:
    Path(store.url, "efface.json").write_text(json.dumps({"format": 99, "rows_schema": 1}))
    with pytest.raises(StoreError, match="written by a newer efface"):
        Store.open(store.url)


def test_a_damaged_marker_is_refused(store: Store) -> None:
    Path(store.url, "efface.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        Store.create(store.url)


def test_a_failing_disk_keeps_the_rows_that_were_safe(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.patience.seconds = 0.1
    writer = RowWriter(store)
    writer.add(row(1))
    writer.flush()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    writer.add(row(2))
    with pytest.raises(StoreError, match="No space left on device; make room"):
        writer.flush()
    monkeypatch.undo()
    assert len(read(store)) == 1
    writer.flush()
    assert len(read(store)) == 2


def test_a_second_sweep_on_a_store_is_refused_and_told_who_holds_it(store: Store) -> None:
    assert holder_of(store) is None
    with StoreLock(store):
        held = holder_of(store)
        assert held and held["pid"] == os.getpid()
        with (
            pytest.raises(StoreError, match=f"in use by another sweep .process {os.getpid()}"),
            StoreLock(store),
        ):
            pass
    with StoreLock(store):
        pass


def test_the_lock_of_a_killed_process_is_free(store: Store) -> None:
    code = (
        "import os, sys; from harness.lock import StoreLock; from harness.store import Store\n"
        "StoreLock(Store(sys.argv[1])).__enter__(); print('held', flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, store.url], capture_output=True, text=True)
    assert done.stdout == "held\n" and done.returncode == -9
    with StoreLock(store):
        assert True


class TestObjectStore:
    """The same through fsspec, on its in-memory file system."""

    @pytest.fixture
    def remote(self, request: pytest.FixtureRequest) -> Store:
        return Store.create(f"memory://{request.node.name}/store")

    def test_rows_are_written_and_read(self, remote: Store) -> None:
        writer = RowWriter(remote)
        writer.add(row(1))
        writer.flush()
        writer.add(row(2))
        writer.flush()
        assert len(Store.open(remote.url).rows()) == 2
        assert len(remote.segments()) == 1

    def test_a_write_that_arrives_after_another_sweep_has_begun_takes_no_row_of_it(
        self, remote: Store
    ) -> None:
        first, second = RowWriter(remote), None
        first.add(row(0))
        first.flush()
        first.add(row(1))
        second = RowWriter(Store(remote.url))  # the lease of the first is void: it is cut off
        for number in range(2, 52):
            second.add(row(number))
        second.flush()
        first.flush()  # its write has got through
        assert set(remote.finished()) == {row(number)["run_id"] for number in range(52)}

    def test_one_sweep_fills_its_segments(self, remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(row_writer, "SEGMENT_ROWS", 10)
        writer = RowWriter(remote)
        for number in range(25):
            writer.add(row(number))
            writer.flush()
        assert [len(remote.segment(name)) for name in remote.segments()] == [10, 10, 5]

    def test_a_sweep_that_has_nothing_to_write_leaves_no_file(self, remote: Store) -> None:
        RowWriter(remote).flush()
        assert remote.segments() == []

    def test_a_lease_is_shown_while_it_is_held(self, remote: Store) -> None:
        with StoreLock(remote):
            held = holder_of(remote)
            assert held and held["pid"] == os.getpid()
        assert holder_of(remote) is None


class Remembering(MemoryFileSystem):
    """Keeps what it has listed, as clients of object stores do."""

    protocol = "remembering"
    listings: ClassVar[dict[str, list[Any]]] = {}

    def ls(self, path: str, detail: bool = True, **more: Any) -> list[Any]:
        key = f"{path} {detail}"
        if key not in self.listings:
            self.listings[key] = super().ls(path, detail=detail, **more)
        return self.listings[key]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.listings.clear()


def test_after_looking_again_a_store_knows_what_others_have_written() -> None:
    fsspec.register_implementation("remembering", Remembering, clobber=True)
    store = Store.create("remembering://bucket/again")
    MemoryFileSystem().pipe_file(store.path("models/a.safetensors"), b"x")
    assert store.has_model("a") and not store.has_model("b")
    MemoryFileSystem().pipe_file(store.path("models/b.safetensors"), b"x")
    assert not store.has_model("b")
    store.look_again()
    assert store.has_model("b")


def test_rows_that_another_writer_has_begun_to_write_are_seen_by_who_has_read_before() -> None:
    """On an object store each writer begins a file of its own, and clients keep what they have listed."""
    fsspec.register_implementation("remembering", Remembering, clobber=True)
    store = Store.create("remembering://bucket/rows-of-two")
    MemoryFileSystem().pipe_file(store.path("rows/one.parquet"), b"x")
    assert store.segments() == ["one.parquet"]
    MemoryFileSystem().pipe_file(store.path("rows/two.parquet"), b"x")
    assert store.segments() == ["one.parquet", "two.parquet"]


def test_outputs_come_back_bit_for_bit(store: Store) -> None:
    import numpy as np

    from tasks.api import Outputs

    random = np.random.default_rng(0)
    halves = {
        half: Outputs(random.normal(size=(n, 7)).astype(np.float32), random.integers(0, 7, n))
        for half, n in (("train", 30), ("test", 11))
    }
    artifacts.save_outputs(store, "x", halves)
    found = artifacts.load_outputs(store, "x")
    for half in halves:
        assert np.array_equal(found[half].logits, halves[half].logits)
        assert np.array_equal(found[half].labels, halves[half].labels)
    assert list(pd.read_parquet(f"{store.url}/outputs/x.parquet").columns) == [
        "half",
        "position",
        "label",
        "logits",
    ]


@pytest.mark.parametrize("links", [True, False])
def test_of_two_writers_of_a_new_file_the_first_one_stays(
    store: Store, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", none)
    assert artifacts.save_facts(store, "models", "x", {"of": "first"}, known=())
    assert not artifacts.save_facts(store, "models", "x", {"of": "second"}, known=())
    assert artifacts.load_facts(store, "models", "x") == {"of": "first"}
    assert artifacts.save_facts(store, "models", "x", {"of": "third"}, known={"models/x.json"})
    assert artifacts.load_facts(store, "models", "x") == {"of": "third"}
    assert [path.name for path in Path(store.url, "models").iterdir()] == ["x.json"]


def test_a_checkpoint_that_does_not_match_says_where(store: Store) -> None:
    import torch
    from torch import nn

    artifacts.save_model(store, "x", nn.Linear(3, 4), {"seconds": 1.0})
    weights = artifacts.load_weights(store, "x")
    model = artifacts.fill(nn.Linear(3, 4), weights, "checkpoint x")
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    with pytest.raises(StoreError, match=r"checkpoint x does not match.*bias is \(4,\).*expected \(5,\)"):
        artifacts.fill(nn.Linear(3, 5), weights, "checkpoint x")


def test_a_truncated_checkpoint_is_refused(store: Store) -> None:
    from torch import nn

    artifacts.save_model(store, "x", nn.Linear(3, 4), {})
    path = Path(store.url, "models", "x.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match="cannot be read"):
        artifacts.load_weights(store, "x")

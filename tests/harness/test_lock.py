"""A store on an object store belongs to whoever holds its lease, also after a long sleep."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import artifacts, lock
from harness.lock import LEASE, StoreLock, holder_of
from harness.row_writer import RowWriter
from harness.store import Store, StoreError

ROW = {"run_id": "0" * 16, "kind": "run", "status": "ok"}


@pytest.fixture
def remote() -> Iterator[Store]:
    store = Store.create(f"memory://{uuid.uuid4().hex}")
    yield store
    store.fs.rm(store.root, recursive=True)


def test_a_sweep_whose_lease_was_taken_while_it_slept_writes_no_more_rows(
    remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StoreLock(remote):
        writer = RowWriter(remote)
        writer.add(ROW)
        writer.flush()
        other = {"token": "another", "pid": 1, "host": "elsewhere", "renewed": 0}
        remote.write(LEASE, json.dumps(other).encode())
        monkeypatch.setattr(lock, "VOID_SECONDS", 0.0)  # as if it had slept for longer
        writer.add({**ROW, "run_id": "1" * 16})
        with pytest.raises(StoreError, match="taken over by another sweep"):
            writer.flush()
    assert remote.finished() == {"0" * 16: "ok"}
    assert json.loads(remote.read(LEASE))["token"] == "another"


def test_a_sweep_that_slept_and_still_holds_its_lease_goes_on(
    remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StoreLock(remote):
        writer = RowWriter(remote)
        monkeypatch.setattr(lock, "VOID_SECONDS", 0.0)
        writer.add(ROW)
        writer.flush()
    assert remote.finished() == {"0" * 16: "ok"}


# -------------------- a lease of somebody else


def leave(store: Store, age: float = 0.0) -> dict[str, Any]:
    """A lease of a sweep on another machine, renewed `age` seconds ago by its own clock."""
    held = {"token": uuid.uuid4().hex, "pid": 7, "host": "elsewhere", "since": "noon"}
    held["renewed"] = time.time() - age
    store.write(LEASE, json.dumps(held).encode())
    return held


@pytest.mark.parametrize("age", [0.0, 31.0, -3600.0], ids=["just now", "before", "its clock is ahead"])
def test_a_lease_that_nobody_renews_is_taken_over_whatever_its_clock_said(remote: Store, age: float) -> None:
    leave(remote, age)
    slept: list[float] = []
    said: list[str] = []
    remote.patience.tell = said.append
    with StoreLock(remote, slept.append):
        assert json.loads(remote.read(LEASE))["pid"] == os.getpid()
    assert lock.VOID_SECONDS <= sum(slept) <= lock.VOID_SECONDS + 1
    assert len(said) == 1
    assert "lease of another sweep (process 7 on elsewhere since noon); watching it for up to 30 s" in said[0]


@pytest.mark.parametrize("age", [0.0, 35.0, 3600.0])
def test_a_sweep_that_lives_is_not_taken_over_by_a_machine_whose_clock_is_ahead(
    remote: Store, age: float
) -> None:
    held = leave(remote, age)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) >= lock.RENEW_SECONDS:
            again = {**held, "renewed": held["renewed"] + lock.RENEW_SECONDS}
            remote.write(LEASE, json.dumps(again).encode())

    with (
        pytest.raises(StoreError, match=r"in use by another sweep .process 7 on elsewhere"),
        StoreLock(remote, sleep),
    ):
        pass
    assert sum(slept) <= lock.RENEW_SECONDS + 1  # seen as soon as it is renewed
    assert json.loads(remote.read(LEASE))["token"] == held["token"]


def test_a_sweep_that_ends_while_it_is_watched_leaves_the_store_at_once(remote: Store) -> None:
    leave(remote)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            remote.remove(LEASE)

    with StoreLock(remote, sleep):
        assert len(slept) == 4  # and the moment that any start takes


def test_a_store_that_nobody_holds_is_not_watched(remote: Store, tmp_path: Path) -> None:
    slept: list[float] = []
    said: list[str] = []
    remote.patience.tell = said.append
    with StoreLock(remote, slept.append):
        assert slept == [0.5]
    with StoreLock(Store.create(str(tmp_path / "s")), slept.append), pytest.raises(StoreError):
        StoreLock(Store(str(tmp_path / "s")), slept.append).__enter__()
    assert slept == [0.5] and said == []


def test_who_holds_a_store_is_told_without_waiting(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError("slept")

    held = leave(remote)
    monkeypatch.setattr(time, "sleep", sleep)
    assert holder_of(remote) == held


def test_a_living_lease_is_renewed_while_somebody_watches(
    remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.1)
    with (
        StoreLock(remote),
        pytest.raises(StoreError, match=f"in use by another sweep .process {os.getpid()}"),
        StoreLock(Store(remote.url)),
    ):
        pass


def test_workers_of_a_node_read_a_checkpoint_through_one_local_copy(remote: Store, tmp_path: Path) -> None:
    made = torch.nn.Linear(2, 3)
    artifacts.save_model(remote, "0" * 16, made, {})
    asked: list[str] = []

    def copy(url: str) -> Path:
        asked.append(url)
        path = tmp_path / "copy.safetensors"
        path.write_bytes(remote.read(f"models/{'0' * 16}.safetensors"))
        return path

    remote.once_a_node = copy
    found = artifacts.load_weights(remote, "0" * 16)
    assert torch.equal(found["weight"], made.weight)
    assert asked == [f"{remote.url}/models/{'0' * 16}.safetensors"]

    def full(url: str) -> Path:
        raise OSError("No space left on device")

    remote.once_a_node = full  # then it is read from the store itself
    assert torch.equal(artifacts.load_weights(remote, "0" * 16)["bias"], made.bias)

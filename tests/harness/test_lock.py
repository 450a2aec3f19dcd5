"""A store on an object store belongs to whoever holds its lease, also after a long sleep."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness import artifacts, lock
from harness.lock import LEASE, StoreLock
from harness.store import RowWriter, Store, StoreError

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

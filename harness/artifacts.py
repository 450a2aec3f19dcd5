"""Weights and outputs in the store: safetensors and Parquet, never a pickle."""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
import torch
from torch import nn

from harness.errors import Misuse
from harness.patience import StoreAway, attempt, http_status
from harness.store import Store, StoreError
from tasks.api import Outputs

Halves = Mapping[str, Outputs]  # "train" and "test", each whole and in stored order
Both = dict[str, Outputs]  # the same
TAKEN = 412  # what a server says where a file is not to be written over, and is there
NO_SUCH_CONDITION = (400, 501)  # what one says that cannot make sure of that


def weights_file(spec_id: str) -> str:
    return f"models/{spec_id}.safetensors"


def outputs_file(spec_id: str) -> str:
    return f"outputs/{spec_id}.parquet"


def facts_file(folder: str, spec_id: str) -> str:
    return f"{folder}/{spec_id}.json"


def save_model(store: Store, spec_id: str, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Weights as models/<id>.safetensors; what they are, as JSON beside them, is written last."""
    save_weights(store, spec_id, model)
    save_facts(store, "models", spec_id, facts)


def save_weights(store: Store, spec_id: str, model: nn.Module, known: Container[str] | None = None) -> bool:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return _save(store, weights_file(spec_id), safetensors.torch.save(weights, {"id": spec_id}), known)


def save_facts(
    store: Store,
    folder: str,
    spec_id: str,
    facts: Mapping[str, Any],
    known: Container[str] | None = None,
) -> bool:
    data = json.dumps(facts, indent=1, sort_keys=True).encode()
    return _save(store, facts_file(folder, spec_id), data, known)


def load_facts(store: Store, folder: str, spec_id: str) -> dict[str, Any]:
    """What is known of a stored model: its spec, seconds and provenance."""
    name = facts_file(folder, spec_id)
    try:
        return dict(json.loads(store.read(name)))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise _damaged(store, name, f"{type(error).__name__}: {error}") from None


def load_weights(store: Store, spec_id: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint; memory-mapped where the store is a folder or copied once to each node."""
    name = weights_file(spec_id)
    try:
        if store.local is not None:
            return dict(safetensors.torch.load_file(store.local / name))
        if store.once_a_node:
            with contextlib.suppress(
                Misuse, OSError
            ):  # no room for a copy, or the store is away: wait for it
                return dict(safetensors.torch.load_file(store.once_a_node(f"{store.url}/{name}")))
        return dict(safetensors.torch.load(store.read(name)))
    except (FileNotFoundError, safetensors.SafetensorError) as error:
        raise _damaged(store, name, str(error)) from None


def fill(model: nn.Module, weights: Mapping[str, torch.Tensor], what: str) -> nn.Module:
    """Put a checkpoint into a model; refuses one that does not match, and says where it differs."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if own != given:
        name = min(set(own.items()) ^ set(given.items()))[0]
        raise StoreError(
            f"{what} does not match the model: {name} is {given.get(name, 'missing')} in the checkpoint, "
            f"expected {own.get(name, 'no such tensor')}; delete the checkpoint to have it trained again"
        )
    model.load_state_dict(dict(weights), assign=True)
    for parameter in model.parameters():  # what was memory-mapped must not be written through
        parameter.requires_grad_(True)
    return model


def _damaged(store: Store, name: str, why: str) -> StoreError:
    return StoreError(f"{store.url}/{name} cannot be read ({why}); delete it to have it made again")


# -------------------- outputs


def save_outputs(store: Store, spec_id: str, halves: Halves, known: Container[str] | None = None) -> bool:
    """Logits of every image as outputs/<id>.parquet: columns half, position, label, logits (K float32)."""
    buffer = io.BytesIO()
    parts = [_outputs_table(half, outputs) for half, outputs in halves.items()]
    pq.write_table(pa.concat_tables(parts), buffer, compression="none", use_dictionary=["half"])
    return _save(store, outputs_file(spec_id), buffer.getvalue(), known)


def _outputs_table(half: str, outputs: Outputs) -> pa.Table:
    count, classes = outputs.logits.shape
    flat = pa.array(np.ascontiguousarray(outputs.logits).reshape(-1), pa.float32())
    return pa.table(
        {
            "half": pa.array([half] * count, pa.string()),
            "position": pa.array(np.arange(count)),
            "label": pa.array(outputs.labels),
            "logits": pa.FixedSizeListArray.from_arrays(flat, classes),
        }
    )


def load_outputs(store: Store, spec_id: str) -> dict[str, Outputs]:
    """The stored outputs of a model, by half."""
    name = outputs_file(spec_id)
    try:
        table = pq.read_table(io.BytesIO(store.read(name)))
        halves = np.asarray(table["half"].to_pylist())
        labels = table["label"].to_numpy()
        logits = table["logits"].combine_chunks()
        flat = logits.flatten().to_numpy(zero_copy_only=False)
    except (FileNotFoundError, KeyError, pa.ArrowException) as error:
        raise _damaged(store, name, str(error).splitlines()[0]) from None
    matrix = flat.reshape(len(labels), -1)
    return {half: Outputs(matrix[halves == half], labels[halves == half]) for half in ("train", "test")}


def outputs_bytes(halves: Halves) -> int:
    """About how large the stored outputs are."""
    return sum(outputs.logits.nbytes for outputs in halves.values())


# -------------------- two attempts at one job


class Attempt:
    """The files of one attempt at a job. There may be another: a worker that was given up cannot always be
    stopped, and ends late.

    Files of the first one stay and the other goes on from them, so that a row tells of what is stored,
    whichever of the two rows counts.
    """

    def __init__(self, store: Store, spec_id: str, weights: bool, outputs: bool, facts: bool = False) -> None:
        self.store, self.id, self.weights = store, spec_id, weights
        wanted = {weights_file(spec_id): weights, outputs_file(spec_id): outputs}
        wanted[facts_file("outputs", spec_id)] = facts
        self.names = {name for name in wanted if wanted[name]}
        # left by one that came to no end: to be written over, unless that one goes on after all
        self.known = {name for name in self.names if store.has(name)}

    def found(self, model: nn.Module, told: Mapping[str, Any]) -> tuple[dict[str, Any], Both] | None:
        """Row and outputs of a training that has all its files, whole, though the store has no row of it: its
        sweep was killed, or its worker given up. `told` must be in that row. `model` gets the weights.
        """
        if self.known != self.names:
            return None
        try:
            facts = load_facts(self.store, "outputs", self.id)
            row = dict(facts.get("row") or {})
            if any(name not in row or row[name] != value for name, value in told.items()):
                return None
            halves = load_outputs(self.store, self.id)
            if self.weights:
                self._refill(model)
                save_facts(self.store, "models", self.id, facts)
        except StoreAway:
            raise
        except StoreError:  # damaged
            return None
        return row, halves

    def settle(
        self, model: nn.Module, halves: Both, predict: Callable[[nn.Module], Both], outputs: bool = True
    ) -> Both:
        """Store weights and outputs, or take those that another attempt has stored since. Gives the outputs
        that stay; `model` gets the weights that do.
        """
        if self.known and any(self.store.has(name) for name in self.names - self.known):
            self.known = set()  # what was there is of an attempt that has gone on with it
        if self.weights and not save_weights(self.store, self.id, model, self.known):
            halves = predict(self._refill(model))
        if outputs and not save_outputs(self.store, self.id, halves, self.known):
            halves = load_outputs(self.store, self.id)
        return halves

    def sign(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Say what the files of a training are, last of all; of two attempts, in the words of the first."""
        if not save_facts(self.store, "outputs", self.id, facts, self.known):
            facts = load_facts(self.store, "outputs", self.id)
        if self.weights:
            save_facts(self.store, "models", self.id, facts)
        return facts

    def _refill(self, model: nn.Module) -> nn.Module:
        device = next(model.parameters()).device
        return fill(model, load_weights(self.store, self.id), f"checkpoint {self.id}").to(device).eval()


def _save(store: Store, name: str, data: bytes, known: Container[str] | None) -> bool:
    """Write a file over what is `known` to be there (None: whatever it is); False where another was first."""
    if known is None or name in known:
        store.write(name, data)
        return True

    def act() -> bool:
        return _put(store, name, data) if store.local is None else _link(store, name, data)

    return store.patience.call(lambda: attempt(act, store.url, "written", store.local is not None))


def _link(store: Store, name: str, data: bytes) -> bool:
    """Write a local file under another name and give it its own, which must be free."""
    assert store.local is not None
    folder, _, last = name.rpartition("/")
    made = f"{folder}/.{last}.{uuid.uuid4().hex[:12]}"
    target = store.local / name
    store.write(made, data, wait=False)
    try:
        os.link(store.local / made, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: a moment passes between the look and the writing
        if target.exists():
            return False
        (store.local / made).replace(target)
    finally:
        (store.local / made).unlink(missing_ok=True)
    return True


def _put(store: Store, name: str, data: bytes) -> bool:
    """Write an object where its server has none: the server itself decides, when it arrives."""
    path = store.path(name)
    try:
        store.fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except Exception as error:
        status = http_status(error)
        if status == TAKEN:
            return False
        if status not in NO_SUCH_CONDITION:
            raise
        if store.fs.exists(path):
            return False
        store.fs.pipe_file(path, data)
    return True

"""Weights and outputs in the store: safetensors and Parquet, never a pickle."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
import torch
from torch import nn

from harness.errors import Misuse
from harness.store import Store, StoreError
from tasks.api import Outputs

Halves = Mapping[str, Outputs]  # "train" and "test", each whole and in stored order


def save_model(store: Store, spec_id: str, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Weights as models/<id>.safetensors; what they are, as JSON beside them, is written last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    store.write(f"models/{spec_id}.safetensors", safetensors.torch.save(weights, {"id": spec_id}))
    save_facts(store, "models", spec_id, facts)


def save_facts(store: Store, folder: str, spec_id: str, facts: Mapping[str, Any]) -> None:
    store.write(f"{folder}/{spec_id}.json", json.dumps(facts, indent=1, sort_keys=True).encode())


def load_facts(store: Store, folder: str, spec_id: str) -> dict[str, Any]:
    """What is known of a stored model: its spec, seconds and provenance."""
    name = f"{folder}/{spec_id}.json"
    try:
        found = json.loads(store.read(name))
    except (FileNotFoundError, ValueError) as error:
        raise _damaged(store, name, f"{type(error).__name__}: {error}") from None
    return dict(found)


def load_weights(store: Store, spec_id: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint; memory-mapped where the store is a folder or copied once to each node."""
    name = f"models/{spec_id}.safetensors"
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


def save_outputs(store: Store, spec_id: str, halves: Halves) -> None:
    """Logits of every image as outputs/<id>.parquet: columns half, position, label, logits (K float32)."""
    buffer = io.BytesIO()
    parts = [_outputs_table(half, outputs) for half, outputs in halves.items()]
    pq.write_table(pa.concat_tables(parts), buffer, compression="none", use_dictionary=["half"])
    store.write(f"outputs/{spec_id}.parquet", buffer.getvalue())


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
    name = f"outputs/{spec_id}.parquet"
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

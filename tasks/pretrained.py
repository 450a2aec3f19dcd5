"""Published weights that training starts from: files of tensors, checked before they are used.

Weights are named as timm names them, `vit_base_patch16_224.orig_in21k_ft_in1k`, and read from a file that the
caller has, or from what the hub's client has already downloaded. Nothing is fetched unless `download` is
called. A file is safetensors, or a torch state dict read without running any program in it.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.images import DataError
from tasks.training import fresh_head, last_linear

OWNER = "timm"  # of the repositories on the hub
FILE = "model.safetensors"  # in each of them
# What a damaged or foreign pickle raises. No line of ours runs inside, so no mistake of ours is hidden.
UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
WRAPPERS = ("state_dict", "model")  # keys under which training scripts store a state dict


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, and 16 hex digits of SHA-256 over names, types, shapes and values."""

    path: Path
    tensors: Mapping[str, Tensor]
    digest: str


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a file; DataError where it is missing, damaged or no state dict."""
    if not path.is_file():
        raise DataError(f"weights {path}: no such file; give a safetensors file or a torch state dict")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _state_dict(path)
    return Checkpoint(path, tensors, digest(tensors))


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise DataError(f"weights {path}: no readable safetensors ({error}); fetch it again") from None


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"weights {path}: no state dict that can be read safely ({why[0][:150]}); "
            "expected safetensors (*.safetensors), or a file of torch.save(model.state_dict(), path)"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise DataError(f"weights {path}: holds {type(found).__name__}, expected names and tensors")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits over all tensors by name: the same in whatever file they lie."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


# -------------------- into a model


def mismatch(model: nn.Module, tensors: Mapping[str, Tensor], head: str) -> str | None:
    """What keeps these tensors from being the model's: the first three differences; None where they fit.

    With head "new" the last linear layer of both is left out.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if head == "new":
        last = f"{last_linear(model)}."
        own, given = (
            {n: shape for n, shape in part.items() if not n.startswith(last)} for part in (own, given)
        )
    wrong = [name for name in dict.fromkeys([*own, *given]) if own.get(name) != given.get(name)]
    if not wrong:
        return None
    told = [
        f"{name} is {given.get(name, 'missing')}, expected {own.get(name, 'no such tensor')}"
        for name in wrong[:3]
    ]
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(told) + more


def load_into(model: nn.Module, checkpoint: Checkpoint, head: str) -> nn.Module:
    """Copy the tensors into a model in place; with head "new" its last linear layer is drawn afresh.

    Raises DataError where a name or shape does not fit.
    """
    if why := mismatch(model, checkpoint.tensors, head):
        kept = "the file's own head is kept, so it must have as many classes as the data; " * (head != "new")
        raise DataError(f"weights {checkpoint.path} do not fit the model: {why}; {kept}give another file")
    last = f"{last_linear(model)}." if head == "new" else None
    wanted = {n: t for n, t in checkpoint.tensors.items() if last is None or not n.startswith(last)}
    model.load_state_dict(wanted, strict=False)
    if head == "new":
        fresh_head(model)
    return model


# -------------------- the hub


def downloaded(name: str) -> Path | None:
    """Where the hub's client keeps weights that it has downloaded before; never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(f"{OWNER}/{name}", FILE)
    return Path(found) if isinstance(found, str) else None


def download(name: str) -> Path:
    """Fetch weights from the hub, or find them where its client keeps them; DataError where it cannot."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(f"{OWNER}/{name}", FILE))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"weights {name}: the download failed ({why[0][:200]}); {how(name)}") from None


def how(name: str) -> str:
    """What to type to have the weights `name`."""
    return (
        f"give --download where there is a network, or fetch {FILE} from "
        f"https://huggingface.co/{OWNER}/{name} and give it as --weights {name}=FILE"
    )

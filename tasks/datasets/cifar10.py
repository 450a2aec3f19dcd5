"""CIFAR-10 from the published Python files: 50,000 training and 10,000 test images of 32×32 pixels.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. The files are pickles, and a pickle can run any program, so
they are read by an unpickler that knows nothing but strings, lists, dictionaries and byte arrays. A folder
that is not the published one is read as well, and says so in `Data.note`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.api import Data, DataError, ImageSet, dataset

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
FOLDER = "cifar-10-batches-py"
IMAGES_PER_FILE = 10_000  # in the published files
PIXELS = 3 * 32 * 32
HOW = (
    f"get cifar-10-python.tar.gz from {URL}, unpack it, "
    f"and give --data-dir FOLDER where FOLDER holds {FOLDER}"
)
# What a damaged or foreign pickle raises. Hardly a line of ours runs inside, so no mistake of ours is hidden.
UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    OverflowError,
    MemoryError,
)


@dataset("cifar10", source=URL, groups=CLASSES)
def cifar10(folder: Path | None) -> Data:
    """Images (N, 3, 32, 32) from `folder`/cifar-10-batches-py; groups are the classes.

    Raises DataError where the folder or one of its seven files is missing, truncated or foreign.
    """
    root = _find(folder)
    train_files, test_files, meta, published = _published_files()
    contents = {name: _read(root / name) for name in published}
    _check_meta(root / meta, contents[meta])
    parts = {name: _batch(root / name, contents[name]) for name in train_files + test_files}
    changed = [
        name
        for name, digest in published.items()
        if hashlib.md5(contents[name], usedforsecurity=False).hexdigest() != digest
    ]
    train, test = (_join([parts[name] for name in names]) for names in (train_files, test_files))
    note = _note(len(train), len(test), changed)
    return Data(train, test, CLASSES, CLASSES, official=not changed, note=note)


def _published_files() -> tuple[list[str], list[str], str, dict[str, str]]:
    """Names of the training, the test and the class-name files, and the published MD5 of each."""
    # Only the lists: torchvision's reader unpickles whatever it finds, and refuses any file with another MD5.
    from torchvision.datasets import CIFAR10

    listed = dict(CIFAR10.train_list + CIFAR10.test_list)
    meta = CIFAR10.meta["filename"]
    listed[meta] = CIFAR10.meta["md5"]
    return [name for name, _ in CIFAR10.train_list], [name for name, _ in CIFAR10.test_list], meta, listed


def _find(folder: Path | None) -> Path:
    if folder is None:
        raise DataError(f"cifar10: no data folder was given, expected one that holds {FOLDER}; {HOW}")
    root = folder / FOLDER
    if root.is_dir():
        return root
    if (folder / "test_batch").is_file():
        raise DataError(
            f"cifar10: looked for {root}, but {folder} itself holds the batches; "
            f"rename it to {FOLDER} if need be and give the folder above it as --data-dir"
        )
    found = "does not hold it" if folder.is_dir() else "is no folder"
    raise DataError(f"cifar10: looked for {root}, but {folder} {found}; {HOW}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cifar10: looked for the file {path}, found: {error.strerror}; {HOW}") from error


def _empty_array(*_: Any) -> NDArray[np.uint8]:
    """What a pickled array starts from; its shape, type and bytes come later, through __setstate__."""
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into an old pickle; no other codec is needed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"found the codec {encoding!r}, expected 'latin1'")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How Python 3 writes empty bytes into an old pickle."""
    return b""


class _Unpickler(pickle.Unpickler):
    """Reads what the published files are made of and refuses every other name before it is imported."""

    ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
        ("numpy", "ndarray"): None,  # named in the files, called by nobody
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
        ("__builtin__", "bytes"): _no_bytes,
        ("builtins", "bytes"): _no_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file does")
        return self.ALLOWED[module, name]


def _unpickle(path: Path, content: bytes) -> dict[str, Any]:
    """The dictionary in a file. Old files hold bytes where newer copies hold text: keys become text."""
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except UNREADABLE as error:
        raise DataError(
            f"cifar10: {path} ({len(content):,} bytes) is truncated or no CIFAR-10 file: {error}; {HOW}"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"cifar10: {path} holds a {type(value).__name__}, expected a dictionary; {HOW}")
    return {_text(key): entry for key, entry in value.items()}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _check_meta(path: Path, content: bytes) -> None:
    names = _unpickle(path, content).get("label_names")
    found = tuple(_text(name) for name in names) if isinstance(names, list) else names
    if found != CLASSES:
        raise DataError(f"cifar10: {path} names the classes {found}, expected {CLASSES}; {HOW}")


def _batch(path: Path, content: bytes) -> ImageSet:
    batch = _unpickle(path, content)
    if missing := {"data", "labels"} - set(batch):
        raise DataError(
            f"cifar10: {path} has the keys {sorted(batch)}, expected also {sorted(missing)}; {HOW}"
        )
    images, labels = batch["data"], batch["labels"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        raise DataError(
            f"cifar10: {path} has data {_kind(images)}, expected uint8 array (N, {PIXELS}); {HOW}"
        )
    if not isinstance(labels, list) or not len(labels) == len(images) > 0:
        expected = f"as many as its {len(images)} images, and not none"
        raise DataError(f"cifar10: {path} has labels {_kind(labels)}, expected {expected}; {HOW}")
    if wrong := [label for label in labels if type(label) is not int or not 0 <= label < len(CLASSES)]:
        raise DataError(f"cifar10: {path} has the label {wrong[0]!r}, expected integers 0..9; {HOW}")
    ids = torch.tensor(labels, dtype=torch.int64)
    return ImageSet(torch.tensor(images).view(-1, 3, 32, 32), ids, ids)


def _kind(value: Any) -> str:
    """Type and size of a thing, for messages."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {value.shape}"
    return f"list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _note(train: int, test: int, changed: list[str]) -> str:
    """What is not official: how many images are missing, or whose MD5 is another one."""
    if not changed:
        return ""
    if (train, test) != (5 * IMAGES_PER_FILE, IMAGES_PER_FILE):
        whole = f"{5 * IMAGES_PER_FILE:,} training and {test:,} of {IMAGES_PER_FILE:,} test images"
        return f"{train:,} of {whole}"
    return f"another MD5 than published: {', '.join(changed)}"


def _join(parts: list[ImageSet]) -> ImageSet:
    labels = torch.cat([part.labels for part in parts])
    return ImageSet(torch.cat([part.images for part in parts]), labels, labels)

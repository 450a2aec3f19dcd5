"""What CIFAR-10 and CIFAR-100 share: folders of published pickles, read with care and compared by MD5.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. The files are pickles, and a pickle can run any program, so
they are read by an unpickler that knows nothing but strings, lists, dictionaries and byte arrays. A folder
that is not the published one is read as well, and says so in `Data.note`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.api import Data, DataError, DataMissing, ImageSet

URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
PIXELS = 3 * 32 * 32
TRAIN, TEST = 50_000, 10_000  # images, in both
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
Half = dict[str, Tensor]  # images (N, 3, 32, 32) uint8, and (N,) int64 for each field of labels


@dataclass(frozen=True)
class Archive:
    """One published folder, as torchvision lists it, and its files once they are read."""

    name: str  # of the data set, for messages
    title: str  # CIFAR-10 or CIFAR-100
    label_fields: dict[str, int]  # which lists of labels an image has, and below what its labels are

    @property
    def listed(self) -> Any:
        """torchvision's record: file names, MD5s, archive. Its reader is not used: it unpickles anything."""
        from torchvision import datasets

        return getattr(datasets, self.title.replace("-", ""))

    @property
    def folder(self) -> str:
        return f"{self.title.lower()}-{'batches-py' if self.title == 'CIFAR-10' else 'python'}"

    @property
    def how(self) -> str:
        return (
            f"get {self.title.lower()}-python.tar.gz from {URL}, unpack it, "
            f"and give --data-dir FOLDER where FOLDER holds {self.folder}; or add --download"
        )

    def find(self, folder: Path | None) -> Path:
        """The published folder below the data folder; raises DataMissing where there is none.

        Raises DataError where the data folder is the published one itself.
        """
        if folder is None:
            message = f"{self.name}: no data folder was given, expected one that holds {self.folder}"
            raise DataMissing(f"{message}; {self.how}")
        root = folder / self.folder
        if root.is_dir():
            return root
        if all((folder / name).is_file() for name, _ in self.listed.test_list):
            raise DataError(
                f"{self.name}: looked for {root}, but {folder} itself holds the batches; "
                f"rename it to {self.folder} if need be and give the folder above it as --data-dir"
            )
        found = "does not hold it" if folder.is_dir() else "is no folder"
        raise DataMissing(f"{self.name}: looked for {root}, but {folder} {found}; {self.how}")

    def download(self, folder: Path) -> None:
        """Fetch the published archive into the data folder, check its MD5 and unpack it."""
        from torchvision.datasets.utils import download_and_extract_archive

        record = self.listed
        try:
            folder.mkdir(parents=True, exist_ok=True)
            download_and_extract_archive(
                record.url, str(folder), filename=record.filename, md5=record.tgz_md5
            )
        except (OSError, RuntimeError, EOFError) as error:
            raise DataError(
                f"{self.name}: could not download {record.url} into {folder}: {error}; "
                f"get {record.filename} from {URL} by other means and unpack it there"
            ) from error

    def read(self, root: Path, names: dict[str, tuple[str, ...]]) -> tuple[Half, Half, str]:
        """The training half, the test half, and what is not official about them.

        `names` are the lists of class names that the published folder holds, by key.
        Raises DataError where a file is missing, truncated or foreign.
        """
        train_files = [name for name, _ in self.listed.train_list]
        test_files = [name for name, _ in self.listed.test_list]
        meta = self.listed.meta
        published = {**dict(self.listed.train_list + self.listed.test_list), meta["filename"]: meta["md5"]}
        contents = {name: self._bytes(root / name) for name in published}
        self._check_names(root / meta["filename"], contents[meta["filename"]], names)
        train, test = (
            _join([self._batch(root / name, contents[name]) for name in files])
            for files in (train_files, test_files)
        )
        changed = [name for name, digest in published.items() if _md5(contents[name]) != digest]
        return train, test, _note(len(train["images"]), len(test["images"]), changed)

    def _bytes(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            message = f"{self.name}: looked for the file {path}, found: {error.strerror}"
            raise DataError(f"{message}; {self.how}") from error

    def _unpickle(self, path: Path, content: bytes) -> dict[str, Any]:
        """The dictionary in a file. Old files hold bytes where newer copies hold text: keys become text."""
        try:
            value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        except UNREADABLE as error:
            size = f"({len(content):,} bytes)"
            raise DataError(
                f"{self.name}: {path} {size} is truncated or no {self.title} file: {error}; {self.how}"
            ) from error
        if not isinstance(value, dict):
            raise self._foreign(path, f"holds a {type(value).__name__}, expected a dictionary")
        return {_text(key): entry for key, entry in value.items()}

    def _check_names(self, path: Path, content: bytes, expected: dict[str, tuple[str, ...]]) -> None:
        meta = self._unpickle(path, content)
        for key, names in expected.items():
            listed = meta.get(key)
            found = tuple(_text(name) for name in listed) if isinstance(listed, list) else listed
            if found != names:
                raise self._foreign(path, f"names the classes {found}, expected {names}")

    def _batch(self, path: Path, content: bytes) -> Half:
        batch = self._unpickle(path, content)
        if missing := {"data", *self.label_fields} - set(batch):
            raise self._foreign(path, f"has the keys {sorted(batch)}, expected also {sorted(missing)}")
        images = batch["data"]
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
            raise self._foreign(path, f"has data {_kind(images)}, expected uint8 array (N, {PIXELS})")
        half = {"images": torch.tensor(images).view(-1, 3, 32, 32)}
        for key, below in self.label_fields.items():
            half[key] = self._labels(path, key, batch[key], len(images), below)
        return half

    def _labels(self, path: Path, key: str, labels: Any, images: int, below: int) -> Tensor:
        if not isinstance(labels, list) or not len(labels) == images > 0:
            expected = f"as many as its {images} images, and not none"
            raise self._foreign(path, f"has {key} {_kind(labels)}, expected {expected}")
        if wrong := [label for label in labels if type(label) is not int or not 0 <= label < below]:
            raise self._foreign(path, f"has the label {wrong[0]!r}, expected integers 0..{below - 1}")
        return torch.tensor(labels, dtype=torch.int64)

    def _foreign(self, path: Path, found: str) -> DataError:
        return DataError(f"{self.name}: {path} {found}; {self.how}")


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
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file does")
        return self.ALLOWED[module, name]


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _kind(value: Any) -> str:
    """Type and size of a thing, for messages."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {value.shape}"
    return f"list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def as_data(
    halves: tuple[Half, Half],
    note: str,
    fields: tuple[str, str],
    classes: tuple[str, ...],
    groups: tuple[str, ...],
) -> Data:
    """The halves as a data set whose labels and groups are the two named `fields`."""
    label, group = fields
    train, test = (ImageSet(half["images"], half[label], half[group]) for half in halves)
    partial = bool(note) and (len(train), len(test)) != (TRAIN, TEST)
    return Data(train, test, classes, groups, official=not note, note=note, partial=partial)


def _note(train: int, test: int, changed: list[str]) -> str:
    """What is not official: how many images are missing, or whose MD5 is another one."""
    if not changed:
        return ""
    if (train, test) != (TRAIN, TEST):
        return f"{train:,} of {TRAIN:,} training and {test:,} of {TEST:,} test images"
    return f"another MD5 than published: {', '.join(changed)}"


def _join(parts: list[Half]) -> Half:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

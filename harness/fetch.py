"""What `--download` does: fetch the data sets that are asked for and not there. Without it nothing is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from harness.errors import Misuse
from harness.node_data import data_folder
from harness.registry import Catalogue
from tasks.api import DataError, DataMissing


def fetch_data(
    catalogue: Catalogue,
    datasets: Iterable[str],
    data_dir: str | Path | None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Download each of `datasets` that is missing from the data folder; what is there is left alone.

    Raises Misuse where there is no data folder, where a data set cannot be downloaded, or where that failed.
    """
    for dataset in sorted(set(datasets)):
        info = catalogue.dataset(dataset)
        if not info.needs_folder or info.find is None:
            continue
        if data_dir is None:
            raise Misuse(f"--download: {dataset} needs a folder to be put in; type --data-dir FOLDER too")
        folder = data_folder(dataset, data_dir)
        try:
            info.find(folder)
        except DataMissing as missing:
            if info.download is None:
                raise Misuse(f"--download cannot get {dataset}. {missing}") from missing
            say(f"downloading {dataset} into {folder}")
            _download(info.download, folder)
        except DataError as misplaced:
            raise Misuse(str(misplaced)) from misplaced


def _download(download: Callable[[Path | None], None], folder: Path | None) -> None:
    try:
        download(folder)
    except DataError as error:
        raise Misuse(str(error)) from error

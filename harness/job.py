"""What is to run on a cluster: its name, its command, and the files that go with it."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import Misuse
from harness.provenance import PACKAGES
from harness.urls import is_url, refuse_credentials

MOST_BYTES = 100 << 20  # of one package, by Ray's own limit
PROGRAM = "exec python3 -m harness.cli"  # exec: what is stopped is the sweep itself, not a shell before it


@dataclass(frozen=True)
class Wish:
    """What is to run on a cluster, as typed."""

    suite: str
    store: str
    words: tuple[str, ...] = ()  # options of the verb, as on its own command line
    plugins: tuple[str, ...] = ()
    verb: str = "sweep"  # or tune

    def __post_init__(self) -> None:
        check_store(self.store)
        refuse_secrets([self.suite, *self.words, *self.plugins])
        for plugin in map(Path, self.plugins):
            if not plugin.expanduser().is_file():
                raise Misuse(f"--plugin {plugin}: no such file; give the path of a Python file")
            if plugin.stem in PACKAGES:
                raise Misuse(f"--plugin {plugin}: would hide a package of efface on the cluster; rename it")

    @property
    def name(self) -> str:
        """The first part of its submission id."""
        about = [self.verb, self.suite_name, self.store.rstrip("/")]
        about += self.words if self.verb == "tune" else ()
        digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]
        return f"efface-{self.verb}-{self.suite_name}-{digest}"

    @property
    def suite_name(self) -> str:
        return Path(self.suite).stem

    def command(self) -> str:
        """What the head runs, in a folder that holds the files of this job."""
        typed = [self.suite, "--store", self.store, "--on", "auto", *self.words]
        typed += [word for plugin in self.plugins for word in ("--plugin", plugin)]
        travels = set(self.files)
        words = [Path(word).name if word in travels else word for word in typed]
        return f"{PROGRAM} {self.verb} {shlex.join(words)}"

    @property
    def files(self) -> tuple[str, ...]:
        """What travels with the packages: a suite of one's own, the plugins, and every option that is the
        relative path of a file here; a whole path is one of the cluster's.
        """
        own = [self.suite] if self.suite.endswith(".toml") else []
        named = [word for word in self.words if not word.startswith("/") and Path(word).is_file()]
        return tuple(dict.fromkeys([*own, *named, *self.plugins]))

    @contextmanager
    def folder(self) -> Iterator[str]:
        """A folder with the files of this job and nothing else."""
        with tempfile.TemporaryDirectory(prefix="efface-") as made:
            for path in self.files:
                target = Path(made) / Path(path).name
                if target.exists():
                    raise Misuse(f"{path}: another file of that name goes to the cluster too; rename one")
                shutil.copy(Path(path).expanduser(), target)
            size = sum(file.stat().st_size for file in Path(made).iterdir())
            if size > MOST_BYTES:
                raise Misuse(f"{', '.join(self.files)}: {size:,} bytes, the cluster takes {MOST_BYTES:,}")
            yield made


def check_store(store: str) -> None:
    """A store that the cluster can reach; a folder only by its whole path."""
    refuse_credentials(store)
    if store.startswith("memory:"):
        raise Misuse(f"--store {store}: is gone with the job; give a URL such as s3://bucket/store")
    if not is_url(store) and not store.startswith("/"):
        raise Misuse(
            f"--store {store}: would be a folder on one node of the cluster; give a URL such as "
            "s3://bucket/store, or the whole path of a folder that all nodes share"
        )


def refuse_secrets(typed: Sequence[str]) -> None:
    """Every word of a command is shown by the cluster to whoever asks for the job."""
    option = "submit"
    for word in typed:
        text = word
        if word.startswith("--"):
            option, _, text = word.partition("=")  # as in --data=URL
        refuse_credentials(text, option)


def words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options by name as they are typed; those without a value are left out."""
    typed: list[str] = []
    for name, value in options.items():
        if value is None or value == []:
            continue
        each = value if isinstance(value, list) else [value]
        for one in each:
            typed += [f"--{name}"] if one is True else [f"--{name}", str(one)]
    return tuple(typed)


def in_files(presets: Sequence[str]) -> list[str]:
    """Presets as what can travel to a cluster: of a folder here, its files; a whole path is the cluster's."""
    found: list[str] = []
    for where in presets:
        here = Path(where).is_dir() and not where.startswith("/")
        inside = sorted(map(str, Path(where).glob("*.toml"))) if here else [where]
        if not inside:
            raise Misuse(f"--presets {where}: no .toml file there; expected what `efface tune` writes")
        found += inside
    return found


def check_urls(option: str, typed: Sequence[str]) -> None:
    """Files that the cluster must be able to read: a URL, or the whole path there."""
    for text in typed:
        name, sign, rest = text.partition("=")
        where = rest if sign and not is_url(name) else text
        if is_url(where):
            refuse_credentials(where, option)
        elif not where.startswith("/"):
            raise Misuse(
                f"{option} {text}: the cluster cannot see it; give a URL, or the whole path on its nodes"
            )

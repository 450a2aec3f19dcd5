"""Where a number came from: code version, hardware, host. Goes into every row and never into an id."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from harness import __version__

PACKAGES = ("harness", "methods", "tasks")


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit and dirtiness of the checkout that this code runs from; (None, None) for an installed wheel."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None, None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    done.check_returncode()
    return done.stdout.strip()


def package_folders() -> list[str]:
    """Where the three packages lie; inside a job each has a folder of its own."""
    specs = [importlib.util.find_spec(package) for package in PACKAGES]
    return [str(Path(spec.origin).parent) for spec in specs if spec and spec.origin]


@cache
def code_digest() -> str:
    """16 hex digits over the source of the three packages: a worker that runs other code is refused."""
    sha = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        origin = spec.origin if spec else None
        if origin is None:
            sha.update(f"{package} missing".encode())
            continue
        root = Path(origin).parent
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.toml")]):
            sha.update(str(path.relative_to(root)).encode())
            sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def driver_facts() -> dict[str, Any]:
    """What the driver knows of the code; the same for all rows of a sweep."""
    commit, dirty = git_state()
    return {"efface_version": __version__, "git_commit": commit, "git_dirty": dirty}


def worker_facts(device: Any) -> dict[str, Any]:
    """What a worker knows of its machine."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "host": socket.gethostname(),
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
    }


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"cpu ({found or platform.machine()})"

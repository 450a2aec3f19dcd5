"""Hosts made of namespaces, a Ray cluster on them, and the commands that a user types to it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
VENV = Path(sys.prefix)
PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "ip": "iproute2"}
HEAD, PORT = "10.77.0.1", 18265
THERE = ["--address", f"http://127.0.0.1:{PORT}"]


def environment(folder: Path) -> dict[str, str]:
    """Nothing of this machine's own Ray or home is touched."""
    (folder / "home").mkdir()
    return {
        "HOSTS_DIR": str(folder / "hosts"),
        "RAY_TMPDIR": str(folder),
        "HOME": str(folder / "home"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_UP_enable_autoscaler_v2": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }


# -------------------- what it needs


def missing() -> list[str]:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return sorted(package for program, package in PROGRAMS.items() if not shutil.which(program, path=path))


def obstacle() -> str | None:
    """Why pseudo-hosts cannot be made here."""
    if os.geteuid() != 0:
        return "it makes network namespaces, which only root may"
    if names := missing():
        return f"no {', '.join(names)} here; type: make test-cluster APT=1"
    tried = subprocess.run(["unshare", "-m", "-u", "-p", "-n", "-f", "true"], capture_output=True, text=True)
    if tried.returncode:
        return f"this machine gives no namespaces ({tried.stderr.strip()})"
    return None


# -------------------- up and down


def ray(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(str(VENV / "bin/ray"), *words, check=check)


EFFACE = (str(VENV / "bin/python"), "-m", "harness.cli")


def efface(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(*EFFACE, *words, check=check)


def efface_process(*words: str) -> subprocess.Popen[str]:
    """A command that goes on while the test does something else."""
    return subprocess.Popen(
        (*EFFACE, *words), cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(*command: str, check: bool = True, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
    )
    if check and done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done


@contextlib.contextmanager
def hosts(folder: Path) -> Iterator[None]:
    """Three pseudo-hosts that see the virtual environment, its Python, and a folder for the store."""
    (folder / "store").mkdir()
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    kept = {str(folder / "store"), str(VENV), sys.base_prefix}
    os.environ["KEEP"] = " ".join(sorted(kept))
    script = str(HERE / "hosts.sh")
    started = run("bash", script, "up", "3", check=False)
    if started.returncode == 3:  # not ours: leave them alone
        raise SystemExit(started.stdout)
    try:
        if started.returncode:
            raise SystemExit(started.stdout)
        yield
    finally:
        run("bash", script, "down", check=False)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """`ray up`, and `ray down` whatever happens; what is left on a host ends with its namespace."""
    facts = {"HOSTS": folder / "hosts", "VENV": VENV, "CHECKOUT": CHECKOUT, "TOKEN": folder / "token"}
    config = folder / "cluster.yaml"
    config.write_text(string.Template((HERE / "cluster-local.yaml").read_text()).substitute(facts))
    try:
        with timed("ray up"):
            ray("up", str(config), "-y", "--no-config-cache")
        with timed("both workers"):
            wait_for(lambda: alive(config) == 3, 120, "three nodes")
        yield str(config)
    finally:
        with (
            timed("ray down"),
            contextlib.suppress(subprocess.TimeoutExpired),
        ):  # the namespaces end what is left
            run(str(VENV / "bin/ray"), "down", str(config), "-y", check=False, seconds=60)


def alive(config: Path) -> int:
    """Nodes that the head counts."""
    question = "ray list nodes --filter state=ALIVE --format json"
    return ray("exec", str(config), question, "--no-config-cache", check=False).stdout.count('"node_ip"')


@contextlib.contextmanager
def tunnel(config: str) -> Iterator[None]:
    """`ray dashboard`: the only way in."""
    command = [str(VENV / "bin/ray"), "dashboard", config, "--port", str(PORT), "--no-config-cache"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: reachable("127.0.0.1", PORT), 30, "the tunnel")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(20)


def reachable(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 2):
        return True
    return False


def wait_for(true: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not there after {seconds:.0f} s")
        time.sleep(1)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - start:.0f} s", flush=True)


# -------------------- saying


def expect(true: bool, claim: str) -> None:
    if not true:
        raise SystemExit(f"cluster test failed: {claim}")
    print(f"ok: {claim}", flush=True)

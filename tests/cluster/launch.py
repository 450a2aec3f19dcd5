"""Launch a real cluster on three hosts over SSH, sweep and search there, look at what came out, end it all.

`make test-cluster`. The hosts are namespaces of this machine (hosts.sh): to Ray, SSH and rsync they are
machines. Needs root and four Debian packages; where it cannot run it says why and ends with 0 (`--apt`
installs the packages, `--must` ends with 1).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
VENV = Path(sys.prefix)
PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "ip": "iproute2"}
HEAD, PORT = "10.77.0.1", 18265
PART = ["--methods", "baseline,retrain,neggrad,jit", "--models", "vgg_mini", "--seeds", "0"]
SEARCH = ["--method", "neggrad", "--model", "vgg_mini", "--scenario", "full_class", "--trials", "10"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apt", action="store_true", help="install missing Debian packages first")
    parser.add_argument("--must", action="store_true", help="fail where it cannot run")
    options = parser.parse_args()
    if options.apt and (names := missing()):
        subprocess.run(["apt-get", "update", "-qq"])
        subprocess.run(["apt-get", "install", "-y", "-qq", *names], stdout=subprocess.DEVNULL)
    if why := obstacle():
        print(f"cluster test not run: {why}")
        return int(options.must)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up then as well
    folder = Path(tempfile.mkdtemp(prefix="efface-cluster-", dir="/var/tmp"))
    os.environ |= environment(folder)
    with hosts(folder), cluster(folder) as config, tunnel(config):
        check(folder)
    print("cluster test: 1 passed")
    return 0


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


def efface(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(str(VENV / "bin/python"), "-m", "harness.cli", *words, check=check)


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


# -------------------- what must be true


def check(folder: Path) -> None:
    store, there = str(folder / "store/demo"), ["--address", f"http://127.0.0.1:{PORT}"]
    check_doors(there)
    with timed("sweep"):
        efface("submit", "demo", *there, "--store", store, *PART)
    count = check_rows(store)
    check_tables(store)
    with timed("the same sweep again"):
        efface("submit", "demo", *there, "--store", store, *PART)
    expect(len(rows_of(store)) == count, "nothing is run twice")
    with timed("search of 10 trials"):
        efface("submit", "demo", *there, "--store", store, "--tune", "--", *SEARCH)
    trials = pd.read_parquet(f"{store}/trials")
    expect(len(trials) >= 10, f"the search has 10 trials: {len(trials)}")


def check_doors(there: list[str]) -> None:
    """The dashboard listens on the head's loopback alone, and wants the token."""
    expect(not reachable(HEAD, 8265), "the dashboard is closed to the network")
    token = os.environ.pop("RAY_AUTH_TOKEN_PATH")
    wrong = Path(token).with_name("wrong")
    wrong.write_text("0" * 64)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(wrong)
    refused = efface("status", *there, check=False)
    os.environ["RAY_AUTH_TOKEN_PATH"] = token
    expect(refused.returncode == 2, f"a wrong token is refused: {refused.stdout}")


def rows_of(store: str) -> pd.DataFrame:
    return pd.read_parquet(f"{store}/rows").query("status == 'ok'")


def check_rows(store: str) -> int:
    every, done = pd.read_parquet(f"{store}/rows"), rows_of(store)
    expect(
        set(every["status"]) <= {"ok", "skipped"},
        f"every run is ok: {every['status'].value_counts().to_dict()}",
    )
    expect(done["run_id"].is_unique, "every run has one row")
    share = done["host"].value_counts().to_dict()
    expect(set(share) == {"h2", "h3"}, f"both workers took part and the head did not: {share}")
    return len(done)


def check_tables(store: str) -> None:
    """What the tables say, means and the median of the seconds, follows from the rows."""
    text = efface("tables", "demo", "--store", store, *PART, "--format", "csv").stdout
    table = pd.read_csv(io.StringIO(text[text.index("table,method") :]))
    table = table[table["table"].str.contains("full_class")]
    rows = rows_of(store).query("kind == 'run' and scenario == 'full_class'")
    for method in ("neggrad", "jit"):
        told = table.query("method == @method").set_index("metric")["value"]
        mine = rows.query("method == @method")
        wanted = {name: 100 * mine[name].mean() for name in ("retain_acc", "forget_acc", "test_acc")}
        wanted["seconds"] = mine.query("exclusive")["seconds"].median()
        for name, value in wanted.items():
            expect(
                abs(told[name] - value) < 1e-6,
                f"{name} of {method} in the table is that of the rows: {value:.3f}",
            )


def expect(true: bool, claim: str) -> None:
    if not true:
        raise SystemExit(f"cluster test failed: {claim}")
    print(f"ok: {claim}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

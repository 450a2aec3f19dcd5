"""Launch a real cluster on three hosts over SSH, sweep and search there, look at what came out, end it all.

`make test-cluster`. The hosts are namespaces of this machine (hosts.sh): to Ray, SSH and rsync they are
machines. Needs root and four Debian packages; where it cannot run it says why and ends with 0 (`--apt`
installs the packages, `--must` ends with 1).
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from tests.cluster.bed import (
    HEAD,
    THERE,
    cluster,
    efface,
    environment,
    expect,
    hosts,
    missing,
    obstacle,
    reachable,
    timed,
    tunnel,
)
from tests.cluster.partition import check_partition

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
        check_partition(folder)
    print("cluster test: 1 passed")
    return 0


# -------------------- what must be true


def check(folder: Path) -> None:
    store = str(folder / "store/demo")
    check_doors()
    with timed("sweep"):
        efface("submit", "demo", *THERE, "--store", store, *PART)
    count = check_rows(store)
    check_tables(store)
    with timed("the same sweep again"):
        efface("submit", "demo", *THERE, "--store", store, *PART)
    expect(len(rows_of(store)) == count, "nothing is run twice")
    with timed("search of 10 trials"):
        efface("submit", "demo", *THERE, "--store", store, "--tune", "--", *SEARCH)
    trials = pd.read_parquet(f"{store}/trials")
    expect(len(trials) >= 10, f"the search has 10 trials: {len(trials)}")


def check_doors() -> None:
    """The dashboard listens on the head's loopback alone, and wants the token."""
    expect(not reachable(HEAD, 8265), "the dashboard is closed to the network")
    token = os.environ.pop("RAY_AUTH_TOKEN_PATH")
    wrong = Path(token).with_name("wrong")
    wrong.write_text("0" * 64)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(wrong)
    refused = efface("status", *THERE, check=False)
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


if __name__ == "__main__":
    sys.exit(main())

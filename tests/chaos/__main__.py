"""`python -m tests.chaos`: kill at random what runs a sweep; its rows must be those of a quiet one."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.chaos.disturb import disturb, plan_of
from tests.chaos.flaky import BUCKET, Server
from tests.chaos.machines import Machines
from tests.chaos.sweeps import Driver, compare, repeated, rows, write_suite


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--machines", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=540.0, help="after which it is given up")
    parser.add_argument("--s3", type=float, metavar="SHARE", help="store on an S3 server that fails so often")
    return parser.parse_args()


def quiet(suite: Path) -> tuple[str, float]:
    """The same sweep, undisturbed and without Ray."""
    store = str(suite.with_name("quiet"))
    began = time.monotonic()
    driver = Driver(suite, store, "inline")
    driver.start()
    assert driver.process is not None
    if driver.process.wait() != 0:
        raise SystemExit(driver.said())
    return store, time.monotonic() - began


def main() -> None:
    """Quiet sweep, disturbed sweep, comparison; a line for each."""
    typed = arguments()
    with tempfile.TemporaryDirectory(prefix="efface-chaos-") as name:
        folder = Path(name)
        suite = write_suite(folder, typed.runs)
        os.environ["CHAOS_MARKS"] = str(folder / "marks")
        reference, seconds = quiet(suite)
        wanted = rows(reference)
        (folder / "marks").write_bytes(b"")
        print(f"undisturbed: {(wanted['kind'] == 'run').sum()} runs inline in {seconds:.0f} s", flush=True)
        server = Server(typed.s3, typed.seed, folder / "s3.log") if typed.s3 is not None else None
        if server:
            os.environ.update(server.environment())
        machines = None
        try:
            machines = Machines(typed.machines, typed.seed)
            store = f"s3://{BUCKET}/store" if server else str(folder / "store")
            driver = Driver(suite, store, machines.address)
            plan = plan_of(typed.kills, typed.runs, typed.seed)
            report = disturb(
                driver, machines, plan, typed.seconds, typed.seed, lambda text: print(text, flush=True)
            )
            print(f"disturbed: {report.line()}")
            if server:
                print("S3: {} requests, {} refused".format(*server.counts()))
            if not report.ended:
                raise SystemExit(f"not done within {typed.seconds:.0f} s\n{driver.said()}")
            found = rows(store)
            compare(found, wanted)
            charged = int((found["attempts"] - 1).sum())
            print(
                f"all {len(found)} rows are those of the undisturbed sweep; {charged} attempts charged; ",
                end="",
            )
            print(repeated(found, folder / "marks"))
        finally:
            if machines:
                machines.close()
            if server:
                server.close()


if __name__ == "__main__":
    main()

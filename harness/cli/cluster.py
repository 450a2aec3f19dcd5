"""Verbs that send work to a cluster and end it there."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from harness.cli.app import app, say
from harness.cli.options import (
    DataDir,
    Datasets,
    DataUrl,
    Download,
    Limit,
    Methods,
    Models,
    PaperTables,
    Plugins,
    Presets,
    Scenarios,
    Seeds,
    SuiteName,
    Targets,
    Weights,
    prepare,
    select,
)
from harness.errors import Misuse

if TYPE_CHECKING:
    from harness.submit import Jobs

Address = Annotated[str, typer.Option("--address", help="The cluster's dashboard")]
TUNE_TAKES = {"data", "data-dir", "download", "weights", "limit", "per-gpu", "device"}
HERE = "http://127.0.0.1:8265"


@app.command()
def submit(
    suite: SuiteName,
    more: Annotated[
        list[str] | None, typer.Argument(help="After --: further options of sweep, or of tune")
    ] = None,
    address: Address = HERE,
    store: Annotated[str, typer.Option("--store", help="URL, or folder that all nodes share")] = "",
    tune: Annotated[bool, typer.Option("--tune", help="A search instead: efface tune")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow what it says")] = False,
    plugin: Plugins = None,
    presets: Presets = None,
    data: DataUrl = None,
    data_dir: DataDir = None,
    download: Download = False,
    weights: Weights = None,
    limit: Limit = None,
    workers: Annotated[int | None, typer.Option(help="Workers; default: as many as there is room")] = None,
    per_gpu: Annotated[int | None, typer.Option(help="Runs that share one GPU")] = None,
    device: Annotated[str | None, typer.Option(help="auto | cpu | cuda")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which one run is stopped")] = None,
    methods: Methods = None,
    models: Models = None,
    datasets: Datasets = None,
    scenarios: Scenarios = None,
    targets: Targets = None,
    seeds: Seeds = None,
    table: PaperTables = None,
) -> None:
    """Sweep SUITE as a job of a Ray cluster; follows what it says and ends with its exit code."""
    from harness import job
    from harness.submit import Jobs

    if not store:
        raise Misuse("submit: no --store given; give a URL such as --store s3://bucket/store")
    for option, files in (("--weights", weights or []), ("--data", [data] if data else [])):
        job.check_urls(option, files)
    job.check_urls("--data-dir", [data_dir] if data_dir else [])
    options: dict[str, Any] = {
        "data": data,
        "data-dir": data_dir,
        "limit": limit,
        "presets": job.in_files(presets or []),
        "device": device,
    }
    options |= {"per-gpu": per_gpu, "seeds": seeds, "workers": workers, "time-limit": time_limit}
    options |= {"methods": methods, "models": models, "datasets": datasets, "scenarios": scenarios}
    options |= {"targets": targets, "table": table, "weights": weights, "download": download or None}
    if tune and (odd := [name for name, value in options.items() if value and name not in TUNE_TAKES]):
        raise Misuse(f"--tune with --{odd[0]}: give the options of `efface tune` after --")
    wish = job.Wish(suite, store, (*job.words(options), *(more or ())), tuple(plugin or ()), _verb(tune))
    if not tune:  # what cannot be planned here would fail there
        only = select(methods, models, datasets, scenarios, targets, seeds, table)
        prepare(suite, None, plugin, only, presets)
    _warn(address, store)
    cluster = Jobs(address)
    submission_id = cluster.submit(wish)
    say(f"submitted {submission_id} to {address}")
    if detach:
        print(submission_id)
        return
    raise SystemExit(follow_job(cluster, submission_id))


def _verb(tune: bool) -> str:
    return "tune" if tune else "sweep"


def _warn(address: str, store: str) -> None:
    if store.startswith("/"):
        say(f"--store {store}: must be a folder that all nodes of the cluster share")
    if urlsplit(address).hostname not in ("127.0.0.1", "localhost", "::1") and address.startswith("http:"):
        say(f"{address} is not encrypted, and whoever reaches it can run code there; better use a tunnel")


def follow_job(cluster: Jobs, submission_id: str) -> int:
    """Print a job's log as it grows; Ctrl-C ends the printing, not the job."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        return cluster.follow(submission_id, write)
    except KeyboardInterrupt:
        say(cluster.goes_on(submission_id))
        return 130


@app.command()
def stop(
    job_id: Annotated[str, typer.Argument(help="Id of the job, as `efface status --address URL` lists it")],
    address: Address = HERE,
) -> None:
    """End a job of a cluster gently: what is done is kept."""
    from harness.submit import Jobs

    if Jobs(address).stop(job_id):
        say(f"{job_id} has ended. What is done is kept; submit it again to go on.")
    else:
        say(f"{job_id} had ended before")


def show_jobs(address: str, follow_id: str | None, as_json: bool) -> None:
    """What a cluster runs and has run, or the log of one job."""
    from harness.submit import Jobs

    cluster = Jobs(address)
    if follow_id is not None:
        raise SystemExit(follow_job(cluster, follow_id))
    found = cluster.list()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for job in found:
        about = f"{job['verb']} {job['suite']}  {job['store']}" if job["suite"] else "(not efface's)"
        code = "" if job["exit_code"] in (None, 0) else f" ({job['exit_code']})"
        print(f"{job['id']}  {job['status']}{code}  since {job['since']}  {about}  by {job['by']}")
    if not found:
        print(f"no jobs at {address}")

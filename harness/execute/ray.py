"""The executor on Ray: a pool of long-lived actors, one for each device slot.

Actors rather than tasks, because Ray starts a new process for each GPU task by default and a reused task
worker keeps its first CUDA device, while an actor is bound to its device for life and keeps its data sets and
originals loaded. An actor that dies is replaced and its job submitted again, twice at most; jobs that stood
behind it in the actor's queue had no part in it and keep their attempts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import Misuse
from harness.execute import stop
from harness.plan import Job
from harness.provenance import PACKAGES, code_digest
from harness.rows import Row
from harness.schedule import Done
from harness.spec import RunSpec, TrainSpec
from harness.workspace import Settings

MAX_ATTEMPTS = 3  # the first, and two more after a worker died
AHEAD = 2  # jobs in an actor's queue: one running, one ready, so that no worker waits for the driver
STARTING_SECONDS = 180.0
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a CPU worker must not see GPUs
    "RAY_grpc_client_keepalive_time_ms": "5000",  # a silent node is noticed in seconds, not minutes
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # of the private cluster on this machine, which listens on loopback alone
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


class Worker:
    """What runs in an actor: one workspace, one job at a time."""

    def __init__(self, settings: Settings, digest: str | None) -> None:
        from harness import registry
        from harness.workspace import Workspace

        found = code_digest()
        if digest is not None and found != digest:
            raise RuntimeError(f"this worker runs other code ({found}) than the driver ({digest})")
        self.space = Workspace(settings, registry.load(settings.plugins))

    def pid(self) -> int:
        return os.getpid()

    def execute(self, job: Job) -> Row:
        from harness.stages import execute

        return execute(job, self.space)


@dataclass
class Slot:
    """One actor, what it was given in order, and what it has loaded."""

    actor: Any
    queue: deque[tuple[Any, Job]] = field(default_factory=deque)
    holds: set[str] = field(default_factory=set)
    since: float = 0.0  # when the job at the head of the queue got there
    started: bool = False
    alone: bool = False


class RayPool:
    """Hands jobs to actors and takes their rows back."""

    def __init__(
        self,
        settings: Settings,
        *,
        workers: int | None,
        address: str | None = None,
        gpus_each: float = 0.0,
        time_limit: float | None = None,
    ) -> None:
        self.settings, self.time_limit, self.gpus_each = settings, time_limit, gpus_each
        self._folder = _plugin_folder(settings.plugins)
        self._remote_settings = replace(settings, plugins=tuple(Path(p).name for p in settings.plugins))
        self._queue: deque[Job] = deque()
        self._ray = _connect(address, workers, self._folder)
        stop.listen()
        self.workers = workers or self._room()
        self._slots = [self._start() for _ in range(self.workers)]
        self._settled: list[Done] = []

    @property
    def slots(self) -> int:
        return self.workers

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def wait(self, seconds: float) -> list[Done]:
        stop.check()
        self._assign()
        heads = {slot.queue[0][0]: slot for slot in self._slots if slot.queue}
        if heads:
            ready, _ = self._ray.wait(list(heads), num_returns=1, timeout=seconds)
            if ready:  # whatever else is there already comes along
                ready, _ = self._ray.wait(list(heads), num_returns=len(heads), timeout=0)
            for ref in ready:
                self._collect(heads[ref])
        elif not self._settled:
            time.sleep(min(seconds, 0.05))
        self._enforce_limits()
        settled, self._settled = self._settled, []
        return settled

    def close(self) -> None:
        """Stop the actors, and the private cluster if there is one."""
        for slot in self._slots:
            self._ray.kill(slot.actor, no_restart=True)
        self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -------------------- assigning

    def _start(self) -> Slot:
        # an actor on a GPU takes no CPU: it would hold one for life, and the last ones would never start
        options = {"num_cpus": 0 if self.gpus_each else 1, "num_gpus": self.gpus_each, "max_restarts": 0}
        actor = self._ray.remote(Worker).options(**options).remote(self._remote_settings, code_digest())
        return Slot(actor)

    def _room(self) -> int:
        """As many workers as the cluster has device slots, or cores where it has no GPU."""
        has = self._ray.cluster_resources()
        if self.gpus_each and not has.get("GPU"):
            self.gpus_each = 0.0
        room = int(has.get("GPU", 0) / self.gpus_each) if self.gpus_each else int(has.get("CPU", 0))
        if room < 1:
            raise Misuse(f"the cluster has no free device slot (resources {has}); type --workers N")
        return room

    def _assign(self) -> None:
        """Give each idle place the first queued job whose original it holds, else the first."""
        for depth in range(AHEAD):
            for slot in self._slots:
                if self._queue and len(slot.queue) == depth and (depth == 0 or not slot.alone):
                    self._give(slot, self._pick(slot))

    def _pick(self, slot: Slot) -> Job:
        """Look a little ahead for a job that needs what this actor holds; the order is kept otherwise."""
        for number, job in enumerate(self._queue):
            if number >= 4 * self.workers:
                break
            if _resource(job) in slot.holds:
                del self._queue[number]
                return job
        return self._queue.popleft()

    def _give(self, slot: Slot, job: Job) -> None:
        if not slot.queue:
            slot.since = time.monotonic()
        slot.alone = job.careful
        slot.holds.add(_resource(job))
        slot.queue.append((slot.actor.execute.remote(job), job))

    # -------------------- collecting

    def _collect(self, slot: Slot) -> None:
        ref, job = slot.queue[0]
        try:
            row = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            self._replace(slot, _death(error))
            return
        except self._ray.exceptions.RayTaskError as error:
            row = _failed("worker_error", str(error.cause or error))
        slot.queue.popleft()
        slot.since, slot.started = time.monotonic(), True
        self._settled.append(Done(job, {**row, "attempts": job.attempt}))

    def _replace(self, slot: Slot, why: str, kind: str = "worker_died", final: bool = False) -> None:
        """The actor is gone: charge the job it was running, keep those behind it, start another actor."""
        if not slot.started and "runs other code" in why:
            raise Misuse(f"a worker refused to start: {why}; install the same efface on every node")
        (_, guilty), *behind = list(slot.queue)
        for _, job in reversed(behind):
            self._queue.appendleft(job)
        if final or guilty.attempt >= MAX_ATTEMPTS:
            self._settled.append(Done(guilty, {**_failed(kind, why), "attempts": guilty.attempt}))
        else:
            self._queue.appendleft(replace(guilty, attempt=guilty.attempt + 1))
        self._slots[self._slots.index(slot)] = self._start()

    def _enforce_limits(self) -> None:
        """Stop a run over its time limit with its actor; a new actor has time to start as well."""
        if self.time_limit is None:
            return
        for slot in list(self._slots):
            allowed = self.time_limit + (0.0 if slot.started else STARTING_SECONDS)
            if slot.queue and time.monotonic() - slot.since > allowed:
                self._ray.kill(slot.actor, no_restart=True)
                text = f"longer than the time limit of {self.time_limit:g} s (--time-limit)"
                self._replace(slot, text, kind="timeout", final=True)


def _resource(job: Job) -> str:
    """What a job needs loaded: its original, or its data set where it trains one."""
    if isinstance(job.spec, RunSpec):
        return job.spec.original.id
    assert isinstance(job.spec, TrainSpec)
    return job.spec.dataset


def _failed(kind: str, message: str) -> Row:
    return {"status": "failed", "error_type": kind, "error_message": " ".join(message.split())[:500]}


def _death(error: Exception) -> str:
    """What is worth telling of a dead actor: its own error if it could not start, else that it was killed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(("RuntimeError", "harness.errors", "ImportError"))]
    return own[-1] if own else "the worker process died (killed, or out of memory on its machine)"


def _plugin_folder(plugins: Sequence[str]) -> Path:
    """A folder with the plugin files and nothing else, to be the workers' working directory.

    Without one, Ray puts the driver's own directory on the workers' path, where a file named tasks.py would
    shadow ours.
    """
    folder = Path(tempfile.mkdtemp(prefix="efface-"))
    for plugin in plugins:
        shutil.copy(plugin, folder / Path(plugin).name)
    return folder


def _connect(address: str | None, workers: int | None, folder: Path) -> Any:
    """Connect to a cluster, or start a quiet private one on this machine."""
    try:
        for name, value in ENVIRONMENT.items():
            if address is None or name != "RAY_AUTH_MODE":
                os.environ.setdefault(name, value)
        import ray
        import ray.exceptions
    except ImportError:
        raise Misuse(
            "Ray is not installed here; type --on inline, or pip install 'ray[default,tune]'"
        ) from None
    import logging

    root = Path(__file__).resolve().parent.parent.parent
    runtime_env = {
        "working_dir": str(folder),
        "py_modules": [str(root / package) for package in PACKAGES],
        "env_vars": {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    }
    options: dict[str, Any] = {
        "runtime_env": runtime_env,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if address is None:
        options |= {"num_cpus": workers, "include_dashboard": False, "address": "local"}
    else:
        options |= {"address": address}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise Misuse(f"--on {address or 'local'}: cannot start or reach Ray: {str(error)[:300]}") from None
    return ray

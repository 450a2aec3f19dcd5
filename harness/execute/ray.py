"""The door to Ray: actors for a pool of workers, and how to connect.

Actors rather than tasks, because Ray starts a new process for each GPU task by default and a reused task
worker keeps its first CUDA device, while an actor is bound to its device for life and keeps its data sets and
originals loaded. Ray never restarts an actor or repeats a job by itself: `harness.execute.pool` decides that.
"""

from __future__ import annotations

import os
import queue
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import Misuse
from harness.execute import stop
from harness.execute.limits import Limits
from harness.execute.pool import Pool
from harness.execute.room import Nodes
from harness.execute.slots import Answer, Beat, Died, failed
from harness.plan import Job
from harness.provenance import code_digest, package_folders
from harness.workspace import Settings

TAKE_SECONDS = 30.0  # a row lies on the driver already; what does not arrive is out of reach
CLOSE_SECONDS = 5.0
GONE = ("node has died", "node is dead", "node was terminated", "node failure", "preempted", "unavailable")
LOW_MEMORY = "low on memory"
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a CPU worker must not see GPUs
    "RAY_grpc_client_keepalive_time_ms": "5000",  # a silent node is noticed in seconds, not minutes
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # in a submitted job: our own packages and plugins, not its folder
}
PRIVATE = {  # of a cluster on this machine for one sweep alone
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: listen on loopback, as Ray does on these two
}
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class Worker:
    """What runs in an actor: a workspace, one job at a time, and a pulse in a thread of its own."""

    def __init__(self, settings: Settings, digest: str | None) -> None:
        from harness import registry
        from harness.node_data import pinned, weights_file
        from harness.workspace import Workspace

        found = code_digest()
        if digest is not None and found != digest:
            raise RuntimeError(f"this worker runs other code ({found}) than the driver ({digest})")
        self.space = Workspace(settings, registry.load(settings.plugins))
        if self.space.store.local is None:
            self.space.store.once_a_node = lambda url: weights_file(pinned(url))

    def execute(self, job: Job) -> Answer:
        import torch

        from harness.stages import execute

        torch.set_num_threads(self.space.settings.threads)  # holds for one thread, and this is a second one
        return Answer(execute(job, self.space), resident_bytes())

    def pulse(self) -> Beat:
        import ray

        context = ray.get_runtime_context()
        device = ",".join(context.get_accelerator_ids().get("GPU", ()))
        waited = self.space.store.patience.waited
        return Beat(context.get_node_id(), device, resident_bytes(), self.space.datasets, waited)


class RayCluster:
    """Actors on Ray, as `harness.execute.slots.Cluster` describes them."""

    def __init__(self, ray: Any, settings: Settings, folder: Path) -> None:
        self._ray, self._settings, self._folder = ray, settings, folder
        Worker.pulse = ray.method(concurrency_group="pulse")(Worker.pulse)  # type: ignore[method-assign]
        self._class = ray.remote(concurrency_groups={"pulse": 1}, max_restarts=0)(Worker)
        self._condemned: queue.Queue[Any] = queue.Queue()
        self._undertaker = threading.Thread(target=self._bury_all, name="efface-undertaker", daemon=True)
        self._undertaker.start()

    def start(self, share: float, alone: bool) -> Any:
        # an actor on a GPU takes no CPU: it would hold one for life, and the last ones would never start
        needs = {"num_cpus": 0 if share else 1, "num_gpus": share}
        settings = replace(self._settings, exclusive=self._settings.exclusive or (alone and share == 1.0))
        return self._class.options(**needs).remote(settings, code_digest())

    def pulse(self, actor: Any) -> Any:
        return actor.pulse.remote()

    def execute(self, actor: Any, job: Job) -> Any:
        return actor.execute.remote(job)

    def ready(self, refs: Sequence[Any], seconds: float) -> list[Any]:
        every = list(refs)
        if not every:
            time.sleep(min(seconds, 0.05))
            return []
        found, _ = self._ray.wait(every, num_returns=1, timeout=seconds)
        if found:  # whatever else is there already comes along
            found, _ = self._ray.wait(every, num_returns=len(every), timeout=0)
        return list(found)

    def take(self, ref: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref, timeout=TAKE_SECONDS)
        except errors.RayActorError as error:
            raise _death(error) from None
        except errors.OutOfMemoryError as error:
            raise Died("memory", _short(error)) from None
        except errors.RuntimeEnvSetupError as error:
            raise Died("birth", _short(error)) from None
        except errors.RayTaskError as error:
            return Answer(failed("worker_error", str(error.cause or error)), 0)
        except errors.RayError as error:
            raise Died("node", _short(error)) from None

    def kill(self, actor: Any) -> None:
        self._condemned.put(actor)

    def _bury_all(self) -> None:
        """In a thread of its own, so that nobody waits for a machine that is gone."""
        while (actor := self._condemned.get()) is not None:
            try:
                self._ray.kill(actor, no_restart=True)
            except Exception as error:  # noqa: BLE001 - it is dead already, or out of reach
                _ = error

    def nodes(self) -> dict[str, dict[str, float]]:
        return living(self._ray)

    def most(self) -> dict[str, float] | None:
        return growth(self._ray)

    def close(self) -> None:
        self._condemned.put(None)
        self._undertaker.join(CLOSE_SECONDS)
        self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def living(ray: Any) -> dict[str, dict[str, float]]:
    """Resources of every living machine, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def growth(ray: Any) -> dict[str, float] | None:
    """What the cluster may grow to, where it says so; the autoscaler of `ray up` does not."""
    try:
        found = ray._private.state.state.get_max_resources_from_cluster_config()
    except Exception:  # noqa: BLE001 - a private part of Ray's, which says nothing on most clusters
        return None
    return dict(found) if found else None


def RayPool(
    settings: Settings,
    *,
    workers: int | None,
    address: str | None = None,
    gpus_each: float = 0.0,
    limits: Limits | None = None,
) -> Pool:
    """A pool of workers on Ray: on a cluster, or on this machine where there is no address."""
    folder = plugin_folder(settings.plugins)
    there = replace(settings, plugins=tuple(Path(p).name for p in settings.plugins))
    ray = connect(address, workers, folder)
    stop.listen()
    cluster = RayCluster(ray, there, folder)
    share = share_of(cluster.nodes(), cluster.most(), gpus_each, settings.device)
    return Pool(cluster, workers=workers, share=share, limits=limits or Limits())


def share_of(nodes: Nodes, most: Mapping[str, float] | None, gpus_each: float, device: str = "auto") -> float:
    """The share of a GPU that each worker gets; 0 on a cluster that has cores and no GPU.

    With --device cuda it is kept: the GPUs may be yet to come.
    """
    if device == "cuda":
        return gpus_each
    has = [*nodes.values(), most or {}]
    cores = any(node.get("CPU", 0) >= 1 for node in has)
    return 0.0 if cores and not any(node.get("GPU", 0) for node in has) else gpus_each


def resident_bytes() -> int:
    """What this process holds in memory; where the system does not say, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _death(error: Exception) -> Died:
    """Whose doing it was, and what is worth telling: a worker's own error if it could not start."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(("RuntimeError", "harness.errors", "ImportError"))]
    if "creation task" in text:
        return Died("birth", own[-1] if own else lines[-1])
    if LOW_MEMORY in text:
        return Died("memory", "its machine ran low on memory, and Ray stopped the worker")
    if any(words in text.lower() for words in GONE) or getattr(error, "preempted", False):
        return Died("node", "its machine is gone")
    return Died("process", "the worker process died (killed, or out of memory on its machine)")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def plugin_folder(plugins: Sequence[str]) -> Path:
    """A folder with the plugin files and nothing else, to be the workers' working directory.

    Without one, Ray puts the driver's own directory on the workers' path, where a file named tasks.py would
    shadow ours.
    """
    folder = Path(tempfile.mkdtemp(prefix="efface-"))
    for plugin in plugins:
        shutil.copy(plugin, folder / Path(plugin).name)
    return folder


def _set_environment(private: bool) -> None:
    """What Ray reads when it is imported. A private cluster gets a token of its own, unless one is set."""
    for name, value in (ENVIRONMENT | PRIVATE if private else ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    wants_token = private and os.environ["RAY_AUTH_MODE"] == "token"
    if wants_token and not any(os.environ.get(name) for name in TOKENS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def connect(address: str | None, workers: int | None, folder: Path) -> Any:
    """Connect to a cluster, or start a quiet private one on this machine."""
    _set_environment(private=address is None)
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise Misuse(
            "Ray is not installed here; type --on inline, or pip install 'ray[default,tune]'"
        ) from None
    import logging

    runtime_env = {
        "working_dir": str(folder),
        "py_modules": package_folders(),
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
    _init(ray, options, address)
    return ray


def _init(ray: Any, options: dict[str, Any], address: str | None) -> None:
    """Start or reach Ray; once more where a busy machine was too slow for Ray's own 30 s."""
    for last in (False, True):
        try:
            ray.init(**options)
            return
        except Exception as error:  # noqa: BLE001  a slow start is a bare Exception of Ray's
            if last or address is not None or "timed out during startup" not in str(error):
                raise Misuse(
                    f"--on {address or 'local'}: cannot start or reach Ray: {str(error)[:300]}"
                ) from None
            ray.shutdown()

"""Machines of a cluster that are groups of processes on this one, to be killed and replaced."""

from __future__ import annotations

import contextlib
import os
import random
from typing import Any

import psutil

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # machines and drivers of one test, which listen on this machine alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "OMP_NUM_THREADS": "1",
}


class Machines:
    """A head that runs no jobs, and machines of one core each."""

    def __init__(self, count: int, seed: int) -> None:
        os.environ.update(ENVIRONMENT)
        from ray.cluster_utils import Cluster

        self._random = random.Random(seed)
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 200 << 20}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        self._frozen: list[Any] = []
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self) -> bool:
        """One more; False where it does not come up in Ray's own time, on a computer that is busy."""
        try:
            node = self._cluster.add_node(wait=False, num_cpus=1, object_store_memory=100 << 20)
        except Exception:  # noqa: BLE001 - Ray raises a plain Exception
            return False
        self._nodes.append(node)
        return True

    def kill_machine(self) -> bool:
        """All processes of one machine at once, as when its power fails."""
        if not self._nodes:
            return False
        self._end(self._nodes.pop(self._random.randrange(len(self._nodes))))
        return True

    def freeze_machine(self) -> bool:
        """One machine answers nobody any more, and nobody is told: as when its network is cut."""
        if not self._nodes:
            return False
        node = self._nodes.pop(self._random.randrange(len(self._nodes)))
        raylet = _raylet(node)
        for process in [raylet, *_family(raylet)]:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        self._frozen.append(node)
        return True

    def _end(self, node: Any) -> None:
        raylet = _raylet(node)
        for process in [raylet, *_family(raylet)]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(psutil.Error):
            raylet.wait(10)  # it is a child of this process
        with contextlib.suppress(Exception):  # what is left of it here: log monitors and the like
            self._cluster.remove_node(node, allow_graceful=False)

    def workers(self) -> list[psutil.Process]:
        found = []
        for node in self._nodes:
            for process in _family(_raylet(node)):
                with contextlib.suppress(psutil.Error):
                    if "ray::Worker" in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def kill_worker(self) -> bool:
        """One worker process; False where there is none at present."""
        workers = self.workers()
        if not workers:
            return False
        with contextlib.suppress(psutil.Error):
            self._random.choice(workers).kill()
        return True

    def close(self) -> None:
        for node in self._frozen:
            self._end(node)
        self._cluster.shutdown()
        for process in _family(psutil.Process()):  # of machines that did not come up
            with contextlib.suppress(psutil.Error):
                process.kill()


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []

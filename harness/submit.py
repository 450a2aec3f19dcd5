"""A sweep or a search as a Ray job: the driver runs on the cluster's head, and this machine may go home.

The job gets the three packages and, as its folder, the plugins and a suite of one's own; nothing else of this
machine. Its name follows from what it does on which store, so that it does not run twice at a time.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from harness.errors import Misuse
from harness.job import Wish
from harness.provenance import package_folders
from harness.urls import refuse_credentials

CONNECT_SECONDS = 5.0
STOP_SECONDS = 60  # for a sweep to write down what is done, before Ray kills its driver
AGENT_SECONDS = 60.0
LOST_SECONDS = 600.0  # a cluster that is out of reach is asked again for so long
RETRY_SECONDS = 3.0
NO_AGENT = "No available agent"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_CODE = 130  # as after Ctrl-C


# -------------------- the cluster


class Log:
    """What has been told of a job's log, which is always sent from its beginning."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._told, self._at = write, 0, 0

    def begin(self) -> None:
        self._at = 0

    def take(self, text: str) -> None:
        fresh = text[max(0, self._told - self._at) :]
        self._at += len(text)
        self._told = max(self._told, self._at)
        if fresh:
            self._write(fresh)


class Jobs:
    """The jobs of one cluster, through its dashboard."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        _check_address(self.address)
        _check_reach(self.address)
        self._client = _client(self.address)

    def list(self) -> list[dict[str, Any]]:
        """Every submitted job, the last first: id, status, since, and what it does if it is ours."""
        with _told(self.address):
            found = [job for job in self._client.list_jobs() if job.submission_id]
        jobs = [_facts(job) for job in found]
        return sorted(jobs, key=lambda job: str(job["since"]), reverse=True)

    def submit(self, wish: Wish) -> str:
        """Start it and give its id; refuses while the same sweep runs."""
        before = [job for job in self.list() if _is_one_of(job["id"], wish.name)]
        for job in before:
            if job["status"] not in ENDED:
                raise Misuse(self._running(job))
        submission_id = wish.name if not before else f"{wish.name}-{_next(before, wish.name)}"
        about = {"suite": wish.suite_name, "store": wish.store, "verb": wish.verb, "by": _me()}
        with wish.folder() as folder, _told(self.address):
            self._send(
                entrypoint=wish.command(),
                submission_id=submission_id,
                runtime_env=_runtime_env(folder),
                metadata=about,
            )
        return submission_id

    def _send(self, **job: Any) -> None:
        """A head that has just started takes jobs only once its agent has registered."""
        last = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                self._client.submit_job(**job)
                return
            except RuntimeError as error:
                if NO_AGENT not in str(error) or time.monotonic() > last:
                    raise
            time.sleep(1.0)

    def _running(self, job: dict[str, Any]) -> str:
        return (
            f"{job['id']} already does this since {job['since']} (submitted by {job['by']}); follow it with "
            f"`efface status --address {self.address} --follow {job['id']}`, or end it with "
            f"`efface stop {job['id']} --address {self.address}`"
        )

    def follow(self, submission_id: str, write: Callable[[str], None]) -> int:
        """Write what the job says until it ends, and give its exit code. A lost connection, or a tunnel that
        is down for a while, is taken up again where it broke off.
        """
        import aiohttp

        log, lost = Log(write), 0.0
        self._info(submission_id)
        while True:
            with suppress(RuntimeError, OSError, aiohttp.ClientError):  # the connection, not the job
                asyncio.run(self._tail(submission_id, log))
            try:
                job = self._info(submission_id)
            except Misuse as error:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > LOST_SECONDS:
                    raise Misuse(f"{error}. {self.goes_on(submission_id)}") from None
                time.sleep(RETRY_SECONDS)
                continue
            lost = 0.0
            if str(job.status) in ENDED:
                return self._end(job, write)
            time.sleep(1.0)

    async def _tail(self, submission_id: str, log: Log) -> None:
        log.begin()
        async for text in self._client.tail_job_logs(submission_id):
            log.take(text)

    def goes_on(self, submission_id: str) -> str:
        """What to tell who stops following a job."""
        return (
            f"{submission_id} goes on. To follow it: efface status --address {self.address} --follow "
            f"{submission_id}; to end it: efface stop {submission_id} --address {self.address}"
        )

    @staticmethod
    def _end(job: Any, write: Callable[[str], None]) -> int:
        if str(job.status) == "STOPPED":
            return STOPPED_CODE
        if job.driver_exit_code is not None:
            return int(job.driver_exit_code)
        if str(job.status) == "FAILED":
            write(f"{job.message or 'the job failed without a word'}\n")
        return int(str(job.status) != "SUCCEEDED")

    def stop(self, submission_id: str) -> bool:
        """Ask a job to end, and wait: the sweep writes down what is done first. False where it had ended."""
        if str(self._info(submission_id).status) in ENDED:
            return False
        with _told(self.address):
            self._client.stop_job(submission_id)
        end = time.monotonic() + STOP_SECONDS + CONNECT_SECONDS
        while str(self._info(submission_id).status) not in ENDED:
            if time.monotonic() > end:
                raise Misuse(f"{submission_id} has not ended in {STOP_SECONDS} s; look at its log")
            time.sleep(0.5)
        return True

    def _info(self, submission_id: str) -> Any:
        known = self.list()
        if submission_id not in {job["id"] for job in known}:
            names = ", ".join(job["id"] for job in known[:5]) or "none"
            raise Misuse(f"no job {submission_id!r} at {self.address}; known: {names}")
        with _told(self.address):
            return self._client.get_job_info(submission_id)


def _runtime_env(folder: str) -> dict[str, Any]:
    return {
        "working_dir": folder,
        "py_modules": package_folders(),
        "env_vars": {"OMP_NUM_THREADS": "1", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
    }


def _facts(job: Any) -> dict[str, Any]:
    about = job.metadata or {}
    since = job.start_time / 1000 if job.start_time else None
    return {
        "id": job.submission_id,
        "status": str(job.status),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(since)) if since else "?",
        "suite": about.get("suite", ""),
        "verb": about.get("verb", ""),
        "store": about.get("store", ""),
        "by": about.get("by", "?"),
        "exit_code": job.driver_exit_code,
    }


def _is_one_of(submission_id: str, name: str) -> bool:
    rest = submission_id.removeprefix(name)
    return submission_id.startswith(name) and (not rest or (rest[0] == "-" and rest[1:].isdigit()))


def _next(before: Sequence[dict[str, Any]], name: str) -> int:
    return 1 + max(int(job["id"].removeprefix(name).lstrip("-") or 1) for job in before)


def _me() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without names
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


# -------------------- what can be wrong with a cluster


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misuse(
            f"--address {address}: expected that of the cluster's dashboard, such as http://127.0.0.1:8265 "
            "(`ray dashboard cluster.yaml` makes a tunnel to it)"
        )
    refuse_credentials(address, "--address")
    if port is None and parts.scheme == "http":
        raise Misuse(f"--address {address}: no port; type --address http://{parts.hostname}:8265")


def _check_reach(address: str) -> None:
    """Before any request: these have no time limit."""
    parts = urlsplit(address)
    try:
        socket.create_connection((str(parts.hostname), parts.port or 443), CONNECT_SECONDS).close()
    except OSError as error:
        raise Misuse(
            f"no cluster answers at {address} ({error}); start one (`ray up cluster.yaml`) and a tunnel to "
            "it (`ray dashboard cluster.yaml`), or give its --address"
        ) from None


def _client(address: str) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise Misuse("Ray is not installed here; pip install 'ray[default]' to submit jobs") from None
    _hush()
    with _told(address):
        return JobSubmissionClient(address)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Every way in which a cluster refuses, as one line."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise Misuse(
            f"the cluster at {address} wants another token; type RAY_AUTH_MODE=token "
            "RAY_AUTH_TOKEN_PATH=FILE before the command, where FILE has the token of the cluster"
        ) from None
    except (RuntimeError, ValueError, OSError) as error:
        text = " ".join(str(error).split())
        if "already exists" in text:
            raise Misuse(f"somebody has submitted the same to {address} just now: {text[:200]}") from None
        raise Misuse(f"the cluster at {address}: {text[:300]}") from None


def _hush() -> None:
    """Ray's own words on what is uploaded and which connection closed; they set their level when imported."""
    for name in (
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)

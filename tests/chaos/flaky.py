"""An S3-compatible server on loopback that answers a share of its requests with 503."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
BUCKET = "chaos"


class Flaky:
    """Passes a request on, or refuses it."""

    def __init__(self, app: Callable[..., Iterable[bytes]], share: float, seed: int) -> None:
        self._app, self._share, self._random = app, share, random.Random(seed)
        self.asked = self.refused = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == "/counts":
            start_response("200 OK", [])
            return [f"{self.asked} {self.refused}".encode()]
        self.asked += 1
        if self._random.random() < self._share:
            self.refused += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [BUSY]
        return self._app(environ, start_response)


class Server:
    """That server in a process of its own, with an empty bucket."""

    def __init__(self, share: float, seed: int, log: Path) -> None:
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.flaky", str(share), str(seed)],
                cwd=Path(__file__).resolve().parents[2],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self._make_bucket()

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": "chaos",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def counts(self) -> tuple[int, int]:
        """Requests, and those refused."""
        with urllib.request.urlopen(f"{self.url}/counts", timeout=10) as answer:
            asked, refused = answer.read().split()
        return int(asked), int(refused)

    def _make_bucket(self) -> None:
        for _ in range(100):
            try:
                request = urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=10).close()
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise RuntimeError("the S3 server did not start")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


def main() -> None:
    """Serve until killed; the first line on stdout is the address."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    parser = argparse.ArgumentParser()
    parser.add_argument("share", type=float)
    parser.add_argument("seed", type=int)
    typed = parser.parse_args()
    app = Flaky(DomainDispatcherApplication(create_backend_app), typed.share, typed.seed)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()

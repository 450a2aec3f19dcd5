"""For tests that start real processes."""

from __future__ import annotations

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """The package is found from any folder, whether it is installed or only checked out."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PYTHONSAFEPATH": "1"}

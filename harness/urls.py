"""URLs of stores, data and weights: what fsspec makes of them, and never a secret in one."""

from __future__ import annotations

import re
from typing import Any

import fsspec

from harness.errors import Misuse

# a password after a user's name; a port, and the account number of an AWS access point, are none
PASSWORD = re.compile(r"://(?!arn:)[^/@?#:]*:(?!\d+(?:[/?#]|$))(?!/)")
SECRET = re.compile(
    r"[?&](?:[^=&#]*(?:token|secret|password|passwd|credential|signature)[^=&#]*|sig|key|api_?key)=", re.I
)


def open_url(url: str, option: str = "--store") -> tuple[Any, str]:
    """The file system behind a URL or a folder, and the path there."""
    refuse_credentials(url, option)
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise Misuse(f"{option} {url}: {str(error).rstrip('.')}, with pip") from None
    except ValueError as error:
        raise Misuse(
            f"{option} {url}: {error}; expected a folder or a URL such as s3://bucket/name"
        ) from None
    return fs, str(root)


def refuse_credentials(url: str, option: str = "--store") -> None:
    """A secret in a URL would end up in process lists, logs and error messages."""
    if "://" in url and (PASSWORD.search(url) or SECRET.search(url)):
        raise Misuse(
            f"{option} {redacted(url)}: a URL with credentials in it; leave them out, and give them in the "
            "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, …) or the client's own file "
            "such as ~/.aws/credentials"
        )


def redacted(url: str) -> str:
    """The URL as far as it can be shown: up to where the first secret may begin."""
    starts = [found.start() for found in (PASSWORD.search(url), SECRET.search(url)) if found]
    if not starts:
        return url
    head = url[: min(starts)]
    return f"{head}://…" if "://" not in head else f"{head}?…"


def is_url(text: str) -> bool:
    return "://" in text or "::" in text

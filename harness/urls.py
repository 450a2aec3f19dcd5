"""URLs of stores, data and weights: what fsspec makes of them, what lies there, and never a secret in one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import fsspec

from harness.errors import Misuse

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.I)
CHAINED = re.compile(r"::(?=[a-z][a-z0-9+.-]*(?:::|://))", re.I)  # as in zip://a.csv::https://host/b.zip
LINK = re.compile(r"""[a-z][a-z0-9+.-]*://[^\s"<>]*?(?=[')\]},.;:]*(?:[\s"<>]|$))""", re.I)  # in a text
# where a user's or a container's name before an @ is no secret; where a host may have a port
USERS = {"ftp", "ftps", "sftp", "ssh", "smb", "hdfs", "webhdfs", "memory"}
PORTS = USERS | {"http", "https", "ws", "wss", "ray"}
USERS |= {"file", "local", "zip", "tar", "abfs", "abfss", "wasb", "wasbs", "az", "adl"}
NO_USER = re.compile(r"arn:aws[\w-]*:|\[[0-9a-f:.]+\](?::\d+)?(?:[/?#]|$)", re.I)  # access points; IPv6
MARKS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated")
ABSENT = (404, 410)  # what HTTP says of a file that is not there
SECRET = re.compile(
    r"[?&#;](?:"
    r"[^=&#;]*(?:token(?!iz)|secret|passw|passphrase|pwd|credential|signature)[^=&#;]*"
    r"|[^=&#;]*(?:api|account|access|private|shared|subscription)[-_]?key"
    r"|(?:[^=&#;]*[-_.])?(?:auth|authorization|bearer|jwt|pass|sig)"
    r"|key)=",
    re.I,
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
    if _secret_at(url) is not None:
        raise Misuse(
            f"{option} {redacted(url)}: a URL with credentials in it; leave them out, and give them in the "
            "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, …) or the client's own file "
            "such as ~/.aws/credentials"
        )


def redacted(url: str) -> str:
    """The URL as far as it can be shown: up to where the first secret may begin."""
    start = _secret_at(url)
    return url if start is None else f"{url[:start]}…"


def without_secrets(text: str) -> str:
    """A message as it can be shown: of a URL in it no password and no query, which may be a signature."""
    shown = LINK.sub(lambda link: re.sub(r"([?#;]).*", r"\1…", redacted(link[0])), text)
    return re.sub(r"""\?[^\s"<>?]*=[^\s"<>]*""", "?…", shown)  # of a path alone, as urllib3 writes it


def is_url(text: str) -> bool:
    return "://" in text or "::" in text


# -------------------- what lies there


def exists(fs: Any, ask: Callable[[str], bool], root: str) -> bool:
    """Whether it is there, by `fs.isfile` or the like: they say no to whatever goes wrong. That is raised."""
    if ask(root):
        return True
    try:
        fs.info(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (cause := cause_of(error)) is not error:
            raise cause from None
    return False


def cause_of(error: BaseException) -> BaseException:
    """Of HTTP, fsspec may call any failure a file that is not there; what it was is its cause."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None or isinstance(cause, FileNotFoundError):
        return error
    spoke = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp.")
    return cause if spoke and getattr(cause, "status", None) not in ABSENT else error


def files_of(fs: Any, root: str) -> dict[str, Mapping[str, Any]]:
    """Every file below a folder by its relative name; where there is a file instead, by no name."""
    if fs.isfile(root):
        return {"": fs.info(root)}
    found = fs.find(root, detail=True)
    if not found:
        exists(fs, fs.isdir, root)  # or it could not be read
    start = fs._strip_protocol(root).rstrip("/") + "/"
    names = {path: str(path).removeprefix(start) for path in sorted(found) if not is_marker(found[path])}
    return {below(name, root): found[path] for path, name in names.items()}


def is_marker(entry: Mapping[str, Any]) -> bool:
    """The empty object by which a bucket's console shows a folder: no file."""
    return entry.get("type") != "directory" and str(entry.get("name", "")).endswith("/")


def version_of(listed: Mapping[str, Mapping[str, Any]]) -> str:
    """12 hex digits over names, sizes, and what the source tells of the content or its time."""
    sha = hashlib.sha256()
    for name, facts in listed.items():
        mark = next((str(facts[key]) for key in MARKS if facts.get(key)), "")
        sha.update(repr((name, facts.get("size"), mark)).encode())
    return sha.hexdigest()[:12]


def below(name: str, root: str) -> str:
    """A name that stays in the folder it is put in; a bucket may list any."""
    if not name or name.startswith("/") or {".", ".."} & set(name.split("/")):
        raise Misuse(
            f"{root} lists {name!r}, which would be written outside of its folder here; expected names below "
            "it, without . and ..; take that one away from the source, or name another source"
        )
    return name


def join(*parts: str) -> str:
    return "/".join(part.rstrip("/") for part in parts if part)


# -------------------- secrets


def _secret_at(url: str) -> int | None:
    """Where the first secret of a URL may begin."""
    links = list(SCHEME.finditer(url))
    starts = [link.end() for link in links if _has_secret_user(link[1].lower(), url[link.end() :])]
    starts += [found.start() + 1 for found in [SECRET.search(url)] if found and links]
    return min(starts, default=None)


def _has_secret_user(scheme: str, rest: str) -> bool:
    """Whether what follows :// starts with a password or a token. A secret may have a / in it, so that an @
    further on counts where it can be no path's.
    """
    rest = CHAINED.split(rest)[0]
    drive = len(scheme) == 1 or (scheme in ("file", "local") and re.match(r"[a-z]:[/\\]", rest, re.I))
    if drive or NO_USER.match(rest):
        return False
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = place.rpartition("@")
    if at:
        return scheme not in USERS or ":" in user or "%3a" in user.lower()
    _, colon, port = place.partition(":")
    if re.fullmatch(r"\d+", port):
        return "@" in rest and scheme not in PORTS
    return bool(port) or (bool(colon) and "@" in rest)

"""Addresses of stores and their versions; who and when."""

from __future__ import annotations

import datetime
import getpass
import os
import re
from pathlib import Path


def is_address(uri: str) -> bool:
    """Whether a store lies on object storage and not in a folder."""
    return re.match(r"^[a-z][a-z0-9+]+://", uri) is not None


def locate(name: str) -> tuple[str, str | None]:
    """Address and version of `ADDRESS`, `ADDRESS@7` or `ADDRESS@TAG`; a folder with the `@` in its name comes first."""
    place, at, version = name.rpartition("@")
    if not at or not place or "/" in version or (not is_address(name) and _is_there(name)):
        return name, None
    return place, version


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def whoami() -> str:
    """Whom edits are put down to: `UNIVFD_USER`, or the account's name."""
    try:
        return os.environ.get("UNIVFD_USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def now() -> str:
    """UTC, ISO, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

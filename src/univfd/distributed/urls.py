"""URLs of stores (`scheme://bucket/path?options`), taken apart and written again.

One rule for all of them: the first `?` begins the options, `%41` stands for the byte 0x41, and every other character
of a path, `#` and spaces too, for itself. `display_url` writes `%` and `?` so that a name in a result leads back.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ..errors import UsageError

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://([^/?]*)([^?]*)\??(.*)", re.IGNORECASE | re.DOTALL)
_KEYS = re.compile(r"[^:]+://(?!\[)[^/?@:]*:[^@]*@")
"""A secret may have any character in it; `bucket/a:b@c.png` has none."""
_PORT = re.compile(r"[^:]+://[^/?@:]*:\d+(?=[/?]|$)")
_SECRET = ("secret", "passw", "token", "sig", "key")
_CHAIN = re.compile(r"::(?=[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
_NO_PORTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
_NO_KEYS = {"github", "git"}
"""Where `org:repo@commit` is what it says."""
_WEB = {"http", "https"}


class Address(NamedTuple):
    """A URL, taken apart.

    Attributes:
        store: what opens the store: scheme, bucket or host, and options.
        path: in the store; empty where `store` is all of it.
    """

    store: str
    path: str


def is_url(text: str) -> bool:
    """Whether a place is named by a URL; otherwise it is a path."""
    return _URL.match(text) is not None


def is_whole(url: str) -> bool:
    """Whether a URL is for its server alone to take apart: of the web, or chained (`zip://a.png::file:///b.zip`)."""
    return _parts(url)[0] in _WEB or _CHAIN.search(url) is not None


def split_url(url: str) -> Address:
    """The store of a URL, and the path in it.

    Raises:
        UsageError: keys are in it.
    """
    refuse_keys(url)
    if is_whole(url):
        return Address(url, "")
    scheme, host, path, options = _parts(url)
    store = f"{scheme}://{host}{path[:1]}" + (f"?{options}" if options else "")
    return Address(store, _plain(path[1:]).rstrip("/"))


def local_path(url: str) -> str | None:
    """The path of a `file://` URL; None for other schemes.

    Raises:
        UsageError: it is on another machine, or has options.
    """
    scheme, host, path, options = _parts(url)
    if scheme != "file":
        return None
    if host not in {"", "localhost"} or not path:
        raise UsageError(f"{url}: expected file:///PATH, an absolute path of this machine")
    if options:
        raise UsageError(f"{url}: a file has no options; write %3F for a ? in its name")
    return _plain(path)


def display_url(url: str, top: str, path: str) -> str:
    """A path as a URL that leads to it, without the options behind `?`.

    Args:
        url: what was given.
        top: the path in the store that it leads to.
        path: that, or one below it.
    """
    if _CHAIN.search(url):
        first, _, rest = url.partition("::")
        return url if path == top else f"{_parts(first)[0]}://{path.strip('/')}::{rest}"
    if is_whole(url):
        return path if is_url(path) else url
    scheme, host, given, _ = _parts(url)
    here = f"{scheme}://{host}" + _escaped(_plain(given)).rstrip("/")
    below = path.strip("/").removeprefix(top.strip("/")).lstrip("/")
    return f"{here}/{_escaped(below)}" if below else here


def refuse_keys(url: str) -> None:
    """That no secret stands in a URL: it would be kept in listings and logs.

    Raises:
        UsageError: one does; its words do not have it.
    """
    for link in _CHAIN.split(url):
        if is_url(link) and _has_keys(link):
            raise UsageError(
                f"a {_parts(link)[0]}:// URL with keys in it, which listings and logs would show; put keys into the "
                "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://)"
            )


def shown(url: str) -> str:
    """A URL without its options, for messages; of the web they are a part of the address."""
    return url if is_whole(url) else url.partition("?")[0]


def _has_keys(url: str) -> bool:
    scheme, host, _, options = _parts(url)
    named = [option.partition("=")[0].lower() for option in options.split("&") if "=" in option]
    if scheme not in _WEB and any(word in name for name in named for word in _SECRET):
        return True
    if scheme in _NO_KEYS or host.startswith("arn:") or (scheme not in _NO_PORTS and _PORT.match(url)):
        return False
    return _KEYS.match(url) is not None


def _parts(url: str) -> tuple[str, str, str, str]:
    """Scheme, bucket or host, path with its `/`, options."""
    match = _URL.match(url)
    if match is None:
        raise UsageError(f"{url} is no URL")
    return match[1].lower(), match[2], match[3], match[4]


def _plain(path: str) -> str:
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def _escaped(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3F")

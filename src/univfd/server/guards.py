"""Who may ask: host name, site of the page, key. Checked before a body is read."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request

from ..errors import ForbiddenError
from .keys import Keys

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guard(keys: Keys | None, hosts: tuple[str, ...]) -> Callable[[Request], Awaitable[None]]:
    """What lets a request in or raises; notes whose it is in `request.state.caller`, and a key's name in `.key`.

    Args:
        keys: None: no key is asked for.
        hosts: names under which the service is asked (without port); empty: any. They keep a page out that points
            its own name at this machine (DNS rebinding).
    """

    async def check(request: Request) -> None:
        """Let in or raise.

        Raises:
            ForbiddenError, UnauthorizedError: see each.
        """
        check_host(request, hosts)
        # Without CORS a page of another site cannot read answers, but its browser would send the request.
        origin = request.headers.get("origin")
        if origin is not None and not _is_of(origin, request.headers.get("host")):
            raise ForbiddenError("asked by a page of another site")
        if keys is not None:
            request.state.caller = request.state.key = keys.check(request.headers.get("authorization"))
        else:
            request.state.caller = request.client.host if request.client else ""

    return check


def _is_of(origin: str, host: str | None) -> bool:
    """Whether an `Origin` names this host and port."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # no address at all
        return False


def check_host(request: Request, hosts: tuple[str, ...]) -> None:
    """Refuse names that are not served.

    Raises:
        ForbiddenError: another name.
    """
    name = request.headers.get("host", "").lower()
    name = name if name.endswith("]") else name.rpartition(":")[0] or name
    if hosts and name not in hosts:
        raise ForbiddenError("this service is not served under that host name")

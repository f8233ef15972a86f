"""One or several processes of the service, on one address."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from ..errors import UsageError
from .guards import LOOPBACK_NAMES, is_loopback
from .limits import Limits
from .monitoring import FOLDER
from .protocol import GuardedProtocol
from .uploads import GRACE_SECONDS

KEEP_ALIVE_SECONDS = 15
HEAD_BYTES = 16 << 10
_BACKLOG = 1024
_PING_SECONDS = 30
"""A process that gives no sign for so long is replaced; one that is killed while it is asked is waited for as long."""


def check_address(host: str, *, keys: bool, anonymous: bool) -> None:
    """Refuse to be reachable by strangers without keys.

    Raises:
        UsageError: says how to go on.
    """
    if not (is_loopback(host) or keys or anonymous):
        raise UsageError(
            f"{host} can be reached from other machines, and no keys are asked for. Make one with 'univfd serve keygen "
            "--key-file FILE' and serve with --key-file FILE, or say --allow-anonymous"
        )


def hosts_of(host: str, names: tuple[str, ...], *, keys: bool) -> tuple[str, ...]:
    """The host names that are served: those told, and on loopback without keys those of loopback; empty: any."""
    told = f"[{host}]" if ":" in host else host
    own = (*LOOPBACK_NAMES, told.lower()) if is_loopback(host) and not keys else ()
    return tuple(dict.fromkeys((*own, *(n.lower() for n in names))))


def run(
    application: Callable[[], Any], *, host: str, port: int, limits: Limits, processes: int,
    on_bound: Callable[[str], None],
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT, then finish what was taken.

    Args:
        application: makes the ASGI application; can be pickled where there are several processes.
        host: address to listen at.
        port: 0: any that is free.
        limits: of connections and times.
        processes: that serve the address together; one that dies is replaced.
        on_bound: told the URL once it is bound.

    Raises:
        UsageError: the address cannot be had.
    """
    listening = _bind(host, port)
    bound = listening.getsockname()
    on_bound(f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}")
    config = uvicorn.Config(
        application, factory=True, http=GuardedProtocol, ws="none", loop="asyncio", lifespan="on", workers=processes,
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=limits.connections, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(2 * limits.deadline + GRACE_SECONDS), timeout_worker_healthcheck=_PING_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    if processes == 1:
        signal.signal(signal.SIGTERM, _quietly)  # uvicorn stops, then raises the signal again: that is no failure
        uvicorn.Server(config).run(sockets=[listening])
        return
    figures = Path(tempfile.mkdtemp(prefix="univfd-metrics-"))
    os.environ[FOLDER] = str(figures)
    try:
        Multiprocess(config, sockets=[listening]).run()
    finally:
        shutil.rmtree(figures, ignore_errors=True)


def _quietly(signum: int, frame: object) -> None:
    """Nothing more is to be done about a signal."""


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened at: {error.strerror or error}. Choose another port with --port"
        ) from error
    listening.set_inheritable(True)
    return listening

"""A server for `make_app`: one process, one event loop, a socket that is taken before the model is loaded."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from vlmvid.errors import ConfigError

# A query of 10,000 characters outside of ASCII, percent-encoded; longer request lines end the connection.
_MAX_HEAD_BYTES = 128 << 10
_MAX_CONNECTIONS = 1000
_CLOSING_SECONDS = 5
_REFUSING_SECONDS = 0.5  # of these, for telling those who still wait
_BACKLOG = 2048
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def bind(host: str, port: int) -> socket.socket:
    """A socket on which nobody else listens; port 0 takes a free one. Raises ConfigError where that cannot be."""
    try:
        if not 0 <= port < 1 << 16:
            raise OverflowError("a port is a number from 0 to 65535")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        taken = socket.socket(family, kind, protocol)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            taken.listen(_BACKLOG)  # two may be bound to one port, as long as neither listens
        except BaseException:
            taken.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen at {host!r}, port {port}: {error}; choose another --port, or an address of this machine "
            "as --host"
        ) from error
    return taken


def url_of(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def hosts_for(listening: socket.socket, allowed: Sequence[str]) -> tuple[str, ...]:
    """By which names a server may be addressed: one of this machine alone by its names and `allowed`, others by any."""
    if not ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
        return tuple(allowed)
    return (*_LOOPBACK_NAMES, url_of(listening).removeprefix("http://").rpartition(":")[0], *allowed)


class WebServer(uvicorn.Server):
    """Uvicorn with bounds on requests and connections.

    Args:
        app: what `make_app` made.
        when_ready: called once requests are answered.
    """

    def __init__(self, app: FastAPI, when_ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            http="h11",  # the one parser whose bound on request lines can be set
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            limit_concurrency=_MAX_CONNECTIONS,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        super().__init__(config)
        self._refuse_waiting: Callable[[], None] = app.state.refuse_waiting
        self._when_ready = when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the doors, and tell."""
        await super().startup(sockets)
        if self.started:
            self._when_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give open requests a few seconds, refuse those that wait for the model even then, and end."""
        refusal = asyncio.get_running_loop().call_later(_CLOSING_SECONDS - _REFUSING_SECONDS, self._refuse_waiting)
        try:
            await super().shutdown(sockets)
        finally:
            refusal.cancel()


def serve(app: FastAPI, listening: socket.socket, when_ready: Callable[[], None]) -> None:
    """Serve on what `bind` gave until the process is told to end; then open requests get a few seconds."""
    with suppress(KeyboardInterrupt):  # the usual end of a server
        WebServer(app, when_ready).run(sockets=[listening])

"""What every request passes: names by which the server may be addressed, a bound on bodies, headers of safety."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlmvid.serving.web.errors import WebError, error_response, shown
from vlmvid.serving.web.options import MAX_BODY_BYTES

UPLOADS_PATH = "/api/uploads"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# The page is static and brings all it needs, so nothing else may run, load or frame it, whatever a caption says.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """The outermost layer of the app; `hosts` as in `ServeOptions`."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on and add headers to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        try:
            self._check(scope)
            bounded = receive if _is_upload(scope) else _bounded(receive)
        except WebError as error:
            response = error_response(error.status_code, error.code, str(error.detail))
            await response(scope, receive, guarded_send)
            return
        await self._app(scope, bounded, guarded_send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = _name_of(headers.get("host", ""))
        if self._hosts and host not in self._hosts:
            raise WebError(
                403,
                "unknown_host",
                f"this server does not answer to the name {shown(host)}, only to {', '.join(sorted(self._hosts))}; "
                "start it with --allow-host for a further one",
            )
        if scope["method"] not in _SAFE_METHODS:
            self._check_sender(headers)
        declared = headers.get("content-length", "")
        if not _is_upload(scope) and declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            raise _too_large()

    def _check_sender(self, headers: Headers) -> None:
        """Raise WebError for what a page of another site, or of another port, had a browser send.

        Browsers tell where a page is from; what is no browser tells nothing, and is let in.
        """
        own = _authority_of(headers.get("host", ""))
        for origin in headers.getlist("origin"):
            authority = _authority_of(origin.partition("://")[2])
            # A proxy may address the server otherwise than browsers address the proxy.
            if authority != own and not self._is_allowed_elsewhere(_name_of(authority)):
                raise WebError(
                    403,
                    "cross_site",
                    f"a page of {shown(origin)} may not send anything here; behind a proxy start the server with its "
                    "name as --allow-host",
                )
        if headers.get("sec-fetch-site") == "cross-site":
            raise WebError(403, "cross_site", "a page of another site may not send anything here")

    def _is_allowed_elsewhere(self, name: str) -> bool:
        """Whether pages of any port of that name are this server's; on one machine, others may serve other ports."""
        return name in self._hosts and not _is_loopback(name)


def _bounded(receive: Receive) -> Receive:
    received = 0

    async def bounded_receive() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise _too_large()
        return message

    return bounded_receive


def _is_upload(scope: Scope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"] == UPLOADS_PATH)


def _too_large() -> WebError:
    return WebError(413, "too_large", f"the body of the request has more than {MAX_BODY_BYTES:,} bytes")


def _name_of(host: str) -> str:
    """A `Host` header without its port; an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _authority_of(text: str) -> str:
    """Name and port, in lower case and without the port that is meant where none stands."""
    name, colon, port = text.lower().rpartition(":")
    return name if colon and port in ("80", "443") else text.lower()


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False

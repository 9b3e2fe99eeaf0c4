"""Whether a Prefect server is where the settings say, in words that name the mend. Prefect is not imported."""

from __future__ import annotations

import http.client
import os
import urllib.request
from urllib.parse import urlsplit

from vlmvid.config.addresses import open_http, without_secrets
from vlmvid.errors import ConfigError

API_VARIABLE = "PREFECT_API_URL"
EXAMPLE = "http://127.0.0.1:4200/api"


def check_api_url(url: str | None = None) -> None:
    """Raise ConfigError for an address of Prefect's API, by default PREFECT_API_URL, that is none.

    Nothing is said of one that is not set: Prefect then starts a server of its own.
    """
    url = os.environ.get(API_VARIABLE, "") if url is None else url
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.netloc)
    except ValueError:
        is_address = False
    if url and not is_address:
        raise ConfigError(
            f"{API_VARIABLE}={without_secrets(url)!r} is no address of a Prefect server: it must begin with http:// "
            f"or https://, as {EXAMPLE} does; set it so, or unset it"
        )


def require_api(url: str | None, *, timeout_seconds: float = 10.0) -> str:
    """The address, once a server has answered there.

    Raises ConfigError when there is no address, when it is none, and when nothing that speaks for Prefect answers.
    """
    if not url:
        raise ConfigError(
            f"{API_VARIABLE} is not set, so there is no Prefect server to serve deployments for; start one with "
            f"`prefect server start` and set {API_VARIABLE}={EXAMPLE}"
        )
    check_api_url(url)
    health = url.rstrip("/") + "/health"
    try:
        request = urllib.request.Request(health)  # noqa: S310  # open_http opens http and https alone
        with open_http(request, timeout_seconds) as answer:
            answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConfigError(
            f"no Prefect server answers at {API_VARIABLE}={without_secrets(url)!r} ({error}); start it with "
            "`prefect server start`, or correct the address, which ends in /api"
        ) from error
    return url

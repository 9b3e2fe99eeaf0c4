"""Which addresses the library opens, what may not stand in one, and how one is opened.

What the user names himself (the home, the tracking service, a model, a judge) goes through `check_address`. What others
wrote (manifests, captions, annotation files) names files of this machine alone: `vlmvid.video.paths` refuses the rest,
so no data makes the library fetch an address.
"""

from __future__ import annotations

import base64
import re
import urllib.request
from collections.abc import Mapping
from typing import IO, Annotated, Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import AfterValidator

from vlmvid.errors import ConfigError

AddressUse = Literal["home", "tracking", "model", "judge", "media"]
ALLOWED_SCHEMES: Mapping[AddressUse, tuple[str, ...]] = {
    "home": ("file", "local", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"),
    "tracking": ("http", "https", "sqlite", "postgresql", "mysql", "mssql"),
    "model": ("models", "runs"),
    "judge": ("http", "https"),
    "media": ("file",),
}
"""What may stand before ``:/`` for each use; the driver of a database (``postgresql+psycopg2``) does not count."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# Two letters at least: one is a drive of Windows.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s'\"]*@")
# What SQLAlchemy takes for a password may hold what ends the host of other addresses.
_DATABASE_PASSWORD = re.compile(r"((?:postgresql|mysql|mssql)(?:\+\w+)?://)[^:/@\s'\"]*:[^@\s'\"]+@")
_SECRET_NAMES = r"[\w.-]*(?:password|passwd|pwd|secret|token|api[_-]?key|signature|credential)[\w.-]*|key|sig"
_SECRET_FIELD = re.compile(rf"(?i)([?&](?:{_SECRET_NAMES})=)[^&#\s]+")


def scheme_of(address: str) -> str | None:
    """What stands before ``:/``, in small letters and without a database's driver; None for a path."""
    match = _SCHEME.match(address)
    if match is None:
        return None
    whole, base = match[1].lower(), match[1].lower().partition("+")[0]
    return base if base in _DATABASES else whole


def check_address(address: str, use: AddressUse, name: str) -> str:
    """`address`, when its scheme is one that `use` allows.

    Args:
        address: what was given as `name`.
        use: what it is for; homes and models may be folders, which have no scheme.
        name: the option or variable, for the message.

    Raises ConfigError for another scheme, and for several addresses in one (``zip::s3://``).
    """
    allowed, scheme = ALLOWED_SCHEMES[use], scheme_of(address)
    if scheme in allowed or (scheme is None and use in ("home", "model") and "::" not in address.partition("://")[0]):
        return address
    raise ConfigError(
        f"{name}={without_secrets(address)!r} is an address of {f'the scheme {scheme!r}' if scheme else 'no scheme'}, "
        f"which is not opened here; allowed: {', '.join(allowed)}"
    )


def check_no_secret(address: str, name: str, mend: str) -> str:
    """`address`, when there is no password and no field such as ``token`` in it, because it will be written down.

    Raises ConfigError, which names `name` and says `mend`, and does not repeat the secret.
    """
    if holds_secret(address):
        raise ConfigError(
            f"{name}={without_secrets(address)!r} was given with a password, token or key in it, which would be kept "
            f"with the recipe and its runs; {mend}"
        )
    return address


def holds_secret(address: str) -> bool:
    """Whether the address has a password (a user alone is none), or a field that is named as one."""
    if _DATABASE_PASSWORD.match(address):
        return True
    try:
        password = urlsplit(address).password
    except ValueError:  # no address at all
        return False
    return bool(password) or _SECRET_FIELD.search(address) is not None


def without_secrets(text: str) -> str:
    """`text` as it may be shown: addresses in it without user and password, and without the values of secret fields."""
    return _SECRET_FIELD.sub(r"\1***", _USER_INFO.sub(r"\1", _DATABASE_PASSWORD.sub(r"\1", text)))


def open_http(request: urllib.request.Request, timeout_seconds: float) -> IO[bytes]:
    """The answer to a request over ``http`` or ``https``; a user and password in its address go into its headers.

    A redirection is not followed, but raised as HTTPError: it would take the request, and a key in it, to an address
    that nobody named. Raises ConfigError for another scheme, else as `urllib.request.urlopen`.
    """
    if request.type not in ("http", "https"):
        raise ConfigError(f"{without_secrets(request.full_url)!r} is no http or https address, so it is not opened")
    parts = urlsplit(request.full_url)
    if "@" in parts.netloc:  # urllib takes them for a part of the host's name, and says them when it finds no such host
        request.full_url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        if not request.has_header("Authorization"):
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    answer: IO[bytes] = urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_seconds)
    return answer


def _tracking_address(value: str) -> str:
    mend = "give it without, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
    return check_no_secret(check_address(value, "tracking", "tracking address"), "tracking address", mend)


TrackingAddress = Annotated[str, AfterValidator(_tracking_address)]
"""A tracking address in a recipe: of an allowed scheme, and without a password."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *request: Any) -> None:
        """Nothing in the place of the request, so that the redirection itself is the answer."""

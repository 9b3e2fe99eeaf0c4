"""What the versions of registered models refer to, for those who clean up."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from vlmvid.tracking.mlflow_calls import mlflow_calls, new_client
from vlmvid.tracking.outage import probe

_PAGE = 1000
_SECONDS = 20.0


def registered_words(tracking_uri: str) -> set[str]:
    """The values of all tags of all versions of all registered models, among them their keys and fingerprints.

    An SQLite file that does not exist has none. Raises TrackingError when the registry does not answer.
    """
    parts = urlsplit(tracking_uri)
    if parts.scheme.startswith("sqlite") and not Path(parts.path[1:]).is_file():
        return set()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    probe(tracking_uri, must_exist=True)
    found: set[str] = set()
    with mlflow_calls(_SECONDS):
        client = new_client(tracking_uri)
        token = None
        while True:
            page = client.search_model_versions("", max_results=_PAGE, page_token=token)
            for version in page:
                found |= {str(value) for value in version.tags.values()}
            token = page.token
            if not token:
                return found

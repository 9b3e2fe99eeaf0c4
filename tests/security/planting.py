"""Secrets that are put into the environment of a run, and the look for them in everything that it wrote."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

PASSWORD = "hunter2-planted/über"
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-7c1f",
    "AWS_SECRET_ACCESS_KEY": "planted-s3-4b9d",
    "AWS_SESSION_TOKEN": "planted-s3-session-19ac",
    "HF_TOKEN": "hf_planted5e0a",
    "OPENAI_API_KEY": "sk-planted-93f2",
}


def with_password(uri: str) -> str:
    """An ``http://`` address with a user and the password in it."""
    return uri.replace("http://", f"http://planted-user:{quote(PASSWORD, safe='')}@")


def found_in(text: bytes) -> list[str]:
    """Which of the secrets are in `text`: as they are, quoted for an address, or in base64."""
    values = {"password": PASSWORD, **SECRETS}
    pair = base64.b64encode(f"planted-user:{PASSWORD}".encode())
    forms = {
        name: {value.encode(), quote(value, safe="").encode(), base64.b64encode(value.encode())}
        for name, value in values.items()
    }
    forms["password"].add(pair)
    forms["password"].add(PASSWORD.encode("unicode_escape"))
    return sorted(name for name, written in forms.items() if any(form in text for form in written))


def leaks(folders: Iterable[Path]) -> dict[str, list[str]]:
    """The files below `folders` with a secret in them, and which."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): names for path in files if (names := found_in(path.read_bytes()))}


def holds(folder: Path, words: str) -> bool:
    """Whether any file below `folder` has `words` in it: that the look would find a secret there."""
    return any(words.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())

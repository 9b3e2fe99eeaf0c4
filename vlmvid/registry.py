"""One registry type for datasets, backbones, readers, losses, tasks and whatever comes next."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from vlmvid.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, known: list[str]) -> str:
    """A hint ``" (did you mean 'x'?)"``, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Registry(Generic[T]):
    """Names to entries; a duplicate raises, an unknown name lists the known ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Add `entry` under `name` and return it; raises ConfigError for a name that is taken."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is registered twice; choose another name")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The entry called `name`; raises ConfigError with the known names."""
        if name not in self._entries:
            known = self.names()
            raise ConfigError(f"unknown {self.kind} {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        return self._entries[name]

    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

"""The zoo's files, written once per test run, each when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.zoo.broken import BROKEN, Broken
from tests.zoo.codes import Code
from tests.zoo.inspecting import Inspector
from tests.zoo.sound import SOUND


class Zoo:
    """Files by name; `codes` tells what the frames of a sound one say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound = {member.name: member for member in SOUND}
        self._codes: dict[str, Sequence[Code]] = {}

    def path(self, name: str) -> Path:
        """A sound member's file."""
        if name not in self._codes:
            self._codes[name] = self._sound[name].make(self.folder / name)
        return self.folder / name

    def codes(self, name: str) -> list[Code]:
        """What the frames of a sound member say, in order of presentation."""
        self.path(name)
        return list(self._codes[name])

    def broken(self, member: Broken) -> Path:
        """A broken member's file or folder."""
        path = self.folder / f"broken_{member.name}"
        if not path.exists():
            member.make(self.path, path)
        return path


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def inspector() -> Iterator[Inspector]:
    with Inspector() as inspector:
        yield inspector


@pytest.fixture(scope="session", autouse=True)
def names_differ() -> None:
    for members in (SOUND, BROKEN):
        names = [member.name for member in members]
        assert len(set(names)) == len(names), "two members of the zoo share a name"

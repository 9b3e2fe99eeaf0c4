"""Search expressions and batch sizes as MLflow's API takes them; no connection needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# MLflow refuses more params or tags in one call.
_ITEMS_PER_BATCH = 100


def tags_filter(tags: Mapping[str, str]) -> str:
    """The search expression for runs or versions that carry all of `tags`."""
    return " and ".join(f"tags.`{key}` = {quoted(value)}" for key, value in tags.items())


def quoted(value: str) -> str:
    """A string literal of the search language, which knows no escapes but two kinds of quotes."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def in_batches(items: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
    """The items in lists that one call may hold."""
    pairs = list(items.items())
    for start in range(0, len(pairs), _ITEMS_PER_BATCH):
        yield pairs[start : start + _ITEMS_PER_BATCH]

"""One example per benchmark, in its authors' exact format: the rows of tests/contracts/test_benchmarks.py."""

from __future__ import annotations

import importlib
import pkgutil

from tests.evaluation.examples.base import Example


def all_examples() -> dict[str, Example]:
    found: dict[str, Example] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base":
            for example in importlib.import_module(f"{__name__}.{module.name}").EXAMPLES:
                assert example.name not in found, example.name
                found[example.name] = example
    return found

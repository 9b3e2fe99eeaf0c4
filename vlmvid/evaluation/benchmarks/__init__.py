"""Benchmarks by name: one file each.

A benchmark is a module with a `BENCHMARK`, or, where it differs from others in its columns only, a YAML file below
`declared`. They are imported by name, so that a score loads, and a stage key depends on, the one that it needs.
"""

from __future__ import annotations

import importlib
from functools import cache

from vlmvid.evaluation.scoring.base import Benchmark
from vlmvid.registry import Registry

# name -> the module below this package that holds BENCHMARK, or NAME.yaml below `declared`
BENCHMARKS: Registry[str] = Registry("benchmark")
# retrieval
# question answering, open
# question answering, multiple choice
# captioning
# hallucination
BENCHMARKS.register("pope", "hallucination.pope")
# bias
# composition and time
# zero-shot, grounding


@cache
def get_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`; raises ConfigError with the known names."""
    place = BENCHMARKS.get(name)
    if place.endswith(".yaml"):
        from vlmvid.evaluation.scoring.declared import read_declared

        return read_declared(place)
    module = importlib.import_module(f"vlmvid.evaluation.benchmarks.{place}")
    benchmark: Benchmark = module.BENCHMARK
    return benchmark


__all__ = ["BENCHMARKS", "Benchmark", "get_benchmark"]

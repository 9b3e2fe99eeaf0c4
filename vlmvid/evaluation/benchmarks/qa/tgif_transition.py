"""TGIF-QA transition: five options (arXiv 1704.04497); files and scorer as in `tgif_qa`."""

from vlmvid.evaluation.benchmarks.qa.tgif_qa import choice_benchmark

BENCHMARK = choice_benchmark("transition")

"""CPU time of `vlmvid score` at the size of MSRVTT-QA's test split: 72,821 answers about 2,990 videos.

    python -m benchmarks.evaluate_answers --out evaluate_answers.json

Made-up questions in the authors' format. The stages are those of ``vlmvid score``: read the annotation file, read the
predictions, score (parse, compare, aggregate with 1,000 bootstrap resamples and baselines), write the samples as
Parquet. Figures are CPU seconds of the whole process, all threads, without imports; the median of three runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vlmvid.evaluation.benchmarks import get_benchmark
from vlmvid.evaluation.runner import write_samples
from vlmvid.evaluation.scoring.base import ScoreSettings
from vlmvid.evaluation.scoring.predictions import read_predictions

NUM_ANSWERS, NUM_VIDEOS, NUM_WORDS = 72_821, 2_990, 4_000
RUNS = 3
TARGET_SECONDS = 2.0
T = TypeVar("T")


def write_files(folder: Path, num_answers: int = NUM_ANSWERS) -> tuple[Path, Path]:
    """An annotation file and predictions that are right about 40 % of the time."""
    rng = random.Random(0)
    words = [f"word{number}" for number in range(NUM_WORDS)]
    weights = [1 / (rank + 1) for rank in range(NUM_WORDS)]
    answers = rng.choices(words, weights, k=num_answers)
    guesses = rng.choices(words, weights, k=num_answers)
    starts = rng.choices(("what", "who", "how", "when", "where", "what color"), (66, 28, 3, 1, 1, 1), k=num_answers)
    rows = [
        {
            "answer": answer,
            "category_id": number % 20,
            "id": number,
            "question": f"{start} is shown while a person talks about thing {number % 97}?",
            "video_id": 7010 + number * NUM_VIDEOS // num_answers,
        }
        for number, (answer, start) in enumerate(zip(answers, starts, strict=True))
    ]
    said = {
        str(number): answer if rng.random() < 0.38 else guess
        for number, (answer, guess) in enumerate(zip(answers, guesses, strict=True))
    }
    references, predictions = folder / "test_qa.json", folder / "predictions.json"
    references.write_text(json.dumps(rows), encoding="utf-8")
    predictions.write_text(json.dumps(said), encoding="utf-8")
    return references, predictions


def timed(seconds: dict[str, float], stage: str, work: Callable[[], T]) -> T:
    """`work()`; its CPU seconds go into `seconds` under `stage`."""
    start = time.process_time()
    result = work()
    seconds[stage] = time.process_time() - start
    return result


def one_run(references: Path, predictions: Path, samples: Path) -> tuple[dict[str, float], float]:
    """CPU seconds of each stage, and the accuracy."""
    benchmark, settings = get_benchmark("msrvtt_qa"), ScoreSettings()
    seconds: dict[str, float] = {}
    items = timed(seconds, "read_references", lambda: benchmark.read(references, {}))
    answers = timed(seconds, "read_predictions", lambda: read_predictions(predictions))
    result = timed(seconds, "score", lambda: benchmark.scorer(settings)(items, answers, settings))
    timed(seconds, "write_samples", lambda: write_samples(result.samples, samples))
    return {**seconds, "total": sum(seconds.values())}, result.metrics[0].value


def measure(num_answers: int = NUM_ANSWERS, runs: int = RUNS) -> dict[str, Any]:
    """Median CPU seconds of each stage over `runs`, after one run that loads what is imported lazily."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        references, predictions = write_files(folder, num_answers)
        one_run(references, predictions, folder / "samples.parquet")
        found = [one_run(references, predictions, folder / "samples.parquet") for _ in range(runs)]
    stages = {stage: round(statistics.median(run[stage] for run, _ in found), 3) for stage in found[0][0]}
    return {
        "num_answers": num_answers,
        "cpu_seconds": stages,
        "target_cpu_seconds": TARGET_SECONDS,
        "accuracy": found[0][1],
        "runs": runs,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(measure(), indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

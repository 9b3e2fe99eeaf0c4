"""COCO (arXiv 1405.0312) image-text retrieval in Karpathy's split: 5,000 test pictures."""

from __future__ import annotations

from vlmvid.evaluation.benchmarks.retrieval.karpathy import COLUMNS, OPTIONS, PUBLISHER, reader
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile

FILE = AnnotationFile("dataset_coco.json", COLUMNS, PUBLISHER)
BENCHMARK = retrieval_benchmark(
    Dataset(
        "coco_karpathy",
        "COCO image-text retrieval, Karpathy's split",
        "arXiv 1405.0312; CVPR 2015 (split)",
        (FILE,),
        reader(FILE),
        OPTIONS,
        defaults={"split": "test"},
    )
)

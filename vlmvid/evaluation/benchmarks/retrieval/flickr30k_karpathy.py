"""Flickr30k (TACL 2014) image-text retrieval in Karpathy's split: 1,000 test pictures."""

from __future__ import annotations

from vlmvid.evaluation.benchmarks.retrieval.karpathy import COLUMNS, OPTIONS, PUBLISHER, reader
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile

FILE = AnnotationFile("dataset_flickr30k.json", COLUMNS, PUBLISHER)
BENCHMARK = retrieval_benchmark(
    Dataset(
        "flickr30k_karpathy",
        "Flickr30k image-text retrieval, Karpathy's split",
        "TACL 2014; CVPR 2015 (split)",
        (FILE,),
        reader(FILE),
        OPTIONS,
        defaults={"split": "test"},
    )
)

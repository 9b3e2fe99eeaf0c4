"""The splits of Karpathy and Fei-Fei (CVPR 2015): five captions a picture, each with an id of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.retrieval.reading import text_item
from vlmvid.evaluation.scoring.base import AnnotationFile, Item, Read
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, unique_items

PUBLISHER = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
COLUMNS = ("images", "filename", "split", "sentences", "sentid", "raw")
OPTIONS = {"split": "test (default), val, restval (COCO) or train"}


def reader(file: AnnotationFile) -> Read:
    """Items are captions, called by `sentid`; their picture is called by its file name."""

    def read(path: Path, options: Mapping[str, str]) -> list[Item]:
        split = choose(options, "split", ("test", "val", "restval", "train"))
        found = find_file(path, file)
        items = []
        try:
            for image in read_json(found, dict, file)["images"]:
                if image["split"] == split:
                    name = str(image["filename"])
                    items += [text_item(str(some["sentid"]), str(some["raw"]), [name]) for some in image["sentences"]]
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{found} is not in Karpathy's format: {error!r}; expected images with filename, split and sentences "
                "of sentid and raw"
            ) from error
        return unique_items(items, found)

    return read

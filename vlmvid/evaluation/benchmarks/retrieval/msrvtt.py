"""MSR-VTT (CVPR 2016): 1k-A (JSFusion's test pairs, as CLIP4Clip has them) or the official test split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError, MissingDataError
from vlmvid.evaluation.benchmarks.retrieval.reading import caption_items, named, text_item
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, read_table, unique_items

SPLITS = ("1k-A", "full")
TRAIN_LISTS = ("unnamed", "9k", "7k")
PUBLISHER = "https://github.com/ArrowLuo/CLIP4Clip (releases, msrvtt_data.zip)"
PAIRS = AnnotationFile("MSRVTT_JSFUSION_test.csv", ("key", "vid_key", "video_id", "sentence"), PUBLISHER)
OFFICIAL = AnnotationFile("test_videodatainfo.json", ("videos", "sentences"), "http://ms-multimedia-challenge.com")
DATA = AnnotationFile("MSRVTT_data.json", ("videos", "sentences"), PUBLISHER)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """1k-A: one sentence for each of 1,000 videos, called by its `key`; full: all captions, called by `sen_id`.

    The list that the model was trained with changes nothing here, only the protocol's words.
    """
    choose(options, "train_list", TRAIN_LISTS)
    if choose(options, "split", SPLITS) == "1k-A":
        _require_pairs(path, options)
        file = find_file(path, PAIRS)
        rows = read_table(file, PAIRS)
        return unique_items([text_item(row["key"], row["sentence"], [row["video_id"]]) for row in rows], file)
    if path.is_file() or any(path.rglob(OFFICIAL.name)):
        return _full(find_file(path, OFFICIAL), OFFICIAL)
    return _full(find_file(path, DATA), DATA)


def _require_pairs(path: Path, options: Mapping[str, str]) -> None:
    """Say which split the files are for, where they are not for 1k-A."""
    official = [path] if path.is_file() and path.suffix == ".json" else sorted(path.rglob(OFFICIAL.name))
    if official and not any(path.rglob(PAIRS.name)):
        named = "asked for" if "split" in options else "the default"
        raise MissingDataError(
            f"there is no {PAIRS.name} at {path}, which the split 1k-A has ({PAIRS.publisher}), and that is {named}; "
            f"{official[0].name} is read with -o split=full"
        )


def _full(path: Path, file: AnnotationFile) -> list[Item]:
    document = read_json(path, dict, file)
    try:
        videos = [video for video in document["videos"] if str(video.get("split", "test")) == "test"]
        wanted = [str(video["video_id"]) for video in videos]
        captions: dict[str, list[tuple[str, str]]] = {}
        for row in document["sentences"]:
            captions.setdefault(str(row["video_id"]), []).append((str(row["sen_id"]), str(row["caption"])))
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} is not MSR-VTT's: {error!r}; expected videos with video_id and split, and sentences with "
            "video_id, caption and sen_id"
        ) from error
    of_split = named(wanted, {name: [text for _, text in pairs] for name, pairs in captions.items()}, path)
    caption_items(of_split, path)  # says which video has no caption
    items = [text_item(key, text, [name]) for name in of_split for key, text in captions[name]]
    return unique_items(items, path)


BENCHMARK = retrieval_benchmark(
    Dataset(
        "msrvtt",
        "MSR-VTT text-video retrieval",
        "MSR-VTT, CVPR 2016",
        (PAIRS, OFFICIAL, DATA),
        read,
        {
            "split": "1k-A (default): 1,000 pairs; full: the 2,990 test videos of the JSON with all their captions",
            "train_list": "unnamed (default), 9k or 7k: the videos that the model was trained on, for the protocol",
        },
        defaults={"split": SPLITS[0], "train_list": TRAIN_LISTS[0]},
    )
)

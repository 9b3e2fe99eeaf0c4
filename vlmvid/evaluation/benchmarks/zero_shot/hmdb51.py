"""HMDB51: actions in clips of films and of the web (Kuehne et al., ICCV 2011)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError, MissingDataError
from vlmvid.evaluation.answers.label import plain_label
from vlmvid.evaluation.benchmarks.zero_shot.class_scores import OPTIONS, class_item, class_scorer, templates
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import choose, read_text, unique_items

FILE = AnnotationFile(
    "CLASS_test_split1.txt",
    ("NAME.avi USE (0 unused, 1 train, 2 test)",),
    "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database (testTrainMulti_7030_splits)",
)
_TEST = "2"


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The test clips of one of the three splits, from one file per class; ids are the clip's name without its suffix.

    Classes are those of the files, sorted. Names that differ in their last number only are parts of one video.
    """
    ending = f"_test_split{choose(options, 'split', ('1', '2', '3'))}.txt"
    files = sorted(path.rglob(f"*{ending}")) if path.is_dir() else []
    if not files:
        raise MissingDataError(
            f"there is no *{ending} in the folder {path}; its authors publish the files at {FILE.publisher}; each line "
            f"is {FILE.columns[0]}"
        )
    names = sorted({file.name.removesuffix(ending) for file in files})
    classes = tuple(plain_label(name) for name in names)
    shown = templates(options, "action")
    items = []
    for file in files:
        name = file.name.removesuffix(ending)
        for number, line in enumerate(read_text(file, FILE).splitlines(), start=1):
            words = line.rsplit(maxsplit=1)  # lines end in a space
            if words and (len(words) != 2 or words[1] not in ("0", "1", _TEST)):
                raise DatasetError(f"{file}, line {number}: {line!r:.80} is not {FILE.columns[0]}")
            if words and words[1] == _TEST:
                stem = words[0].removesuffix(".avi")
                media = Media(f"{name}/{words[0]}")
                items.append(class_item(stem, stem.rpartition("_")[0], media, names.index(name), classes, shown))
    return unique_items(items, path)


BENCHMARK = Benchmark(
    name="hmdb51",
    title="HMDB51 (test of split 1)",
    kind="classification",
    source="ICCV 2011",
    files=(FILE,),
    read=read,
    score=class_scorer("hmdb51"),
    options={**OPTIONS, "split": "1, 2 or 3"},
)

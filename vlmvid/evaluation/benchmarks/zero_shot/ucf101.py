"""UCF101: actions in clips of 25 groups, each from one source (arXiv 1212.0402)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers.label import plain_label
from vlmvid.evaluation.benchmarks.zero_shot.class_scores import OPTIONS, class_item, class_scorer, index_of, templates
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import choose, find_file, read_text, unique_items

PUBLISHER = "https://www.crcv.ucf.edu/data/UCF101.php (UCF101TrainTestSplits-RecognitionTask)"
FILE = AnnotationFile("testlist01.txt", ("CLASS/v_CLASS_gNN_cNN.avi",), PUBLISHER)
CLASSES = AnnotationFile("classInd.txt", ("NUMBER CLASS",), PUBLISHER)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The clips of one of the three test lists; ids are the clip's name without its suffix.

    Class numbers count from 1 in the file, indices here from 0; ``ApplyEyeMakeup`` is shown as "apply eye makeup".
    Clips of one group are parts of one video, and one cluster.
    """
    split = choose(options, "split", ("1", "2", "3"))
    found = find_file(path, FILE, f"testlist0{split}.txt")
    listed = find_file(found.parent, CLASSES)
    names = [line.split()[-1] for line in read_text(listed, CLASSES).splitlines() if line.strip()]
    places = {name: place for place, name in enumerate(names)}
    classes = tuple(plain_label(name) for name in names)
    shown = templates(options, "action")
    items = []
    for number, line in enumerate(read_text(found, FILE).splitlines(), start=1):
        if line.strip():
            where = f"{found}, line {number}"
            folder, separator, name = line.split()[0].partition("/")  # train lists hold the class number after a space
            if not separator:
                raise DatasetError(f"{where}: {line!r:.80} is not {FILE.columns[0]}")
            stem = name.removesuffix(".avi")
            answer = index_of(folder, places, where)
            items.append(class_item(stem, stem.rpartition("_")[0], Media(f"{folder}/{name}"), answer, classes, shown))
    return unique_items(items, found)


BENCHMARK = Benchmark(
    name="ucf101",
    title="UCF101 (test list 1)",
    kind="classification",
    source="arXiv 1212.0402",
    files=(FILE, CLASSES),
    read=read,
    score=class_scorer("ucf101"),
    options={**OPTIONS, "split": "1, 2 or 3"},
)

"""ImageNet-1k: pictures of a thing (arXiv 1409.0575), with the lists that Caffe distributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.zero_shot.class_scores import OPTIONS, class_item, class_scorer, templates
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import find_file, read_text, unique_items

PUBLISHER = "https://github.com/BVLC/caffe (data/ilsvrc12/get_ilsvrc_aux.sh)"
FILE = AnnotationFile("val.txt", ("NAME.JPEG INDEX",), PUBLISHER)
CLASSES = AnnotationFile("synset_words.txt", ("SYNSET NAME, SYNONYM, ...",), PUBLISHER)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The pictures of ``val.txt``, with the classes of ``synset_words.txt`` in its order; ids are names without suffix.

    The name of a class is its first synonym. Some classes share it (two are called crane), so that names alone cannot
    tell them apart: the option `classes` takes a file with better names, one per line in the same order.
    """
    found = find_file(path, FILE)
    wanted = options.get("classes")
    listed = Path(wanted) if wanted else find_file(found.parent, CLASSES)
    lines = [line.strip() for line in read_text(listed, CLASSES).splitlines() if line.strip()]
    classes = tuple(lines if wanted else (line.partition(" ")[2].partition(",")[0] for line in lines))
    shown = templates(options, "image")
    items = []
    for number, line in enumerate(read_text(found, FILE).splitlines(), start=1):
        words = line.split()
        if words and (len(words) != 2 or not words[1].isdigit() or int(words[1]) >= len(classes)):
            raise DatasetError(
                f"{found}, line {number}: {line!r:.80} is not {FILE.columns[0]} with an index below {len(classes)}"
            )
        if words:
            stem = Path(words[0]).stem
            items.append(class_item(stem, stem, Media(words[0]), int(words[1]), classes, shown))
    return unique_items(items, found)


BENCHMARK = Benchmark(
    name="imagenet",
    title="ImageNet-1k (validation)",
    kind="classification",
    source="arXiv 1409.0575",
    files=(FILE, CLASSES),
    read=read,
    score=class_scorer("imagenet"),
    options={**OPTIONS, "classes": "a file with one name per class, in the order of the indices"},
)

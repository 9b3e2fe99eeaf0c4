"""How a model of two encoders answers benchmarks: by the similarity of what is shown with what is said.

What it answers becomes `Predictions` like those that people write to files, and is scored by the same functions.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError
from vlmvid.evaluation.base import EmbedTexts, group_by
from vlmvid.evaluation.cosines import pair_similarity, similarity_blocks
from vlmvid.evaluation.prompts import class_embeddings, templates_of
from vlmvid.evaluation.scoring.base import Benchmark, Item, Media
from vlmvid.evaluation.scoring.predictions import Predictions

SOURCE = "the aligned model"


class ScoreRow(array):  # type: ignore[type-arg]
    """The scores of one item as a sequence of floats, in an eighth of the memory of a list of them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(self.tolist())


class MediaEmbeddings(Protocol):
    """Embeddings of media that were made before."""

    def row_of(self, media: Media) -> int | None:
        """The row of `media` in `embeds`; None for what could not be read."""
        ...

    @property
    def embeds(self) -> NDArray[np.float32]:
        """Float32 (N, D), L2-normalised."""
        ...


def answer(benchmark: Benchmark, items: Sequence[Item], media: MediaEmbeddings, embed_texts: EmbedTexts) -> Predictions:
    """The model's predictions; an item whose media could not be read has none.

    - ``choice``: a list of scores, one for each choice; the text that is compared is ``"{question} {choice}"``, or the
      choice alone where there is no question.
    - ``matrix``: for each of the M media a list of scores with the T texts.
    - ``classification``: as ``choice``, with the mean embedding of each class over the templates of its prompts.
    - ``retrieval``: the embeddings themselves, which its scorer compares tile by tile.

    Raises ConfigError for a benchmark that wants words.
    """
    answerers: dict[str, Callable[..., Predictions]] = {
        "choice": _choices,
        "matrix": _matrices,
        "classification": _classes,
        "retrieval": _retrieval,
    }
    if benchmark.kind not in answerers:
        raise ConfigError(f"{benchmark.name} wants answers of kind {benchmark.kind!r}; similarities cannot give them")
    return answerers[benchmark.kind](items, media, embed_texts)


def _choices(items: Sequence[Item], media: MediaEmbeddings, embed_texts: EmbedTexts) -> Predictions:
    asked = [item for item in items if _rows(item, media) is not None]
    texts = [f"{item.question} {choice}".strip() for item in asked for choice in item.choices]
    scores = iter(_pairs(asked, texts, media, embed_texts))
    return Predictions({item.item_id: [next(scores) for _ in item.choices] for item in asked}, SOURCE)


def _matrices(items: Sequence[Item], media: MediaEmbeddings, embed_texts: EmbedTexts) -> Predictions:
    asked = [item for item in items if _rows(item, media) is not None]
    texts = [choice for item in asked for _ in item.media for choice in item.choices]
    scores = iter(_pairs(asked, texts, media, embed_texts))
    return Predictions(
        {item.item_id: [[next(scores) for _ in item.choices] for _ in item.media] for item in asked}, SOURCE
    )


def _classes(items: Sequence[Item], media: MediaEmbeddings, embed_texts: EmbedTexts) -> Predictions:
    values: dict[str, ScoreRow] = {}
    asked = [item for item in items if _rows(item, media) is not None]
    for same in group_by(asked, lambda item: (item.choices, templates_of(item))).values():
        classes = class_embeddings(same[0].choices, templates_of(same[0]), embed_texts)
        shown = media.embeds[[row for item in same for row in (_rows(item, media) or ())[:1]]]
        for rows, scores in similarity_blocks(shown, classes):
            values |= {item.item_id: ScoreRow("f", row.tobytes()) for item, row in zip(same[rows], scores, strict=True)}
    return Predictions({item.item_id: values[item.item_id] for item in asked}, SOURCE)


def _retrieval(items: Sequence[Item], media: MediaEmbeddings, embed_texts: EmbedTexts) -> Predictions:
    shown = {some.name: row for item in items for some in item.media if (row := media.row_of(some)) is not None}
    texts = [item.choices[0] for item in items]
    return Predictions(
        {
            "text_embeds": embed_unique(texts, embed_texts),
            "video_embeds": media.embeds[list(shown.values())],
            "text_ids": [item.item_id for item in items],
            "video_ids": list(shown),
        },
        SOURCE,
    )


def embed_unique(texts: Sequence[str], embed_texts: EmbedTexts) -> NDArray[np.float32]:
    """Embeddings (M, D) of `texts`; equal ones are embedded once, so that they tie exactly."""
    unique = list(dict.fromkeys(texts))
    row = {text: number for number, text in enumerate(unique)}
    embeds: NDArray[np.float32] = np.asarray(embed_texts(unique), dtype=np.float32)[[row[text] for text in texts]]
    return embeds


def _pairs(asked: Sequence[Item], texts: Sequence[str], media: MediaEmbeddings, embed_texts: EmbedTexts) -> list[float]:
    """Similarity of every media of every item with each of its choices, in that order."""
    if not asked:
        return []
    rows = [row for item in asked for row in _rows(item, media) or () for _ in item.choices]
    return [float(score) for score in pair_similarity(media.embeds[rows], embed_unique(texts, embed_texts))]


def _rows(item: Item, media: MediaEmbeddings) -> list[int] | None:
    rows = [media.row_of(some) for some in item.media]
    found = [row for row in rows if row is not None]
    return found if found and len(found) == len(rows) else None

"""Open-vocabulary masks of a benchmark's pictures, from the patch tokens of the aligned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vlmvid.errors import DecodeError
from vlmvid.evaluation.base import EmbedTexts
from vlmvid.evaluation.dual_encoder import SOURCE
from vlmvid.evaluation.prompts import TEMPLATES, class_embeddings
from vlmvid.evaluation.scoring.base import Item, Media
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.pipeline import end_to_end
from vlmvid.pipeline.clip_embeddings import nothing_left
from vlmvid.pipeline.context import RunContext
from vlmvid.pipeline.encode import vision_backbone
from vlmvid.pipeline.sources import SourceRow


def segment_items(
    context: RunContext, items: Sequence[Item], rows: Mapping[Media, SourceRow], embed_texts: EmbedTexts
) -> tuple[Predictions, dict[Media, DecodeError]]:
    """A mask (H, W) of class indices for each item whose picture can be read (SAIL's protocol, arXiv 2412.04616).

    Every synonym of a class is a text of its own, averaged over the templates of pictures; the best text decides.
    Beside them, why the other pictures of `rows` cannot be read.

    Raises:
        ConfigError: a backbone or feature that gives no map of patches.
        EvaluationError: no picture can be read.
    """
    from vlmvid.models.alignment import load_alignment
    from vlmvid.models.segmentation import segment_picture
    from vlmvid.video import open_video

    adapted = "vision" in context.recipe.adapted_encoders
    backbone = end_to_end.adapted_vision(context) if adapted else vision_backbone(context)
    model = load_alignment(context.folder("align"), context.device)
    synonyms = items[0].extra["synonyms"]
    names = [name for texts in synonyms for name in texts]
    classes = [index for index, texts in enumerate(synonyms) for _ in texts]
    embeds = class_embeddings(names, TEMPLATES["image"], embed_texts)
    values = {}
    failed: dict[Media, DecodeError] = {}
    for item in items:
        row = rows.get(item.media[0])
        if row is None:
            continue
        try:
            with open_video(row.path) as reader:
                picture = reader.frames_at([0]).frames[0]
        except DecodeError as error:
            failed[item.media[0]] = error  # without a mask all its pixels are wrong, and the protocol names it
            continue
        values[item.item_id] = segment_picture(backbone, model, np.ascontiguousarray(picture), embeds, classes=classes)
    if not values:
        raise nothing_left({media.name: error for media, error in failed.items()})
    return Predictions(values, SOURCE), failed

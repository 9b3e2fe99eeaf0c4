"""What the model makes of decoded videos, one after the other: embeddings, captions, answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.serving.model import VideoTextModel
from vlmvid.serving.speaker import Asked
from vlmvid.serving.visual_features import ClipFeatures, Reads, VisualFeatures
from vlmvid.types import FrameBatch


@dataclass(frozen=True)
class Look:
    """A video for the model to look at.

    Attributes:
        name: what messages call it.
        frames: as the model's decoder gives them.
        start_seconds: of the clip in its file.
        question: to be answered; None asks for a caption.
        embeds: whether its embedding is wanted, too.
        speaks: whether words are wanted.
    """

    name: str
    frames: FrameBatch
    start_seconds: float = 0.0
    question: str | None = None
    embeds: bool = False
    speaks: bool = True


@dataclass(frozen=True)
class Seen:
    """What the model makes of it: its embedding (D,), and a caption or an answer; None for what was not wanted."""

    embedding: NDArray[np.float32] | None
    words: str | None


def look(model: VideoTextModel, looks: Sequence[Look]) -> list[Seen]:
    """Look at every video; raises DecodeError for features that are not finite, ConfigError for a refused question."""
    return [_look(model, one) for one in looks]


def _look(model: VideoTextModel, one: Look) -> Seen:
    embedding = words = None
    if one.embeds:
        features = _features(model.vision, one, model.reads)
        embedding = model.embed_video_features(features.values[None])[0]
    if one.speaks:
        speaker = model.speaker
        clips = {one.name: _features(model.speaker_vision, one, speaker.reads)}
        question = speaker.caption_prompt if one.question is None else one.question
        words = speaker.answers(clips, [Asked(one.name, one.name, question)])[0]
    return Seen(embedding, words)


def _features(vision: VisualFeatures, one: Look, reads: Reads) -> ClipFeatures:
    (features,) = vision.of_clips([one.frames], [one.start_seconds], reads)
    if features.defect is not None:
        raise features.defect
    return features
